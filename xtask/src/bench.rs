//! `cargo xtask bench`: builds the benches for release and runs them.

use std::env::consts::EXE_SUFFIX;
use std::process::Command;

use anyhow::Result;

use crate::step::Runner;
use crate::{guests, python};

/// The part that is a separate program: it uses the components of the integration tests.
const FAULTS: &str = "faults";

/// The part that is written in Python, and needs the serving engines.
const PYTHON: &str = "python";

/// The part that needs the program with the other caches. It also runs if no part is named.
const COMPARE: &str = "compare";

/// The options with a value; the value is not the name of a part.
const WITH_VALUE: [&str; 2] = ["--trace", "--out"];

pub(crate) fn run(runner: &mut Runner, arguments: &[String]) -> Result<()> {
    guests::build(runner)?;
    if let Some((FAULTS, rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        let mut all = vec!["--package", "kvtier-tests", "--bench", FAULTS, "--"];
        all.extend(rest.iter().map(String::as_str));
        return runner.cargo(FAULTS, "bench", &all);
    }
    if let Some((PYTHON, rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return python::bench(runner, rest.iter().any(|argument| argument == "--quick"));
    }
    let workspace = runner.workspace;
    let program = |name: &str| workspace.target.join("release").join(format!("{name}{EXE_SUFFIX}"));
    runner.cargo("bench", "build", &["--release", "--package", "kvtier-bench"])?;
    let mut bench = Command::new(program("kvtier-bench"));
    bench.args(arguments).arg("--guests").arg(guests::folder(workspace));
    if !arguments.iter().any(|argument| argument == "--out") {
        bench.arg("--out").arg(workspace.target.join("bench"));
    }
    if needs_peers(arguments) {
        let manifest = "tests/bench-compare/Cargo.toml";
        let target = workspace.target.display().to_string();
        let build = ["--release", "--locked", "--manifest-path", manifest, "--target-dir", &target];
        runner.cargo("other caches", "build", &build)?;
        bench.arg("--peers").arg(program("kvtier-bench-compare"));
    }
    runner.run("measurements", &mut bench)
}

/// Reports whether the comparison is among the parts.
fn needs_peers(arguments: &[String]) -> bool {
    let mut names_a_part = false;
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--help" | "-h" => return false,
            COMPARE => return true,
            word if WITH_VALUE.contains(&word) => _ = words.next(),
            word => names_a_part |= !word.starts_with('-'),
        }
    }
    !names_a_part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_caches_are_built_when_they_are_measured() {
        let needs = |line: &str| needs_peers(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert!(needs("") && needs("--quick") && needs("cpu compare") && needs("--trace cpu --out compare"));
        assert!(!needs("cpu keys") && !needs("--trace compare replay") && !needs("--help"));
    }
}
