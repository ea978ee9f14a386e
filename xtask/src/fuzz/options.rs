//! The arguments of `cargo xtask fuzz`.

use anyhow::{Context, Result, bail, ensure};

const SECONDS: u64 = 60;

/// What to fuzz, and for how long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// Seconds of each target.
    pub(super) seconds: u64,
    /// Names of targets; never empty.
    pub(super) targets: Vec<String>,
}

impl Options {
    /// Reads `[--seconds N] [TARGET...]`; without targets, all of `known`.
    pub(super) fn parse(arguments: &[String], known: &[&str]) -> Result<Self> {
        let mut options = Self { seconds: SECONDS, targets: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seconds" => {
                    let value = arguments.next().context("--seconds needs a number")?;
                    options.seconds =
                        value.parse().with_context(|| format!("--seconds is `{value}`, not a number"))?;
                    ensure!(options.seconds > 0, "--seconds must be at least 1");
                }
                name if known.contains(&name) => options.targets.push(name.to_owned()),
                name => bail!("there is no target `{name}`; the targets are {}", known.join(", ")),
            }
        }
        if options.targets.is_empty() {
            options.targets = known.iter().map(|name| (*name).to_owned()).collect();
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Options::parse(&arguments, &["a", "b"])
    }

    #[test]
    fn seconds_and_targets_have_defaults() {
        let options = |seconds, targets: &[&str]| Options {
            seconds,
            targets: targets.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(parse("").unwrap(), options(SECONDS, &["a", "b"]));
        assert_eq!(parse("b --seconds 600").unwrap(), options(600, &["b"]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, message) in [
            ("c", "there is no target `c`; the targets are a, b"),
            ("--seconds", "--seconds needs a number"),
            ("--seconds x", "--seconds is `x`, not a number"),
            ("--seconds 0", "--seconds must be at least 1"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
    }
}
