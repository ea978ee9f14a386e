//! The two names that matter of a guest's `Cargo.toml`. The files are ours and plain, so that lines are enough
//! and no TOML parser is built before anything else can start.

use anyhow::{Context, Result};

/// Names of a package.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) package: String,
    /// The file name of the built component, without `.wasm`.
    pub(crate) artifact: String,
}

/// Reads the names from a manifest's text.
pub(crate) fn names(text: &str) -> Result<Names> {
    let package = value(text, "[package]", "name").context("[package] has no name")?;
    let artifact = value(text, "[lib]", "name").unwrap_or_else(|| package.replace('-', "_"));
    Ok(Names { package, artifact })
}

/// The string under `key` in `section`, which is as written: `[package]`.
fn value(text: &str, section: &str, key: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let mut pairs = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().strip_prefix('"')?.split('"').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_their_sections() {
        let text = "[package]\nname = \"kvtier-backend-log\" # ours\nversion = \"1\"\n\n\
                    [lib]\nname = \"log\"\n[dependencies]\nname = \"other\"\n";
        assert_eq!(
            names(text).unwrap(),
            Names { package: "kvtier-backend-log".into(), artifact: "log".into() }
        );
    }

    #[test]
    fn without_a_lib_name_the_package_names_the_file() {
        let text = "[package]\nname = \"kvtier-test-guest-x\"\n[lib]\ncrate-type = [\"cdylib\"]\n[x]\nname = \"no\"\n";
        assert_eq!(names(text).unwrap().artifact, "kvtier_test_guest_x");
        assert!(names("[lib]\nname = \"x\"\n").is_err());
    }
}
