//! Runs a fuzz target under libFuzzer, whose arguments this program takes. `KVTIER_FUZZ_TARGET` names the target.
//!
//! The targets themselves are in `kvtier_tests::fuzz`.
#![no_main]

use std::sync::OnceLock;

use kvtier_tests::fuzz::{self, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("KVTIER_FUZZ_TARGET").unwrap_or_default();
        let Some(target) = fuzz::target(&name) else {
            let known: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
            eprintln!("KVTIER_FUZZ_TARGET is `{name}`; it must be one of {}", known.join(", "));
            std::process::exit(2);
        };
        TARGET.get_or_init(|| *target);
    },
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(bytes);
        }
    }
);
