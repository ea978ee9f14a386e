//! `docs/configuration.md` against the code, so that the two do not drift apart.

use std::collections::BTreeMap;

use super::super::limits::{self, Bound};
use super::super::size::show_size;
use super::super::{Config, keys};
use super::read;

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
    check("limits.memory", &limits::BACKEND_MEMORY_BYTES, &show_size);
    check("limits.min_bytes_per_s", &limits::BACKEND_MIN_BYTES_PER_S, &show_size);
    for (key, bound) in [
        ("chunk_size", limits::CHUNK_SIZE_TOKENS),
        ("lookup_timeout_ms", limits::LOOKUP_TIMEOUT_MS),
        ("blocking_timeout_secs", limits::BLOCKING_TIMEOUT_SECS),
        ("pin_timeout_sec", limits::PIN_TIMEOUT_SECS),
        ("kvtier.lane_threads", limits::LANE_THREADS),
        ("kvtier.close_timeout_ms", limits::CLOSE_TIMEOUT_MS),
        ("limits.call_timeout_ms", limits::BACKEND_CALL_TIMEOUT_MS),
        ("limits.open_timeout_ms", limits::BACKEND_OPEN_TIMEOUT_MS),
        ("limits.close_timeout_ms", limits::BACKEND_CLOSE_TIMEOUT_MS),
        ("limits.lane_stall_ms", limits::BACKEND_LANE_STALL_MS),
        ("limits.abandoned_calls_max", limits::BACKEND_ABANDONED_CALLS_MAX),
        ("limits.calls_in_flight_max", limits::BACKEND_CALLS_IN_FLIGHT_MAX),
        ("limits.batch_chunks_max", limits::BACKEND_BATCH_CHUNKS_MAX),
        ("lanes", limits::BACKEND_LANES),
    ] {
        check(key, &bound, &whole);
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
