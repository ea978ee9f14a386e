//! The features of the library. Each combination has to compile.

use anyhow::Result;

use crate::step::Runner;

/// All combinations but the default, which every other step compiles.
const COMBINATIONS: [&str; 5] = ["", "yaml", "wasm", "wasm,yaml", "http"];

/// Checks the library with each combination of its features.
pub(crate) fn check(runner: &mut Runner) -> Result<()> {
    for features in COMBINATIONS {
        let name = format!("features: {}", if features.is_empty() { "none" } else { features });
        let arguments =
            ["--package", "kvtier", "--no-default-features", "--features", features, "--", "-D", "warnings"];
        runner.cargo(&name, "clippy", &arguments)?;
    }
    Ok(())
}
