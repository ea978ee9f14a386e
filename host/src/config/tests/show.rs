//! The parts of a configuration that are shown, and those that are hidden.

use insta::assert_snapshot;

use super::{disk_with, read, read_all, read_all_with, read_with};
use crate::config::{Config, ShownSetting};

fn changed(config: &Config) -> String {
    let rows = config.shown().into_iter().filter(|row| !row.is_default);
    rows.map(|row| row.to_string()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_settings_that_differ_from_their_default_are_shown_by_key() {
    let text = disk_with(
        "config.root: /data\nallow.fs: '/cache:/data:rw'\nallow.env: [HOME, TOKEN=hunter2]\nallow.net: tcp://a:1\n\
         limits.memory: 1MiB\nlimits.call_timeout_ms: 7\nbreaker.failures: 0\nsecrets.password: env:PW",
    );
    let text = format!(
        "chunk_size: 64\nmax_local_cpu_size: 0.5\ncache_policy: lfu\n{text}  kvtier.on_full: wait\n  \
         kvtier.integrity_key: env:KEY\n  kvtier.pool.huge_pages: transparent\n  kvtier.compile_memory: 1GiB\n"
    );
    let config = read_with(&text, &[("KEY", "correct horse battery")]).unwrap();
    assert_snapshot!(changed(&config), @r"
    chunk_size: 64
    max_local_cpu_size: 0.5
    cache_policy: LFU
    kvtier.on_full: wait
    kvtier.integrity_key: 21 bytes
    kvtier.compile_memory: 1 GiB
    kvtier.pool.huge_pages: transparent
    external_backends: disk
    external_backend.disk.module_path: /etc/kvtier/disk.wasm
    external_backend.disk.class_name: Class
    external_backend.disk.config.root: /data
    external_backend.disk.secrets.password: env:PW
    external_backend.disk.allow.fs: /cache:/data:rw
    external_backend.disk.allow.net: tcp://a:1
    external_backend.disk.allow.env: HOME, TOKEN=[7 bytes]
    external_backend.disk.limits.memory: 1 MiB
    external_backend.disk.limits.call_timeout_ms: 7
    external_backend.disk.breaker.failures: 0
    ");
}

#[test]
fn every_setting_is_shown_once_and_the_defaults_as_such() {
    let rows = Config::default().shown();
    assert!(rows.iter().all(|row| row.is_default || row.key == "kvtier.lane_threads"), "{rows:#?}");
    let mut keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
    let n_rows = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), n_rows);
}

#[test]
fn values_that_may_be_secrets_are_hidden_and_others_shown() {
    let shown = |line: &str| {
        let rows = read(&disk_with(line)).unwrap().shown();
        let is_config = |row: &ShownSetting| row.key.contains(".config.");
        rows.into_iter().find(is_config).unwrap().value
    };
    for line in [
        "config.password: hunter2",
        "config.aws.secret-access-key: hunter2",
        "config.PGPASS: hunter2",
        "config.options: 'timeout=5 password=hunter2'",
        "config.json: '{\"Token\": \"hunter2\"}'",
        "config.url: redis://user:hunter2@host:6379/0",
        "config.servers: user:hunter2@host:6379",
        "config.servers: 'u:hunter2@a, redis://host'",
        "config.url: redis://user:hun/hunter2@host:6379",
    ] {
        let value = shown(line);
        assert!(!value.contains("hunter2") && value.contains("[hidden]"), "{line}: {value}");
    }
    assert_eq!(shown("config.root: /data"), "/data");
    assert_eq!(shown("config.url: https://host/a b"), "https://host/a b");
    assert_eq!(shown("config.url: redis://bob:pw@host:6379/0"), "redis://[hidden]@host:6379/0");
    assert_eq!(shown("config.text: \"a\\n\\e[31mb\""), r"a\n\u{1b}[31mb");
}

#[test]
fn a_secret_never_shows() {
    let key = "correct horse battery";
    let read = read_all_with(
        &format!(
            "{}  kvtier.integrity_key: env:KEY\n",
            disk_with(
                "allow.env: TOKEN=hunter2\nsecrets.pw: env:PW\nconfig.password: hunter2\n\
                 config.servers: user:hunter2@host:6379"
            )
        ),
        &[("KEY", key), ("PW", "hunter2")],
    )
    .unwrap();
    let (config, rows) = (&read.config, read.config.shown());
    let shown = format!("{config:?} {config:#?} {:?} {:?} {rows:?}", read.warnings, read.notes);
    assert!(shown.contains("Secret(21 bytes)"), "{shown}");
    assert!(shown.contains("(\"password\", \"7 bytes\")"), "{shown}");
    assert!(!shown.contains(key) && !shown.contains("hunter2"), "{shown}");
    for line in [
        "secrets.pw: hunter2",
        "secrets.pw: [hunter2]",
        "allow.env: '=hunter2'",
        "allow.env: ['A B=hunter2']",
        "config.password: [hunter2]",
        "config: hunter2",
        "secrets: hunter2",
        "limits: hunter2",
        "allow.net: 'tcp://user:hunter2@host:6379'",
        "allow.net: 'redis://user:hunter2@host:6379'",
        "config.password: !!int hunter2",
        "config.password: {hunter2",
    ] {
        let error = read_with(&disk_with(line), &[]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn what_sounds_like_a_secret_in_the_file_is_pointed_out_and_kept_out_of_logs() {
    let read = read_all(&disk_with(
        "config.password: hunter2\nconfig.max_tokens: 4096\nconfig.servers: 'redis://bob:swordfish@a, carl@b'\n\
         allow.env: [API_TOKEN=opensesame, MODE=fast]",
    ))
    .unwrap();
    let expected = "configuration text: `external_backend.disk.config.password` sounds like a secret; take it out of the file \
                    and give `external_backend.disk.secrets.password: env:NAME` or `file:PATH`";
    assert_eq!(read.warnings, [expected]);
    let hidden = read.config.backends[0].unnamed_secrets();
    assert_eq!(hidden, ["hunter2", "bob:swordfish", "swordfish", "carl", "opensesame"]);
}
