//! Any sequence of operations, with a backend that misbehaves: the chain agrees with the reference model.
//!
//! `KVTIER_MODEL_SEED=n` runs only that seed, `KVTIER_MODEL_STEPS=n` sets the length of every run.

use std::fmt::Write as _;
use std::time::Duration;

use kvtier_tests::model::{self, Fault, Misbehaving, Op, Options, Report, Sabotage, Script};

use crate::support::{compile_cache, component, kvtier_program};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs scripts from seeds, and prints how to repeat the first that fails.
fn run_seeds(test: &str, seeds: std::ops::Range<u64>, n_steps: usize, options: &Options) -> Report {
    let seeds = variable("KVTIER_MODEL_SEED").map_or(seeds, |seed| seed..seed + 1);
    let n_steps = variable("KVTIER_MODEL_STEPS").map_or(n_steps, |n| n as usize);
    let mut report = Report::default();
    for seed in seeds {
        let script = Script::generate(seed, n_steps);
        match model::run(&script, options) {
            Ok(one) => report.add(&one),
            Err(failure) => panic!(
                "{:?}\n{failure}\nrepeat with: KVTIER_MODEL_SEED={seed} KVTIER_MODEL_STEPS={n_steps} \
                 cargo test --workspace --test suite -- --exact model::{test}",
                script.setup
            ),
        }
    }
    report
}

fn native() -> Options {
    Options::new(Misbehaving::Native)
}

/// Checks that the runs tested something, unless one seed was requested.
fn expect(report: &Report, reasons: &[&str]) {
    if variable("KVTIER_MODEL_SEED").is_some() || variable("KVTIER_MODEL_STEPS").is_some() {
        println!("{report:#?}");
        return;
    }
    let mut lacks = String::new();
    for reason in reasons.iter().filter(|reason| !report.misses.contains_key(*reason)) {
        let _infallible = write!(lacks, " {reason}");
    }
    assert!(lacks.is_empty(), "never happened:{lacks}; {report:#?}");
    assert!(report.served.iter().all(|n| *n > 0), "{report:#?}");
    assert!(report.n_cancelled > 0, "{report:#?}");
}

#[test]
fn the_chain_agrees_with_the_model_beside_a_native_tier_that_misbehaves() {
    let name = "the_chain_agrees_with_the_model_beside_a_native_tier_that_misbehaves";
    let report = run_seeds(name, 0..60, 150, &native());
    expect(
        &report,
        &[
            "not_found",
            "wrong_length",
            "check_failed",
            "other_key",
            "other_algorithm",
            "bad_answer",
            "timeout",
            "corrupt",
            "other",
        ],
    );
    if variable("KVTIER_MODEL_SEED").is_none() {
        let missing: Vec<Fault> = Fault::all().filter(|fault| !report.faults.contains_key(fault)).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

#[test]
fn the_chain_agrees_with_the_model_beside_a_component_that_misbehaves() {
    let name = "the_chain_agrees_with_the_model_beside_a_component_that_misbehaves";
    let module_path = component("chaos");
    let (cache, compiler) = (compile_cache(), kvtier_program());
    let options = Options::new(Misbehaving::Component { module_path, cache, compiler });
    let report = run_seeds(name, 100..150, 150, &options);
    expect(&report, &["not_found", "wrong_length", "check_failed", "bad_answer"]);
}

/// Runs seeds until the model notices what was broken, and returns its report.
fn noticed(sabotage: Sabotage) -> String {
    let options = Options { sabotage: Some(sabotage), patience: Duration::from_millis(300), ..native() };
    let found = (0..200).find_map(|seed| model::run(&Script::generate(seed, 150), &options).err());
    found.unwrap_or_else(|| panic!("{sabotage:?} was not noticed")).to_string()
}

#[test]
fn a_forged_chunk_is_noticed_where_nothing_stops_it() {
    let found = noticed(Sabotage::Forge);
    assert!(found.contains("wrong bytes"), "{found}");
}

#[test]
fn a_chunk_that_its_tier_has_lost_is_noticed() {
    let found = noticed(Sabotage::LoseChunks);
    assert!(found.contains("were present"), "{found}");
}

#[test]
fn a_pin_that_is_left_behind_is_noticed() {
    let found = noticed(Sabotage::KeepPins);
    assert!(found.contains("pins left"), "{found}");
}

#[test]
fn memory_that_does_not_come_back_is_noticed() {
    let found = noticed(Sabotage::KeepMemory);
    assert!(found.contains("memory does not come back"), "{found}");
}

#[test]
fn scripts_of_a_seed_are_the_same_and_use_every_operation() {
    let script = Script::generate(7, 400);
    assert_eq!(script, Script::generate(7, 400));
    assert_ne!(script, Script::generate(8, 400));
    let mut kinds: Vec<_> = script.steps.iter().map(|step| std::mem::discriminant(&step.op)).collect();
    kinds.sort_unstable_by_key(|kind| format!("{kind:?}"));
    kinds.dedup();
    assert_eq!(kinds.len(), 15);
    assert!(script.steps.iter().any(|step| matches!(step.op, Op::Get { plan: Some(_), .. })));
}
