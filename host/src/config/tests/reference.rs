//! `docs/configuration.md` against the code, so that the two do not drift apart.

use std::collections::BTreeMap;

use super::super::value::size::show_size;
use super::super::{Config, keys};
use super::{extra_config, read};
use crate::limits::{self, Bound};

const REFERENCE: &str = include_str!("../../../../docs/configuration.md");

/// Returns the cells of all table rows whose first cell is a key, by key.
fn rows() -> BTreeMap<&'static str, Vec<&'static str>> {
    REFERENCE
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
            (cells[0].trim_end_matches('`'), cells)
        })
        .collect()
}

#[test]
fn the_reference_has_exactly_the_keys_that_are_read() {
    let mut known: Vec<String> = keys::TOP_LEVEL_USED.map(str::to_owned).to_vec();
    known.push(keys::EXTRA_CONFIG.to_owned());
    known.extend(keys::KVTIER.map(|key| format!("kvtier.{key}")));
    known.extend(keys::BACKEND.map(str::to_owned));
    known.extend(keys::BACKEND_FREE_GROUPS.map(|group| format!("{group}.<key>")));
    known.sort_unstable();
    let documented: Vec<&str> = rows().into_keys().collect();
    assert_eq!(documented, known);
}

#[test]
fn the_reference_has_the_variable_of_every_top_level_key() {
    let rows = rows();
    for key in keys::TOP_LEVEL_USED.into_iter().chain([keys::EXTRA_CONFIG]) {
        let variable = format!("`LMCACHE_{}`", key.to_uppercase());
        assert!(rows[key].contains(&variable.as_str()), "{key}");
    }
}

#[test]
fn the_reference_has_the_defaults_and_ranges_of_the_limits() {
    let rows = rows();
    let whole = |value: u64| value.to_string();
    let gib = |bytes: u64| format!("{}", (bytes as f64 / (1_u64 << 30) as f64 * 1e6).ceil() / 1e6);
    let check = |key: &str, bound: &Bound, show: &dyn Fn(u64) -> String| {
        let cells = &rows[key];
        assert_eq!(cells[2], show(bound.default), "default of {key}");
        let range = format!("{} to {}", show(bound.min), show(bound.max));
        assert_eq!(cells[3], range, "range of {key}");
    };
    check("max_local_cpu_size", &limits::POOL_SIZE_BYTES, &gib);
    check("kvtier.compile_memory", &limits::COMPILE_MEMORY_BYTES, &show_size);
    for (key, bound) in [
        ("kvtier.compile_cpu_secs", limits::COMPILE_CPU_SECS),
        ("kvtier.compile_timeout_ms", limits::COMPILE_TIMEOUT_MS),
        ("chunk_size", limits::CHUNK_SIZE_TOKENS),
        ("lookup_timeout_ms", limits::LOOKUP_TIMEOUT_MS),
        ("blocking_timeout_secs", limits::BLOCKING_TIMEOUT_SECS),
        ("pin_timeout_sec", limits::PIN_TIMEOUT_SECS),
        ("kvtier.lane_threads", limits::LANE_THREADS),
        ("kvtier.close_timeout_ms", limits::CLOSE_TIMEOUT_MS),
        ("lanes", limits::BACKEND_LANES),
        ("breaker.failures", limits::BREAKER_FAILURES),
        ("breaker.window", limits::BREAKER_WINDOW),
        ("breaker.pause_ms", limits::BREAKER_PAUSE_MS),
        ("breaker.pause_max_ms", limits::BREAKER_PAUSE_MAX_MS),
    ] {
        check(key, &bound, &whole);
    }
    for (key, bound, is_size) in BACKEND_LIMITS {
        let show: &dyn Fn(u64) -> String = if is_size { &show_size } else { &whole };
        check(&format!("limits.{key}"), &bound, show);
    }
}

/// The limits of a backend: key, bound, and whether it is a size.
const BACKEND_LIMITS: [(&str, Bound, bool); 24] = [
    ("memory", limits::BACKEND_MEMORY_BYTES, true),
    ("table_elements", limits::BACKEND_TABLE_ELEMENTS, false),
    ("handles_max", limits::BACKEND_HANDLES_MAX, false),
    ("hostcall_bytes", limits::BACKEND_HOSTCALL_BYTES, true),
    ("random_bytes", limits::BACKEND_RANDOM_BYTES, true),
    ("log_lines_per_s", limits::BACKEND_LOG_LINES_PER_S, false),
    ("log_bytes_per_s", limits::BACKEND_LOG_BYTES_PER_S, true),
    ("bytes_in_flight", limits::BACKEND_BYTES_IN_FLIGHT, true),
    ("open_files_max", limits::BACKEND_OPEN_FILES_MAX, false),
    ("file_operations_max", limits::BACKEND_FILE_OPERATIONS_MAX, false),
    ("file_names_bytes", limits::BACKEND_FILE_NAMES_BYTES, true),
    ("connect_timeout_ms", limits::BACKEND_CONNECT_TIMEOUT_MS, false),
    ("tls_timeout_ms", limits::BACKEND_TLS_TIMEOUT_MS, false),
    ("request_timeout_ms", limits::BACKEND_REQUEST_TIMEOUT_MS, false),
    ("http_requests_max", limits::BACKEND_HTTP_REQUESTS_MAX, false),
    ("component_bytes", limits::BACKEND_COMPONENT_BYTES, true),
    ("call_timeout_ms", limits::BACKEND_CALL_TIMEOUT_MS, false),
    ("min_bytes_per_s", limits::BACKEND_MIN_BYTES_PER_S, true),
    ("open_timeout_ms", limits::BACKEND_OPEN_TIMEOUT_MS, false),
    ("close_timeout_ms", limits::BACKEND_CLOSE_TIMEOUT_MS, false),
    ("lane_stall_ms", limits::BACKEND_LANE_STALL_MS, false),
    ("abandoned_calls_max", limits::BACKEND_ABANDONED_CALLS_MAX, false),
    ("calls_in_flight_max", limits::BACKEND_CALLS_IN_FLIGHT_MAX, false),
    ("batch_chunks_max", limits::BACKEND_BATCH_CHUNKS_MAX, false),
];

#[test]
fn every_limit_of_a_backend_accepts_its_range_and_nothing_beyond() {
    let listed = keys::BACKEND.iter().filter_map(|key| key.strip_prefix("limits."));
    for key in listed {
        let (_, bound, _) = BACKEND_LIMITS
            .iter()
            .find(|(known, ..)| *known == key)
            .unwrap_or_else(|| panic!("{key} has no bound here"));
        let read_with = |value: u64| {
            let extra = extra_config(&["a"]);
            read(&format!("external_backends: a\n{extra}  external_backend.a.limits.{key}: {value}\n"))
        };
        for value in [bound.min, bound.max] {
            read_with(value).unwrap_or_else(|error| panic!("{key}: {value}: {error}"));
        }
        for value in bound.min.checked_sub(1).into_iter().chain([bound.max + 1]) {
            let error = read_with(value).unwrap_err().to_string();
            assert!(error.contains(&format!("external_backend.a.limits.{key}")), "{error}");
        }
    }
}

#[test]
fn the_references_example_loads() {
    let example = REFERENCE.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    let config = read(example).unwrap();
    assert_eq!(config.backends.len(), 2);
    assert_ne!(config, Config::default());
    assert!(config.warnings.is_empty() && config.notes.is_empty());
}
