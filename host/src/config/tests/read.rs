//! Results of reading a configuration, beyond `LMCache`'s rules.

use std::time::Duration;

use super::super::{
    BackendConfig, BackendLimits, BreakerConfig, CompileCache, CompileLimits, CompilePolicy, Compiler,
    Config, EnvGrant, FsAccess, FsGrant, OnFull, OnLoadError, SecretSource, Sha256Digest,
};
use super::{disk_with, extra_config, names, read, read_all, read_all_with, read_with};
use crate::memory::{HugePages, PoolOptions};

#[test]
fn an_empty_document_gives_the_defaults() {
    for text in ["", "\n# only a comment\n", "---\n", "{}", "\u{feff}", "chunk_size:\n"] {
        assert_eq!(read(text).unwrap(), Config::default(), "{text:?}");
    }
}

#[test]
fn every_key_of_kvtiers_section_is_read() {
    let config = read_with(
        "extra_config:\n\
         \x20 kvtier:\n\
         \x20   on_load_error: fail\n\
         \x20   on_full: wait\n\
         \x20   integrity_key: env:KEY\n\
         \x20   compile_cache: cache\n\
         \x20   compile: Cached_Only\n\
         \x20   compiler: bin/kvtier\n\
         \x20   compile_memory: 1GiB\n\
         \x20   compile_cpu_secs: 7\n\
         \x20   compile_timeout_ms: 9\n\
         \x20   lane_threads: 3\n\
         \x20   pool: {huge_pages: Explicit, mlock: yes}\n\
         \x20   pool.prefault: true\n\
         \x20 kvtier.close_timeout_ms: 70\n",
        &[("KEY", "0123456789abcdef")],
    )
    .unwrap();
    assert_eq!(config.on_load_error, OnLoadError::Fail);
    assert_eq!(config.on_full, OnFull::Wait);
    assert_eq!(config.integrity_key.as_ref().unwrap().expose_bytes(), b"0123456789abcdef");
    assert_eq!(config.compile_cache, CompileCache::Directory("/etc/kvtier/cache".into()));
    let off = read("extra_config: {kvtier.compile_cache: 'off'}").unwrap();
    assert_eq!(off.compile_cache, CompileCache::Off);
    assert_eq!(config.compile, CompilePolicy::CachedOnly);
    assert_eq!(config.compiler, Compiler::Program("/etc/kvtier/bin/kvtier".into()));
    let off = read("extra_config: {kvtier.compiler: 'Off'}").unwrap();
    assert_eq!((off.compiler, off.compile), (Compiler::Off, CompilePolicy::Auto));
    let (cpu, timeout) = (Duration::from_secs(7), Duration::from_millis(9));
    assert_eq!(config.compile_limits, CompileLimits { memory_bytes: 1 << 30, cpu, timeout });
    assert_eq!(config.lane_threads, 3);
    let (huge_pages, mlock, prefault) = (HugePages::Explicit, true, true);
    assert_eq!(config.pool, PoolOptions { huge_pages, mlock, prefault });
    let transparent = read("extra_config: {kvtier.pool.huge_pages: transparent}").unwrap();
    let huge_pages = HugePages::Transparent;
    assert_eq!(transparent.pool, PoolOptions { huge_pages, ..PoolOptions::default() });
    assert_eq!(read("extra_config: {kvtier: {pool: }}").unwrap(), Config::default());
    assert_eq!(config.close_timeout, Duration::from_millis(70));
}

