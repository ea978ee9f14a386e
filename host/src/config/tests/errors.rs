//! The exact texts of refusals, and bounds on hostile texts.

use std::fmt::Write;
use std::path::Path;

use insta::assert_snapshot;

use super::super::{BackendConfig, Config, ConfigProblem};
use super::{disk_with, extra_config, read, read_all, read_with};
use crate::limits;

fn refusal(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

fn refusal_of_disk(line: &str) -> String {
    refusal(&disk_with(line))
}

fn refusal_of_variable(name: &str, value: &str) -> String {
    read_with("", &[(name, value)]).unwrap_err().to_string()
}

/// Writes a file of these bytes and returns its refusal, without the directory's name.
fn refusal_of_file(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kvtier.yaml"), bytes).unwrap();
    refusal_of_path(dir.path(), "kvtier.yaml")
}

fn refusal_of_path(dir: &Path, name: &str) -> String {
    let error = Config::from_file_with_env(dir.join(name), []).unwrap_err();
    error.to_string().replace(&dir.display().to_string(), "DIR")
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    assert_snapshot!(refusal_of_path(dir.path(), "absent.yaml"), @"configuration file `DIR/absent.yaml`: cannot be read: No such file or directory (os error 2); check the path");
    assert_snapshot!(refusal_of_path(dir.path(), ""), @"configuration file `DIR/`: cannot be read: Is a directory (os error 21); check the path");
    assert_snapshot!(refusal_of_file(b"chunk_size: \xff"), @"configuration file `DIR/kvtier.yaml`: is not UTF-8 text; give a YAML text file");
    assert_snapshot!(refusal_of_file(&vec![b'#'; limits::CONFIG_BYTES_MAX as usize + 1]), @"configuration file `DIR/kvtier.yaml`: is larger than 1048576 bytes, the most a configuration may have; is this the right file?");
    assert_snapshot!(refusal_of_file(b"chunk_size: [1"), @"configuration file `DIR/kvtier.yaml`: is not valid YAML: did not find expected ',' or ']' at line 2 column 1, while parsing a flow sequence at line 1 column 13");
}

#[test]
fn what_is_quoted_of_a_configuration_is_escaped_and_cut() {
    assert_snapshot!(refusal(r#"extra_config: {"kvtier.\e[31mred\n": 1}"#), @r"configuration text: unknown key `kvtier.\u{1b}[31mred\n`; `kvtier.` has the keys on_load_error, on_full, put_queue_bytes, integrity_key, compile_cache, lane_threads, close_timeout_ms, compile, signal_handlers, compiler, compile_memory, compile_cpu_secs, compile_timeout_ms, pool.huge_pages, pool.mlock, pool.prefault");
    assert_snapshot!(refusal(r#"external_backends: ["\e]0;title\a"]"#), @r#"configuration text: `external_backends`: "\u{1b}]0;title\u{7}" cannot name a backend; use 1 to 64 letters, digits, `_` or `-`"#);
    let read = read_all("\"loud\\a\": 1\nextra_config: {\"quiet\\e\": 1}\n").unwrap();
    assert_snapshot!(read.warnings.join("\n"), @r"configuration text: unknown key `loud\u{7}` is ignored");
    assert_snapshot!(read.notes.join("\n"), @r"configuration text: `extra_config.quiet\u{1b}` is not used by kvtier");
    let refused = refusal_of_path(Path::new("DIR"), &"x".repeat(100_000));
    assert!(refused.len() <= limits::CONFIG_MESSAGE_BYTES_MAX, "{}", refused.len());
    assert!(refused.contains("x [...] x") && refused.ends_with("; check the path"), "{refused}");
}

#[test]
fn texts_that_are_not_a_mapping_of_yaml() {
    assert_snapshot!(refusal("chunk_size: 1\n  local_cpu: [\n"), @"configuration text: is not valid YAML: mapping values are not allowed in this context at line 2 column 12");
    assert_snapshot!(refusal("just text"), @r#"configuration text: must be a mapping of keys to values (`key: value` lines), found the text "just text""#);
    assert_snapshot!(refusal("- chunk_size: 1"), @"configuration text: must be a mapping of keys to values (`key: value` lines), found a list");
    assert_snapshot!(refusal("chunk_size: 1\n---\nchunk_size: 2\n"), @"configuration text: is not valid YAML: deserializing from YAML containing more than one document is not supported");
    assert_snapshot!(refusal("chunk_size: 1\nchunk_size: 2\n"), @"configuration text: is not valid YAML: the key `chunk_size` is given twice; keep one");
    assert_snapshot!(refusal("extra_config: {kvtier: {on_full: wait, on_full: drop}}"), @"configuration text: is not valid YAML: extra_config.kvtier: the key `on_full` is given twice; keep one at line 1 column 24");
    assert_snapshot!(refusal("? [a, b]\n: 1\n"), @"configuration text: is not valid YAML: a key must be text, found a list");
    assert_snapshot!(refusal("chunk_size: !tokens 1"), @"configuration text: is not valid YAML: chunk_size: tags (`!name`) are not supported at line 1 column 13");
    assert_snapshot!(refusal("a: &a {b: 1}\nextra_config: {<<: *a}"), @"configuration text: is not valid YAML: extra_config: merge keys (`<<`) are not supported; write the keys out at line 2 column 15");
    assert_snapshot!(refusal_of_variable("LMCACHE_EXTRA_CONFIG", "{not json"), @"environment variable `LMCACHE_EXTRA_CONFIG`: is not valid JSON: key must be a string at line 1 column 2");
    assert_snapshot!(refusal_of_variable("LMCACHE_EXTRA_CONFIG", "[1]"), @"environment variable `LMCACHE_EXTRA_CONFIG`: `extra_config`: expected a mapping of keys to values, or the same as JSON text, found a list");
    assert_snapshot!(refusal_of_variable("LMCACHE_EXTRA_CONFIG", r#"{"a": 1, "a": 2}"#), @"environment variable `LMCACHE_EXTRA_CONFIG`: is not valid JSON: the key `a` is given twice; keep one at line 1 column 12");
}

#[test]
fn values_of_wrong_types() {
    assert_snapshot!(refusal("chunk_size: many"), @r#"configuration text: `chunk_size`: expected a whole number in decimal digits, without leading zeros and `_`, found the text "many""#);
    assert_snapshot!(refusal("chunk_size: 1.5"), @"configuration text: `chunk_size`: expected a whole number in decimal digits, without leading zeros and `_`, found the number 1.5");
    assert_snapshot!(refusal("chunk_size: [1, 2]"), @"configuration text: `chunk_size`: expected a whole number in decimal digits, without leading zeros and `_`, found a list");
    assert_snapshot!(refusal("local_cpu: maybe"), @r#"configuration text: `local_cpu`: expected true or false (or 1/0, yes/no, on/off), found the text "maybe""#);
    assert_snapshot!(refusal("cache_policy: ARC"), @r#"configuration text: `cache_policy`: expected one of LRU, LFU, FIFO, MRU, S3-FIFO, SIEVE, found the text "ARC""#);
    assert_snapshot!(refusal("external_backends: 5"), @"configuration text: `external_backends`: expected a list of names, or text with names between commas, found the number 5");
    assert_snapshot!(refusal("external_backends: [a, 5]"), @"configuration text: `external_backends`: expected a list of names, found a list with the number 5 in it");
    assert_snapshot!(refusal("extra_config: [1]"), @"configuration text: `extra_config`: expected a mapping of keys to values, or the same as JSON text, found a list");
    assert_snapshot!(refusal("extra_config: {external_backend: 5}"), @"configuration text: `external_backend`: expected a mapping of keys to values, found a number");
    assert_snapshot!(refusal("extra_config: {kvtier: true}"), @"configuration text: `kvtier`: expected a mapping of keys to values, found a boolean");
    assert_snapshot!(refusal("extra_config: {kvtier.on_load_error: retry}"), @r#"configuration text: `kvtier.on_load_error`: expected one of continue, fail, found the text "retry""#);
    assert_snapshot!(refusal("extra_config: {kvtier.pool.huge_pages: yes}"), @r#"configuration text: `kvtier.pool.huge_pages`: expected one of off, transparent, explicit, found the text "yes""#);
    assert_snapshot!(refusal("extra_config: {kvtier.pool.mlock: 64GiB}"), @r#"configuration text: `kvtier.pool.mlock`: expected true or false (or 1/0, yes/no, on/off), found the text "64GiB""#);
    assert_snapshot!(refusal("extra_config: {kvtier.compiler: }"), @"configuration text: `kvtier.compiler`: expected the path of a program, or off, found no value");
    assert_snapshot!(refusal_of_variable("LMCACHE_CHUNK_SIZE", "'lots'"), @r#"environment variable `LMCACHE_CHUNK_SIZE`: `chunk_size`: expected a whole number in decimal digits, without leading zeros and `_`, found the text "lots""#);
    assert_snapshot!(refusal_of_variable("LMCACHE_LOCAL_CPU", "tcp://10.0.0.1:80"), @r#"environment variable `LMCACHE_LOCAL_CPU`: `local_cpu`: expected true or false (or 1/0, yes/no, on/off), found the text "tcp://10.0.0.1:80""#);
    assert_snapshot!(refusal_of_variable("LMCACHE_FORCE_SKIP_SAVE", "never"), @r#"environment variable `LMCACHE_FORCE_SKIP_SAVE`: `force_skip_save`: expected true or false (or 1/0, yes/no, on/off), found the text "never""#);
}

#[test]
fn values_of_wrong_types_in_a_backend() {
    assert_snapshot!(refusal_of_disk("digest: sha256:abc"), @r#"configuration text: `external_backend.disk.digest`: expected `sha256:` followed by 64 hexadecimal digits, found the text "sha256:abc""#);
    assert_snapshot!(refusal_of_disk("config.list: [1, 2]"), @"configuration text: `external_backend.disk.config.list`: expected one text, number or boolean, found a list");
    assert_snapshot!(refusal_of_disk("config.nothing:"), @r#"configuration text: `external_backend.disk.config.nothing`: expected a value (empty text is written ""), found no value"#);
    assert_snapshot!(refusal_of_disk("limits: 5"), @"configuration text: `external_backend.disk.limits`: expected a mapping of keys to values, found a number");
    assert_snapshot!(refusal_of_disk("allow.fs: /data"), @r#"configuration text: `external_backend.disk.allow.fs`: expected `HOST_DIR:GUEST_PATH:ro` or `HOST_DIR:GUEST_PATH:rw` with an absolute guest path without `.` or `..` (several grants as a list), found the text "/data""#);
    assert_snapshot!(refusal_of_disk("allow.net: [cache.example:6379]"), @r#"configuration text: `external_backend.disk.allow.net`: expected `tcp://HOST[:PORT[-PORT]]`, `tcp://NETWORK/BITS[:PORT[-PORT]]` or `http(s)://HOST[:PORT]` (several grants as a list), found the text "cache.example:6379""#);
    assert_snapshot!(refusal_of_disk("allow.env: {A: 1}"), @"configuration text: unknown key `external_backend.disk.allow.env.A`; did you mean `external_backend.disk.allow.env`?");
    assert_snapshot!(refusal_of_disk("secrets.password: hunter2"), @"configuration text: `external_backend.disk.secrets.password`: expected `env:NAME` or `file:PATH` (a secret is never written into the configuration itself), found another text of 7 bytes (not shown)");
    let class = disk_with("").replace("class_name: Class", "class_name: 'My Class'");
    assert_snapshot!(refusal(&class), @r#"configuration text: `external_backend.disk.class_name`: expected the name of a class, such as ExternalLogBackend, found the text "My Class""#);
    let module = disk_with("").replace("module_path: disk.wasm", "module_path: [disk.wasm]");
    assert_snapshot!(refusal(&module), @"configuration text: `external_backend.disk.module_path`: expected the path of a .wasm file, as text, found a list");
}

#[test]
fn unknown_and_misplaced_keys() {
    assert_snapshot!(refusal("chunk_sise: 64"), @"configuration text: unknown key `chunk_sise`; did you mean `chunk_size`?");
    assert_snapshot!(refusal("Local-CPU: true"), @"configuration text: unknown key `Local-CPU`; did you mean `local_cpu`?");
    assert_snapshot!(refusal("external_backend: a"), @"configuration text: `external_backend` does not belong here; move it under `extra_config`");
    assert_snapshot!(refusal("kvtier.on_full: wait"), @"configuration text: `kvtier.on_full` does not belong here; move it under `extra_config`");
    assert_snapshot!(refusal("storage_plugin: {a: {class_name: A}}"), @"configuration text: `storage_plugin` does not belong here; move it under `extra_config`");
    assert_snapshot!(refusal("extra_config: {external_backends: a}"), @"configuration text: `external_backends` does not belong here; move it out of `extra_config`, to the top level");
    assert_snapshot!(refusal("extra_config: {external_backends.a.class_name: A}"), @"configuration text: unknown key `external_backends.a.class_name`; did you mean `external_backend.a.class_name`?");
    assert_snapshot!(refusal("extra_config: {kvteir: {on_full: wait}}"), @"configuration text: unknown key `kvteir`; did you mean `kvtier`?");
    assert_snapshot!(refusal("extra_config: {kvtier.on_ful: wait}"), @"configuration text: unknown key `kvtier.on_ful`; did you mean `kvtier.on_full`?");
    assert_snapshot!(refusal("extra_config: {kvtier.pool.mlok: true}"), @"configuration text: unknown key `kvtier.pool.mlok`; did you mean `kvtier.pool.mlock`?");
    assert_snapshot!(refusal("extra_config: {kvtier.colour: red}"), @"configuration text: unknown key `kvtier.colour`; `kvtier.` has the keys on_load_error, on_full, put_queue_bytes, integrity_key, compile_cache, lane_threads, close_timeout_ms, compile, signal_handlers, compiler, compile_memory, compile_cpu_secs, compile_timeout_ms, pool.huge_pages, pool.mlock, pool.prefault");
    assert_snapshot!(refusal("extra_config: {kvtier..on_full: wait}"), @"configuration text: unknown key `kvtier..on_full`; a dotted key has a name between any two dots");
    assert_snapshot!(refusal_of_disk("class_nam: A"), @"configuration text: unknown key `external_backend.disk.class_nam`; did you mean `external_backend.disk.class_name`?");
    assert_snapshot!(refusal_of_disk("limits.call_timeout: 5"), @"configuration text: unknown key `external_backend.disk.limits.call_timeout`; did you mean `external_backend.disk.limits.call_timeout_ms`?");
    assert_snapshot!(refusal_of_disk("limit.memory: 5"), @"configuration text: unknown key `external_backend.disk.limit.memory`; did you mean `external_backend.disk.limits.memory`?");
    assert_snapshot!(refusal_of_disk("allow.http: 'http://a'"), @"configuration text: unknown key `external_backend.disk.allow.http`; did you mean `external_backend.disk.allow.net`?");
    // The list of all keys is the table's, and as long as it.
    let keys: Vec<&str> = BackendConfig::known_keys().collect();
    let root = refusal_of_disk("root: /data").replace(&keys.join(", "), "KEYS");
    assert_snapshot!(root, @"configuration text: unknown key `external_backend.disk.root`; a backend has KEYS, config.* and secrets.*; write keys for the class itself under `config.`");
    let long = "k".repeat(limits::KEY_BYTES_MAX / 2 + 1);
    assert_snapshot!(refusal(&format!("extra_config: {{kvtier.{long}: {{{long}: 1}}}}")), @"configuration text: unknown key `kvtier.kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...`; a key has at most 512 bytes, including the keys that it is nested in");
    assert_snapshot!(refusal(&format!("{long}{long}: 1")), @"configuration text: is not valid YAML: the key `kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...` has 514 bytes; a key has at most 512");
}

#[test]
fn names_of_backends() {
    let listed =
        |list: &str, names: &[&str]| refusal(&format!("external_backends: {list}\n{}", extra_config(names)));
    assert_snapshot!(listed("[a, b, a]", &["a", "b"]), @"configuration text: `external_backends`: the backend `a` is listed twice; names must be unique");
    assert_snapshot!(listed("LocalCPUBackend", &["LocalCPUBackend"]), @"configuration text: `external_backends`: the backend name `LocalCPUBackend` belongs to a built-in tier; choose another name");
    assert_snapshot!(listed("<backend_name>", &["a"]), @r#"configuration text: `external_backends`: "<backend_name>" cannot name a backend; use 1 to 64 letters, digits, `_` or `-`"#);
    assert_snapshot!(listed("my.disk", &["my.disk"]), @r#"configuration text: `external_backends`: "my.disk" cannot name a backend; use 1 to 64 letters, digits, `_` or `-`"#);
    assert_snapshot!(listed("['']", &["a"]), @r#"configuration text: `external_backends`: "" cannot name a backend; use 1 to 64 letters, digits, `_` or `-`"#);
    assert_snapshot!(listed(&"n".repeat(65), &["a"]), @r#"configuration text: `external_backends`: "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn..." cannot name a backend; use 1 to 64 letters, digits, `_` or `-`"#);
    let many: Vec<String> = (0..65).map(|index| format!("n{index}")).collect();
    assert_snapshot!(listed(&many.join(","), &["a"]), @"configuration text: `external_backends`: 65 backends are listed; a chain has at most 64");
    let error = read_with("", &[("LMCACHE_EXTERNAL_BACKENDS", "cpu")]).unwrap_err();
    assert_snapshot!(error, @"environment variable `LMCACHE_EXTERNAL_BACKENDS`: `external_backends`: the backend name `cpu` belongs to a built-in tier; choose another name");
}

#[test]
fn listed_names_without_module_path_or_class_name() {
    assert_snapshot!(refusal("external_backends: a"), @"configuration text: backend `a` is listed but `external_backend.a.module_path` is missing; give it under `extra_config` or take the name off the list");
    assert_snapshot!(refusal("storage_plugins: a"), @"configuration text: backend `a` is listed but `storage_plugin.a.module_path` is missing; give it under `extra_config` or take the name off the list");
    assert_snapshot!(refusal(&format!("external_backends: disk\n{}", extra_config(&["disc"]))), @"configuration text: backend `disk` is listed but `external_backend.disk.module_path` is missing; give it under `extra_config` (keys are given for `disc`, which is not listed) or take the name off the list");
    let text = disk_with("");
    assert_snapshot!(refusal(&text.replace("class_name: Class", "class_name: ''")), @"configuration text: backend `disk` is listed but `external_backend.disk.class_name` is missing; give it under `extra_config` or take the name off the list");
    assert_snapshot!(refusal(&text.replace("module_path: disk.wasm", "module_path:")), @"configuration text: backend `disk` is listed but `external_backend.disk.module_path` is missing; give it under `extra_config` or take the name off the list");
}

#[test]
fn the_same_key_twice() {
    assert_snapshot!(refusal_of_disk("limits.memory: 2MiB\nlimits: {memory: 2MiB}"), @"configuration text: `external_backend.disk.limits.memory` is given twice, dotted and nested; keep one");
    assert_snapshot!(refusal_of_disk("config.a: 1\nsecrets.a: env:A"), @"configuration text: `external_backend.disk.config`: the constructor's key `a` is given twice; keep one");
    assert_snapshot!(refusal_of_disk("allow.fs: ['/a:/x:ro', '/b:/x/:rw']"), @"configuration text: `external_backend.disk.allow.fs`: the guest path `/x` is given twice; keep one");
    assert_snapshot!(refusal_of_disk("allow.env: [A, A=1]"), @"configuration text: `external_backend.disk.allow.env`: the variable `A` is given twice; keep one");
    let both = "external_backends: a\nstorage_plugins: b\n";
    assert_snapshot!(refusal(both), @"configuration text: `external_backends` and `storage_plugins` are two spellings of one setting and have different values; keep one");
    let keys =
        disk_with("").replace("extra_config:\n", "extra_config:\n  storage_plugin.disk.class_name: B\n");
    assert_snapshot!(refusal(&keys), @"configuration text: `storage_plugin.disk.class_name` and `external_backend.disk.class_name` are two spellings of one setting and have different values; keep one");
}

#[test]
fn sizes_and_numbers_out_of_range() {
    assert_snapshot!(refusal("max_local_cpu_size: -5"), @"configuration text: `max_local_cpu_size`: -5 is out of range; give a value from 0.000004 GiB to 4096 GiB");
    assert_snapshot!(refusal("max_local_cpu_size: 0.0000001"), @"configuration text: `max_local_cpu_size`: 1e-7 is out of range; give a value from 0.000004 GiB to 4096 GiB");
    assert_snapshot!(refusal("max_local_cpu_size: .nan"), @"configuration text: `max_local_cpu_size`: expected a number of GiB such as 5 or 0.5, found the number NaN");
    assert_snapshot!(refusal("max_local_cpu_size: .inf"), @"configuration text: `max_local_cpu_size`: inf is out of range; give a value from 0.000004 GiB to 4096 GiB");
    assert_snapshot!(refusal("max_local_cpu_size: 1e30"), @"configuration text: `max_local_cpu_size`: 1e30 is out of range; give a value from 0.000004 GiB to 4096 GiB");
    assert_snapshot!(refusal("max_local_cpu_size: 4097"), @"configuration text: `max_local_cpu_size`: 4097 is out of range; give a value from 0.000004 GiB to 4096 GiB");
    assert_snapshot!(refusal("max_local_cpu_size: 5GiB"), @r#"configuration text: `max_local_cpu_size`: expected a number of GiB such as 5 or 0.5, found the text "5GiB""#);
    assert_snapshot!(refusal("chunk_size: 0"), @"configuration text: `chunk_size`: 0 is out of range; give a value from 1 to 1048576");
    assert_snapshot!(refusal("chunk_size: -1"), @"configuration text: `chunk_size`: -1 is out of range; give a value from 1 to 1048576");
    assert_snapshot!(refusal("chunk_size: 99999999999999999999999999999999999999999999"), @"configuration text: `chunk_size`: 1e44 is out of range; give a value from 1 to 1048576");
    assert_snapshot!(refusal("pin_timeout_sec: 18446744073709551616"), @"configuration text: `pin_timeout_sec`: 18446744073709551616 is out of range; give a value from 1 to 86400");
    assert_snapshot!(refusal_of_disk("limits.memory: -64MiB"), @"configuration text: `external_backend.disk.limits.memory`: -64MiB is out of range; give a value from 1 MiB to 4 GiB");
    assert_snapshot!(refusal_of_disk("limits.memory: 65TiB"), @"configuration text: `external_backend.disk.limits.memory`: 65TiB is out of range; give a value from 1 MiB to 4 GiB");
    assert_snapshot!(refusal_of_disk("limits.memory: 8GiB"), @"configuration text: `external_backend.disk.limits.memory`: 8GiB is out of range; give a value from 1 MiB to 4 GiB");
    assert_snapshot!(refusal_of_disk("limits.memory: 64M"), @r#"configuration text: `external_backend.disk.limits.memory`: expected a size in bytes such as 67108864, "64MiB", "64Mi" or "64MB" (`M` alone has two meanings), found the text "64M""#);
    assert_snapshot!(refusal_of_disk("limits.memory: .nan"), @r#"configuration text: `external_backend.disk.limits.memory`: expected a size in bytes such as 67108864, "64MiB", "64Mi" or "64MB" (`M` alone has two meanings), found the number NaN"#);
    assert_snapshot!(refusal_of_disk("limits.min_bytes_per_s: 0"), @"configuration text: `external_backend.disk.limits.min_bytes_per_s`: 0 is out of range; give a value from 1 byte to 64 TiB");
    assert_snapshot!(refusal_of_disk("limits.call_timeout_ms: 0"), @"configuration text: `external_backend.disk.limits.call_timeout_ms`: 0 is out of range; give a value from 1 to 3600000");
    assert_snapshot!(refusal_of_disk("lanes: 1000"), @"configuration text: `external_backend.disk.lanes`: 1000 is out of range; give a value from 1 to 64");
    assert_snapshot!(refusal_of_variable("LMCACHE_MAX_LOCAL_CPU_SIZE", "-1"), @"environment variable `LMCACHE_MAX_LOCAL_CPU_SIZE`: `max_local_cpu_size`: -1 is out of range; give a value from 0.000004 GiB to 4096 GiB");
}

#[test]
fn breakers_that_could_not_work() {
    assert_snapshot!(refusal_of_disk("breaker.failures: 7\nbreaker.window: 6"), @"configuration text: `external_backend.disk.breaker.failures`: 7 is out of range; give a value from 0 to 6");
    assert_snapshot!(refusal_of_disk("breaker.failures: 65"), @"configuration text: `external_backend.disk.breaker.failures`: 65 is out of range; give a value from 0 to 64");
    assert_snapshot!(refusal_of_disk("breaker.window: 65"), @"configuration text: `external_backend.disk.breaker.window`: 65 is out of range; give a value from 1 to 64");
    assert_snapshot!(refusal_of_disk("breaker: {pause_ms: 600, pause_max_ms: 500}"), @"configuration text: `external_backend.disk.breaker.pause_ms`: 600 is out of range; give a value from 1 to 500");
    assert_snapshot!(refusal_of_disk("breaker.pause: 5"), @"configuration text: unknown key `external_backend.disk.breaker.pause`; did you mean `external_backend.disk.breaker.pause_ms`?");
}

#[test]
fn python_modules() {
    let module = |path: &str| refusal(&disk_with("").replace("disk.wasm", path));
    assert_snapshot!(module("lmc_external_log_backend.lmc_external_log_backend"), @"configuration text: `external_backend.disk.module_path`: `lmc_external_log_backend.lmc_external_log_backend` looks like a Python module; kvtier loads WebAssembly components, so give the path of a `.wasm` file such as `backends/lmc_external_log_backend.wasm`, relative to the configuration file (write `./lmc_external_log_backend.lmc_external_log_backend` if it is a file of that name)");
    assert_snapshot!(module("backend.py"), @"configuration text: `external_backend.disk.module_path`: `backend.py` looks like a Python module; kvtier loads WebAssembly components, so give the path of a `.wasm` file such as `backends/backend.wasm`, relative to the configuration file (write `./backend.py` if it is a file of that name)");
    assert_snapshot!(module("backend"), @"configuration text: `external_backend.disk.module_path`: `backend` looks like a Python module; kvtier loads WebAssembly components, so give the path of a `.wasm` file such as `backends/backend.wasm`, relative to the configuration file (write `./backend` if it is a file of that name)");
    for path in ["./backend", "log.WASM", "a/b.c", "my-backend.component", "pkg.wasm"] {
        let text = disk_with("").replace("disk.wasm", path);
        assert_eq!(read(&text).unwrap().backends[0].module_path, Path::new("/etc/kvtier").join(path));
    }
}

#[test]
fn integrity_keys() {
    let key = |source: &str| format!("extra_config: {{kvtier.integrity_key: '{source}'}}");
    assert_snapshot!(refusal(&key("swordfish")), @"configuration text: `kvtier.integrity_key`: expected `env:NAME` or `file:PATH` (a secret is never written into the configuration itself), found another text of 9 bytes (not shown)");
    let optional = refusal(&key("env:KVTIER_KEY?"));
    assert!(
        optional.contains("expected `env:NAME` or `file:PATH`"),
        "a key that may be missing seals nothing: {optional}"
    );
    assert_snapshot!(refusal(&key("env:KVTIER_KEY")), @"configuration text: `kvtier.integrity_key`: the environment variable `KVTIER_KEY` is not set; set it or name another source");
    assert_snapshot!(refusal(&key("file:absent.key")), @"configuration text: `kvtier.integrity_key`: the secret file `/etc/kvtier/absent.key` cannot be read: No such file or directory (os error 2)");
    let error = read_with(&key("env:KVTIER_KEY"), &[("KVTIER_KEY", "short")]).unwrap_err();
    assert_snapshot!(error, @"configuration text: `kvtier.integrity_key`: the secret in `env:KVTIER_KEY` has 5 bytes; it needs at least 16");
}

#[test]
fn aliases_that_multiply_are_refused_at_the_bound() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    assert_snapshot!(refusal(&bomb), @"configuration text: is not valid YAML: repetition limit exceeded");
    // Few values, but much text.
    let text = "x".repeat(1000);
    let aliases = vec!["*a"; 10_000].join(", ");
    assert_snapshot!(refusal(&format!("a: &a {text}\nb: [{aliases}]\n")), @"configuration text: is not valid YAML: b[8255]: values and expanded aliases take more than 8388608 bytes at line 1 column 4");
}

#[test]
fn nesting_is_refused_at_the_bound() {
    let nested = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
    // One level is the document itself.
    read(&nested(limits::NESTING_DEPTH_MAX - 1)).unwrap();
    assert_snapshot!(refusal(&nested(limits::NESTING_DEPTH_MAX)), @"configuration text: is not valid YAML: lists and mappings are nested deeper than 64 levels");
    // Deep, but within the bound on scanning.
    assert_snapshot!(refusal(&"[a: ".repeat(4_000)), @"configuration text: is not valid YAML: lists and mappings are nested deeper than 64 levels");
    // These would take the scanner minutes.
    for pattern in ["[", "{", "[a: ", "[a: #]\n"] {
        let error = refusal(&pattern.repeat(100_000));
        assert!(error.contains("are too many; use indented"), "{error}");
    }
    // So would these.
    let directives: Vec<String> = (0..60_000).map(|index| format!("%TAG !t{index}! x\n")).collect();
    let error = refusal(&format!("{}--- {{}}\n", directives.concat()));
    assert!(error.contains("60000 lines that begin with `%` are too many"), "{error}");
    read("%YAML 1.1\n---\nchunk_size: 8\n").unwrap();
    let json = format!("{{\"a\": {}}}", "[".repeat(100_000));
    assert_snapshot!(refusal_of_variable("LMCACHE_EXTRA_CONFIG", &json), @"environment variable `LMCACHE_EXTRA_CONFIG`: is not valid JSON: lists and mappings are nested deeper than 64 levels");
}

#[test]
fn a_text_beyond_the_bound_is_refused_wherever_it_comes_from() {
    let text = "#".repeat(limits::CONFIG_BYTES_MAX as usize + 1);
    for error in [read(&text).unwrap_err(), read_with("", &[("LMCACHE_EXTRA_CONFIG", &text)]).unwrap_err()] {
        assert!(matches!(error.problem(), ConfigProblem::TooLarge { .. }));
    }
}
