//! `kvtier config`: what a backend asks for, beside what it is granted.

use std::fs;

use crate::support;

/// Returns what `kvtier config` prints of a configuration's text, without the paths of this machine, and whether it
/// accepts the configuration.
fn inspected(text: &str) -> (String, Result<(), String>) {
    let folder = tempfile::tempdir().unwrap();
    for component in ["fs", "intruder"] {
        let name = folder.path().join(format!("{component}.wasm"));
        fs::copy(support::component(component), name).unwrap();
    }
    fs::write(folder.path().join("password"), "xyzzy-plugh").unwrap();
    let config = folder.path().join("kvtier.yaml");
    fs::write(&config, format!("{text}  kvtier.compile_cache: cache\n")).unwrap();
    let program = support::kvtier_program();
    let backends =
        kvtier_cli::commands::config::look(Some(&config), &support::compiled_by(&program)).unwrap();
    let shown = kvtier_cli::commands::config::render(&backends);
    let verdict = kvtier_cli::commands::config::ensure_usable(&backends).map_err(|error| error.to_string());
    (shown.replace(&format!("{}/", folder.path().display()), ""), verdict)
}

/// Returns the line of a table that begins with a key.
fn row<'a>(shown: &'a str, key: &str) -> &'a str {
    let found = shown.lines().find(|line| line.trim_start().starts_with(key));
    found.unwrap_or_else(|| panic!("{key} in {shown}"))
}

#[test]
fn what_a_backend_asks_for_is_shown_beside_what_it_is_granted() {
    let (shown, verdict) = inspected(
        "external_backends: disk\n\
         extra_config:\n  \
         external_backend.disk.module_path: fs.wasm\n  \
         external_backend.disk.class_name: FsBackend\n  \
         external_backend.disk.allow.fs: [\"/var/cache/kv:/data:rw\"]\n  \
         external_backend.disk.allow.net: [\"tcp://10.0.0.1:6379\"]\n  \
         external_backend.disk.secrets.password: file:password\n  \
         external_backend.disk.limits.call_timeout_ms: 500\n",
    );
    assert_eq!(verdict, Ok(()), "{shown}");
    assert!(shown.starts_with("backend disk\n  component  fs.wasm ("), "{shown}");
    assert!(row(&shown, "class").ends_with("FsBackend, fulfils the contract, async"), "{shown}");
    assert!(row(&shown, "digest").ends_with(", NOT PINNED: whatever is in the file is run"), "{shown}");
    assert!(
        row(&shown, "limits").ends_with("call_timeout_ms 500 (default 1000); otherwise the defaults"),
        "{shown}"
    );
    assert!(row(&shown, "secrets").ends_with("password from `file:password`"), "{shown}");
    let fs = row(&shown, "allow.fs");
    assert!(fs.contains("/var/cache/kv:/data:rw") && fs.ends_with("  granted"), "{shown}");
    let net = row(&shown, "allow.net");
    assert!(net.contains("tcp://10.0.0.1:6379"), "{shown}");
    let without_sockets = !shown.contains("wasi:sockets/");
    assert_eq!(net.ends_with("NOT NEEDED: the component does not import it"), without_sockets, "{shown}");
    assert!(shown.contains("what a component could use, not what it needs"), "{shown}");
    assert!(!shown.contains("xyzzy"), "{shown}");
}

#[test]
fn a_configuration_whose_backends_cannot_be_loaded_is_not_passed() {
    let (shown, verdict) = inspected(&format!(
        "external_backends: one, two, three\n\
         extra_config:\n  \
         external_backend.one.module_path: intruder.wasm\n  \
         external_backend.one.class_name: IntruderBackend\n  \
         external_backend.two.module_path: intruder.wasm\n  \
         external_backend.two.class_name: OtherBackend\n  \
         external_backend.three.module_path: intruder.wasm\n  \
         external_backend.three.class_name: IntruderBackend\n  \
         external_backend.three.digest: \"sha256:{}\"\n",
        "0".repeat(64)
    ));
    assert_eq!(verdict, Err("cannot be loaded: two, three".into()), "{shown}");
    let [one, two, three] = ["one", "two", "three"].map(|name| {
        let section = shown.split("backend ").find(|section| section.starts_with(&format!("{name}\n")));
        section.unwrap_or_else(|| panic!("{shown}"))
    });
    assert!(row(one, "allow.fs").ends_with("DENIED") && row(one, "allow.net").ends_with("DENIED"), "{one}");
    assert!(row(one, "allow.env").ends_with("sees no variable"), "{one}");
    assert!(one.contains("wasi:sockets/tcp@0.2.") && one.contains("wasi:sockets/types@0.3."), "{one}");
    assert!(row(two, "class").contains("NOT LOADABLE: "), "{two}");
    let pinned = format!("but the configuration pins sha256:{}", "0".repeat(64));
    assert!(row(three, "NOT LOADABLE").contains(&pinned), "{three}");
}