#[test]
#[expect(clippy::too_many_lines, reason = "as many keys as there are")]
fn every_key_of_a_backend_is_read() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let config = read(&disk_with(&format!(
        "digest: '{digest}'\n\
         config.root: /data\n\
         config.a.b: 7\n\
         config.ratio: 1.0\n\
         config.sync: true\n\
         config.empty: ''\n\
         secrets.password: env:REDIS_PASSWORD\n\
         secrets.token: file:token\n\
         secrets.session: env:AWS_SESSION_TOKEN?\n\
         allow.fs: ['/var/cache/kv:/data:rw', 'seed:/seed/:ro']\n\
         allow.net: 'https://s3.example'\n\
         allow.env: [HOME, 'MODE=a=b']\n\
         limits.memory: 128MiB\n\
         limits.call_timeout_ms: 1\n\
         limits.min_bytes_per_s: 1KB\n\
         limits.open_timeout_ms: 2\n\
         limits.close_timeout_ms: 3\n\
         limits.lane_stall_ms: 4\n\
         limits.abandoned_calls_max: 0\n\
         limits.calls_in_flight_max: 6\n\
         limits.batch_chunks_max: 7\n\
         limits.table_elements: 8\n\
         limits.handles_max: 64\n\
         limits.hostcall_bytes: 2MiB\n\
         limits.random_bytes: 1KiB\n\
         limits.log_lines_per_s: 9\n\
         limits.log_bytes_per_s: 10KiB\n\
         limits.bytes_in_flight: 11\n\
         limits.open_files_max: 13\n\
         limits.file_operations_max: 18\n\
         limits.file_names_bytes: 1MiB\n\
         limits.connect_timeout_ms: 14\n\
         limits.tls_timeout_ms: 15\n\
         limits.request_timeout_ms: 16\n\
         limits.http_requests_max: 17\n\
         limits.component_bytes: 12MB\n\
         tls.ca_file: ca.pem\n\
         breaker: {{failures: 8, window: 9}}\n\
         breaker.pause_ms: 10\n\
         breaker.pause_max_ms: 11\n\
         lanes: 2",
    )))
    .unwrap();
    let disk = &config.backends[0];
    assert_eq!(disk.digest, Some(Sha256Digest([0x0a; 32])));
    let constructor: Vec<(&str, &str)> =
        disk.config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(
        constructor,
        [("root", "/data"), ("a.b", "7"), ("ratio", "1.0"), ("sync", "true"), ("empty", "")]
    );
    assert_eq!(
        disk.secrets,
        [
            ("password".to_owned(), SecretSource::Env("REDIS_PASSWORD".to_owned())),
            ("token".to_owned(), SecretSource::File("/etc/kvtier/token".into())),
            (
                "session".to_owned(),
                SecretSource::Optional(Box::new(SecretSource::Env("AWS_SESSION_TOKEN".to_owned())))
            ),
        ]
    );
    assert_eq!(
        disk.allow.fs,
        [
            FsGrant {
                host_dir: "/var/cache/kv".into(),
                guest_path: "/data".to_owned(),
                access: FsAccess::ReadWrite
            },
            FsGrant {
                host_dir: "/etc/kvtier/seed".into(),
                guest_path: "/seed".to_owned(),
                access: FsAccess::ReadOnly
            },
        ]
    );
    assert_eq!(disk.allow.net[0].to_string(), "https://s3.example:443");
    assert_eq!(
        disk.allow.env,
        [
            EnvGrant::Inherit("HOME".to_owned()),
            EnvGrant::Set { name: "MODE".to_owned(), value: "a=b".to_owned() }
        ]
    );
    let limits = &disk.limits;
    assert_eq!(limits.memory_bytes, 128 << 20);
    assert_eq!(limits.call_timeout, Duration::from_millis(1));
    assert_eq!(limits.min_bytes_per_s, 1000);
    assert_eq!(limits.open_timeout, Duration::from_millis(2));
    assert_eq!(limits.close_timeout, Duration::from_millis(3));
    assert_eq!(limits.lane_stall, Duration::from_millis(4));
    assert_eq!(limits.abandoned_calls_max, 0);
    assert_eq!(limits.calls_in_flight_max, 6);
    assert_eq!(limits.batch_chunks_max, 7);
    assert_eq!(limits.table_elements, 8);
    assert_eq!(limits.handles_max, 64);
    assert_eq!(limits.hostcall_bytes, 2 << 20);
    assert_eq!(limits.random_bytes, 1 << 10);
    assert_eq!(limits.log_lines_per_s, 9);
    assert_eq!(limits.log_bytes_per_s, 10 << 10);
    assert_eq!(limits.bytes_in_flight, 11);
    assert_eq!(limits.open_files_max, 13);
    assert_eq!(limits.file_operations_max, 18);
    assert_eq!(limits.file_names_bytes, 1 << 20);
    assert_eq!(limits.connect_timeout, Duration::from_millis(14));
    assert_eq!(limits.tls_timeout, Duration::from_millis(15));
    assert_eq!(limits.request_timeout, Duration::from_millis(16));
    assert_eq!(limits.http_requests_max, 17);
    assert_eq!(limits.component_bytes, 12_000_000);
    let (pause, pause_max) = (Duration::from_millis(10), Duration::from_millis(11));
    assert_eq!(disk.breaker, BreakerConfig { failures: 8, window: 9, pause, pause_max });
    assert_eq!(disk.ca_file, Some("/etc/kvtier/ca.pem".into()));
    assert_eq!(disk.lanes, 2);
}

#[test]
fn dotted_nested_and_mixed_spellings_are_the_same() {
    let flat = read(
        "external_backends: disk\n\
         extra_config:\n\
         \x20 external_backend.disk.module_path: fs.wasm\n\
         \x20 external_backend.disk.class_name: FsBackend\n\
         \x20 external_backend.disk.config.root: /data\n\
         \x20 external_backend.disk.limits.memory: 2MiB\n",
    )
    .unwrap();
    let keys = "module_path: fs.wasm, class_name: FsBackend, config: {root: /data}";
    for extra in [
        format!("extra_config: {{external_backend: {{disk: {{{keys}, limits: {{memory: 2MiB}}}}}}}}"),
        format!("extra_config: {{external_backend.disk: {{{keys}, limits.memory: 2MiB}}}}"),
        format!("extra_config: {{external_backend: {{disk: {{{keys}}}, disk.limits: {{memory: 2MiB}}}}}}"),
        format!("extra_config.external_backend: {{disk: {{{keys}, limits.memory: 2MiB, allow: }}}}"),
    ] {
        assert_eq!(read(&format!("external_backends: disk\n{extra}")).unwrap(), flat, "{extra}");
    }
}

