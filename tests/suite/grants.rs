//! Accesses that were not granted: the guest is refused, and the operator and the caller learn what was denied.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use kvtier::tier::{TierError, TierHealth};
use kvtier::{BackendConfig, EngineBuilder, FsAccess, FsGrant, Miss};

use crate::support;

mod network;
mod review;

/// Both versions of WASI.
pub(crate) const CLASSES: [&str; 2] = ["IntruderBackend", "AsyncIntruderBackend"];

/// Returns an `IntruderBackend` with a unique name, which distinguishes its log lines from those of other tests.
pub(crate) fn intruder(class: &str, steps: &str) -> BackendConfig {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("intruder-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut backend = support::backend(&name, "intruder", class);
    backend.config.push(("try".into(), steps.into()));
    backend
}

/// What a backend did in a `get`, and what was reported.
pub(crate) struct Seen {
    /// The error of the call, if it failed.
    pub(crate) error: Option<TierError>,
    health: TierHealth,
    /// What the guest logged about steps that succeeded.
    pub(crate) heard: Vec<String>,
    /// What the host logged about denials.
    pub(crate) denied: Vec<String>,
}

pub(crate) fn run(backend: BackendConfig) -> Seen {
    let (log, name) = (support::log(), backend.name.clone());
    let engine = support::engine(support::config(vec![backend]));
    let found = support::get(engine.storage(), &support::keys(1));
    let error = found.misses.into_iter().find_map(|missed| match missed.miss {
        Miss::Error(error) => Some(error),
        _ => None,
    });
    let health = support::health(engine.storage(), &name);
    engine.blocking().close().unwrap();
    let denied = log.lines_with(&format!("backend=\"{name}\""));
    let denied = denied.into_iter().filter(|line| line.contains("policy::denial::backend: ")).collect();
    Seen { error, health, heard: log.heard(&name), denied }
}

/// Checks that the last step was refused, and that the error, the log and the status say what was denied and why.
pub(crate) fn assert_denied(backend: BackendConfig, what: &str, remedy: &str) {
    let (name, steps) = (backend.name.clone(), backend.config[0].1.clone());
    let seen = run(backend);
    let error = seen.error.unwrap_or_else(|| panic!("{steps}: succeeded: {:?}", seen.heard)).to_string();
    let expected = format!("; denied: {what}; {remedy}");
    assert!(error.ends_with(&expected), "{steps}\n  {error}\n  {expected}");
    let remedy = remedy.replacen("allow.", &format!("external_backend.{name}.allow."), 1);
    let told = format!("{what}; {remedy}");
    assert_eq!(seen.health.last_denial.as_deref(), Some(told.as_str()), "{steps}");
    assert!(seen.health.denials > 0, "{steps}");
    let level = if what.starts_with("directories") { "INFO" } else { "WARN" };
    let lines = seen.denied.iter().filter(|line| line.contains(level) && line.contains(&told));
    assert_eq!(lines.count(), 1, "{steps}: {:#?}", seen.denied);
}

/// A folder with a granted directory `data`, and files beside it that are not granted.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.data()).unwrap();
        fs::create_dir(folder.data().join("nested")).unwrap();
        fs::write(folder.data().join("mine"), "mine").unwrap();
        fs::write(folder.0.path().join("beside"), "not granted").unwrap();
        folder
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn granted(&self, class: &str, steps: &str, access: FsAccess) -> BackendConfig {
        let mut backend = intruder(class, steps);
        backend.allow.fs.push(FsGrant { host_dir: self.data(), guest_path: "/data".into(), access });
        backend
    }

    /// Checks that nothing outside of the granted directory has changed.
    fn assert_untouched(&self, steps: &str) {
        assert_eq!(names(self.0.path()), ["beside", "data"], "{steps}");
        assert_eq!(fs::read(self.0.path().join("beside")).unwrap(), b"not granted", "{steps}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn no_path_leads_out_of_a_granted_directory() {
    // The denial names the path of the last step.
    for steps in [
        "open /etc/passwd",
        "open /data/mine",
        "open ../beside",
        "open nested/../../beside",
        "list ..",
        "create ../out",
        "truncate ../beside",
        "mkdir ../out",
        "unlink ../beside",
        "rmdir ../data/nested",
        "readlink ../beside",
        "stat ../beside",
        "hash ../beside",
        "symlink ../beside link; open link",
        "symlink ../beside link; write link",
        "symlink ../beside link; truncate link",
        "symlink ../beside link; stat link",
        "symlink .. up; list up",
        "symlink .. up; list up/",
        "symlink .. up; open up/beside",
        "symlink ../.. nested/up; open nested/up/beside",
        "symlink .. nested/up; rename nested/up up; open up/beside",
        "symlink ../beside link; rename link renamed; open renamed",
        "symlink ../beside link; link link hard; open hard",
        "symlink nested/../../beside link; open link",
        "symlink link2 link1; symlink ../beside link2; open link1",
    ] {
        for class in CLASSES {
            let folder = Folder::new();
            let path = steps.rsplit(' ').next().unwrap();
            assert_denied(
                folder.granted(class, steps, FsAccess::ReadWrite),
                &format!("the path \"{path}\", which leads out of the granted directories"),
                "add allow.fs: [\"HOST_DIR:GUEST_PATH:ro\"]",
            );
            folder.assert_untouched(steps);
        }
    }
    for (steps, paths) in [
        ("link ../beside stolen", "../beside -> stolen"),
        ("link mine ../out", "mine -> ../out"),
        ("rename mine ../out", "mine -> ../out"),
        ("rename ../beside stolen", "../beside -> stolen"),
        ("symlink mine ../out", "mine -> ../out"),
    ] {
        for class in CLASSES {
            let folder = Folder::new();
            assert_denied(
                folder.granted(class, steps, FsAccess::ReadWrite),
                &format!("the path \"{paths}\", which leads out of the granted directories"),
                "add allow.fs: [\"HOST_DIR:GUEST_PATH:ro\"]",
            );
            folder.assert_untouched(steps);
        }
    }
}

#[test]
fn a_symlink_to_an_absolute_path_is_not_followed() {
    for class in CLASSES {
        let folder = Folder::new();
        let seen = run(folder.granted(class, "symlink /etc/passwd link; open link", FsAccess::ReadWrite));
        let error = seen.error.expect("refused").to_string();
        assert!(error.contains("; denied: the path \"/etc/passwd -> link\""), "{error}");
        // An existing link does not help either.
        std::os::unix::fs::symlink("/etc/passwd", folder.data().join("before")).unwrap();
        for steps in ["open before", "list before/", "stat before"] {
            let error = run(folder.granted(class, steps, FsAccess::ReadOnly)).error.expect(steps).to_string();
            assert!(error.contains("; denied: the path \"before"), "{error}");
        }
    }
}

#[test]
fn nothing_changes_in_a_directory_that_is_granted_for_reading() {
    for (steps, what) in [
        ("write mine", "mine"),
        ("create new", "new"),
        ("truncate mine", "mine"),
        ("resize mine", "an open file"),
        ("mkdir new", "new"),
        ("symlink mine new", "mine -> new"),
        ("link mine new", "mine -> new"),
        ("rename mine new", "mine -> new"),
        ("unlink mine", "mine"),
        ("rmdir nested", "nested"),
    ] {
        for class in CLASSES {
            let folder = Folder::new();
            assert_denied(
                folder.granted(class, steps, FsAccess::ReadOnly),
                &format!("changing \"{what}\", in a directory that is granted for reading"),
                &format!("make it allow.fs: [\"{}:/data:rw\"]", folder.data().display()),
            );
            assert_eq!(names(&folder.data()), ["mine", "nested"], "{steps}");
            assert_eq!(fs::read(folder.data().join("mine")).unwrap(), b"mine", "{steps}");
        }
    }
}

#[test]
fn what_is_granted_works_and_nothing_is_said() {
    let everything = "create new; write new; truncate new; resize mine; mkdir dir; rmdir dir; symlink mine link; \
                      readlink link; open link; link mine hard; rename hard harder; unlink harder; stat mine; hash mine; list nested";
    for class in CLASSES {
        let folder = Folder::new();
        // A file that is open for reading only cannot be resized, whatever its directory allows.
        let steps = everything.replace("resize mine; ", "");
        let seen = run(folder.granted(class, &steps, FsAccess::ReadWrite));
        assert_eq!(seen.error, None);
        assert_eq!(seen.heard.len(), steps.split(';').count(), "{:#?}", seen.heard);
        assert!(seen.heard.contains(&"open link: mine".to_owned()), "{:#?}", seen.heard);
        assert_eq!((seen.health.denials, seen.health.last_denial), (0, None));
        let seen = run(folder.granted(class, "open mine; list nested; open link", FsAccess::ReadOnly));
        assert_eq!((seen.error, seen.health.denials), (None, 0));
    }
}

#[test]
fn whoever_has_no_directory_is_told_to_ask_for_one() {
    for (class, steps) in [
        (CLASSES[0], "open mine"),
        (CLASSES[0], "std read /etc/passwd"),
        (CLASSES[0], "std write /tmp/kvtier-intruder"),
        (CLASSES[1], "open mine"),
    ] {
        assert_denied(
            intruder(class, steps),
            "directories, of which none is granted",
            "add allow.fs: [\"HOST_DIR:GUEST_PATH:ro\"]",
        );
    }
    assert!(!Path::new("/tmp/kvtier-intruder").exists());
}

#[test]
fn the_operating_systems_own_refusal_is_not_taken_for_a_missing_grant() {
    use std::os::unix::fs::PermissionsExt as _;
    for class in CLASSES {
        let folder = Folder::new();
        let mine = folder.data().join("mine");
        fs::set_permissions(&mine, fs::Permissions::from_mode(0o000)).unwrap();
        if fs::read(&mine).is_ok() {
            // The superuser is refused nothing.
            return;
        }
        let backend = folder.granted(class, "open mine", FsAccess::ReadWrite);
        let what = "the path \"mine\", by the operating system's permissions";
        assert_denied(backend, what, "let the host's user in");
    }
}

#[test]
fn a_guest_sees_no_environment_no_arguments_and_no_input() {
    assert!(std::env::var("PATH").is_ok(), "there are variables to see");
    let seen = run(intruder(CLASSES[0], "std environment; std arguments; std input; std env PATH"));
    assert_eq!(seen.heard, ["std environment: 0", "std arguments: 0", "std input: 0 bytes"]);
    assert_eq!(seen.error.unwrap().to_string(), "std env PATH: NotPresent");
    let seen = run(intruder(CLASSES[1], "environment; arguments"));
    assert_eq!(
        (seen.heard.as_slice(), seen.error),
        (&["environment: 0", "arguments: 0"].map(String::from)[..], None)
    );
}

#[test]
fn a_denial_is_logged_once_and_counted_every_time() {
    let log = support::log();
    let backend = intruder(CLASSES[1], "udp");
    let name = backend.name.clone();
    let engine = support::engine(support::config(vec![backend]));
    for _ in 0..3 {
        let found = support::get(engine.storage(), &support::keys(1));
        let error = found.misses[0].miss.to_string();
        assert!(error.ends_with("; denied: a UDP socket; no grant allows UDP"), "{error}");
    }
    assert_eq!(support::health(engine.storage(), &name).denials, 3);
    let lines = log.lines_with(&format!("backend=\"{name}\""));
    assert_eq!(
        lines.iter().filter(|line| line.contains("policy::denial::backend: ")).count(),
        1,
        "{lines:#?}"
    );
}

#[test]
fn errors_of_the_start_and_traps_carry_the_denial_too() {
    let remedy = "denied: directories, of which none is granted; add allow.fs: [\"HOST_DIR:GUEST_PATH:ro\"]";
    for (class, method) in [(CLASSES[0], "constructor"), (CLASSES[0], "open"), (CLASSES[1], "open")] {
        let mut backend = intruder(class, "open mine");
        backend.config.push(("in".into(), method.into()));
        let config = support::config(vec![backend]);
        let error = EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err().to_string();
        assert!(error.ends_with(remedy), "{error}");
    }
    let error = run(intruder(CLASSES[0], "std expect /etc/passwd")).error.expect("a trap");
    assert!(matches!(error, TierError::Trap(_)), "{error:?}");
    assert!(error.to_string().ends_with(remedy), "{error}");
}

#[test]
fn a_put_and_a_lookup_carry_the_denial_too() {
    for method in ["put", "contains"] {
        let mut backend = intruder(CLASSES[1], "udp");
        backend.config.push(("in".into(), method.into()));
        let name = backend.name.clone();
        let log = support::log();
        let engine = support::engine(support::config(vec![backend]));
        let keys = support::keys(1);
        support::put_in(engine.storage(), &keys, &name);
        support::in_tier(engine.storage(), &keys, &name);
        assert_eq!(support::health(engine.storage(), &name).denials, 1, "{method}");
        let errors = log.lines_with(&name);
        assert!(errors.iter().any(|line| line.contains("denied: a UDP socket")), "{errors:#?}");
    }
}

#[test]
fn a_secret_that_the_guest_itself_writes_is_not_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let log = support::log();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steps");
    for (class, secret, heard, error) in [
        (CLASSES[1], "environment", &["[secret]: 0"][..], None),
        (CLASSES[0], "std env XYZZY_PLUGH", &[], Some("[secret]: NotPresent")),
        (CLASSES[0], "resolve xyzzy", &[], Some("[secret]: ")),
    ] {
        fs::write(&file, secret).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let mut backend = intruder(class, "");
        backend.config.clear();
        backend.secrets.push(("try".into(), kvtier::SecretSource::File(file.clone())));
        let name = backend.name.clone();
        let seen = run(backend);
        assert_eq!(seen.heard, heard);
        match (error, seen.error) {
            (None, None) => {}
            (Some(start), Some(error)) => assert!(error.to_string().starts_with(start), "{error}"),
            (expected, found) => panic!("{secret}: {found:?} instead of {expected:?}"),
        }
        let lines = log.lines_with(&name);
        assert!(!lines.iter().any(|line| line.contains(secret)), "{lines:#?}");
    }
    let warned = log.lines_with("chmod 600");
    assert!(warned.iter().any(|line| line.contains(&file.display().to_string())), "{warned:#?}");
}

#[test]
fn a_key_of_several_lines_is_shown_in_no_part_by_errors_log_and_traps() {
    use std::os::unix::fs::PermissionsExt as _;
    let log = support::log();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj\n".repeat(40);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\n");
    let json = format!("{{\n  \"type\": \"service_account\",\n  \"private_key\": {pem:?}\n}}\n");
    for key in [pem, json] {
        fs::write(&file, &key).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        for class in CLASSES {
            for (said, at) in
                [("say error", "get"), ("say error", "open"), ("say log", "get"), ("say panic", "get")]
            {
                let mut backend = intruder(class, said);
                backend.config.push(("in".into(), at.into()));
                backend.secrets.push(("key".into(), kvtier::SecretSource::File(file.clone())));
                let name = backend.name.clone();
                let config = support::config(vec![backend]);
                let shown = match EngineBuilder::new(config, support::metadata()).build_blocking() {
                    Ok(engine) => {
                        let found = support::get(engine.storage(), &support::keys(1));
                        format!("{:?} {:?}", found.misses, engine.storage().status())
                    }
                    Err(error) => error.to_string(),
                };
                let told = [shown].into_iter().chain(log.lines_with(&name)).collect::<Vec<_>>().join("\n");
                assert!(told.contains("the key is [secret], or "), "{said}: {told}");
                for part in ["MII", "BEGIN", "service_account", "ASCBKcw"] {
                    assert!(!told.contains(part), "{said}: {told}");
                }
            }
        }
    }
}
