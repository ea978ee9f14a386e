//! `docs/configuration.md` against the code, so that the two agree.

use std::collections::BTreeMap;

use super::super::setting::{Number, Setting, Settings};
use super::super::{BackendConfig, BackendLimits, Config, ReadConfig, keys};
use super::{extra_config, read, read_all};

const REFERENCE: &str = include_str!("../../../docs/configuration.md");

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
    let mut known: Vec<String> = keys::top_level()
        .chain(keys::kvtier())
        .chain(BackendConfig::known_keys())
        .map(str::to_owned)
        .collect();
    known.extend(keys::BACKEND_FREE_GROUPS.map(|group| format!("{group}.<key>")));
    known.sort_unstable();
    let documented: Vec<&str> = rows().into_keys().collect();
    assert_eq!(documented, known);
}

#[test]
fn the_reference_has_the_variable_of_every_top_level_key() {
    let rows = rows();
    for key in keys::top_level() {
        let variable = format!("`LMCACHE_{}`", key.to_uppercase());
        assert!(rows[key].contains(&variable.as_str()), "{key}");
    }
}

#[test]
fn the_reference_has_the_default_and_the_range_of_every_setting() {
    fn check<T: Settings>(settings: &T) {
        let rows = rows();
        for Setting { key, show, number, .. } in T::SETTINGS {
            let cells = &rows[key];
            let default = match number(settings) {
                Some(Number { bound, show, .. }) => {
                    let range = format!("{} to {}", show(bound.min), show(bound.max));
                    assert_eq!(cells[3], range, "range of {key}");
                    show(bound.default)
                }
                None => show(settings),
            };
            let required = ["module_path", "class_name"].contains(key);
            let expected = if required { "required" } else { &default };
            assert_eq!(cells[2].replace('`', ""), expected.replace('`', ""), "default of {key}");
        }
    }
    let (config, backend) = (Config::default(), BackendConfig::new("", "", ""));
    check(&config);
    check(&config.compile_limits);
    check(&config.pool);
    check(&backend);
    check(&backend.allow);
    check(&backend.limits);
    check(&backend.breaker);
}

#[test]
fn every_limit_of_a_backend_accepts_its_range_and_nothing_beyond() {
    for Setting { key, number, .. } in BackendLimits::SETTINGS {
        let Number { bound, .. } = number(&BackendLimits::default()).unwrap();
        let read_with = |value: u64| {
            let extra = extra_config(&["a"]);
            read(&format!("external_backends: a\n{extra}  external_backend.a.{key}: {value}\n"))
        };
        for value in [bound.min, bound.max] {
            read_with(value).unwrap_or_else(|error| panic!("{key}: {value}: {error}"));
        }
        for value in bound.min.checked_sub(1).into_iter().chain([bound.max + 1]) {
            let error = read_with(value).unwrap_err().to_string();
            assert!(error.contains(&format!("external_backend.a.{key}")), "{error}");
        }
    }
}

#[test]
fn every_limit_of_a_backend_is_read_into_a_field_of_its_own() {
    for setting in BackendLimits::SETTINGS {
        let Number { bound, .. } = (setting.number)(&BackendLimits::default()).unwrap();
        let value = if bound.default == bound.max { bound.min } else { bound.max };
        let extra = extra_config(&["a"]);
        let text = format!("external_backends: a\n{extra}  external_backend.a.{}: {value}\n", setting.key);
        let limits = read(&text).unwrap().backends.remove(0).limits;
        let key = setting.key.trim_start_matches("limits.");
        assert_eq!(limits.changed(), [(key, value, bound.default)]);
    }
}

#[test]
fn the_references_example_loads() {
    let example = REFERENCE.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    let ReadConfig { config, notes, warnings } = read_all(example).unwrap();
    assert_eq!(config.backends.len(), 2);
    assert_ne!(config, Config::default());
    assert!(warnings.is_empty() && notes.is_empty());
}