#[test]
fn a_file_is_read_with_paths_relative_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kvtier.yaml");
    std::fs::write(&path, format!("external_backends: a\n{}", extra_config(&["a"]))).unwrap();
    let env = [("LMCACHE_CHUNK_SIZE".to_owned(), "8".to_owned())];
    let config = Config::from_file_with_env(&path, env).unwrap().config;
    assert_eq!(names(&config), ["a"]);
    assert_eq!(config.backends[0].module_path, dir.path().join("a.wasm"));
    assert_eq!(config.chunk_size, 8);
    assert_eq!(Config::from_file(&path).unwrap().config.backends, config.backends);
}

#[test]
fn unknown_top_level_keys_and_variables_warn_by_name() {
    let read = read_all_with("colour: red\n", &[("LMCACHE_COLOUR", "red")]).unwrap();
    assert_eq!(
        read.warnings,
        [
            "configuration text: unknown key `colour` is ignored",
            "environment variable `LMCACHE_COLOUR`: unknown, and ignored",
        ]
    );
    // A key of another program must not prevent the start, but the author of a misspelt key of kvtier's should see a
    // warning.
    for name in ["LMCACHE_CHUNKSIZE", "LMCACHE_chunk_size"] {
        let read = read_all_with("", &[(name, "64")]).unwrap();
        let expected = format!(
            "environment variable `{name}`: unknown, and ignored; did you mean `LMCACHE_CHUNK_SIZE`?"
        );
        assert_eq!(read.warnings, [expected]);
    }
    let read = read_all("extra_config: {chunk_size: 64}").unwrap();
    assert_eq!(read.config.chunk_size, Config::default().chunk_size);
    assert_eq!(read.warnings.len(), 1);
}

#[test]
fn placeholders_may_stand_in_values_and_host_paths_and_nearly_right_ones_are_refused() {
    let config =
        read(&disk_with("config.root: '/data/{worker_id}'\nallow.fs: ['kv/{model}:/data:rw']")).unwrap();
    assert_eq!(config.backends[0].allow.fs[0].host_dir.to_str(), Some("/etc/kvtier/kv/{model}"));
    for (line, near) in [
        ("config.root: '/data/{workerid}'", "did you mean `{worker_id}`?"),
        ("allow.fs: ['kv/{Model}:/data:rw']", "did you mean `{model}`?"),
    ] {
        let error = read(&disk_with(line)).unwrap_err().to_string();
        assert!(error.ends_with(near), "{error}");
    }
    read(&disk_with("config.json: '{\"model\": {\"a\": 1}}'")).unwrap();
}

#[test]
fn a_configuration_made_in_code_is_checked_by_validate() {
    let disk = || BackendConfig::new("disk", "fs.wasm", "FsBackend");
    let with = |backends: Vec<BackendConfig>| Config { backends, ..Config::default() };
    Config::default().validate().unwrap();
    with(vec![disk()]).validate().unwrap();

    let mut refused = vec![
        with(vec![disk(), disk()]),
        with(vec![BackendConfig::new("cpu", "a.wasm", "A")]),
        with(vec![BackendConfig::new("", "a.wasm", "A")]),
        with(vec![BackendConfig::new("a", "", "A")]),
        with(vec![BackendConfig::new("a", "a.wasm", "")]),
        Config { chunk_size: 0, ..Config::default() },
        Config { pool_size_bytes: u64::MAX, ..Config::default() },
        Config { pin_timeout: Duration::from_millis(999), ..Config::default() },
    ];
    let mut backend = disk();
    backend.limits.call_timeout = Duration::ZERO;
    refused.push(with(vec![backend]));
    let mut backend = disk();
    backend.lanes = 0;
    refused.push(with(vec![backend]));
    let mut backend = disk();
    backend.config.push(("a".to_owned(), String::new()));
    backend.secrets.push(("a".to_owned(), SecretSource::Env("A".to_owned())));
    refused.push(with(vec![backend]));
    for config in refused {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("configuration built in code: "), "{error}");
    }
}

#[test]
fn a_calls_time_grows_with_its_bytes() {
    let limits = BackendLimits::default();
    assert_eq!(limits.call_timeout_for(0), Duration::from_secs(1));
    assert_eq!(limits.call_timeout_for(32 << 20), Duration::from_secs(2));
    assert!(limits.call_timeout_for(u64::MAX) > Duration::from_secs(1 << 30));
}
