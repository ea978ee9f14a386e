//! YAML, the format of `LMCache`'s files. JSON is a part of it.

use super::Node;
use super::build::Budget;
use crate::limits::{DIRECTIVES_MAX, SCAN_COST_MAX};

/// Parses a document; an empty one is `Null`.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    refuse_costly_scan(text)?;
    let budget = Budget::new();
    budget.build(serde_yaml::Deserializer::from_str(text)).map_err(|error| budget.explain(&error))
}

/// Refuses texts that would keep the YAML scanner busy: its time grows with the number of tokens times the depth of
/// open brackets (500 kB of `[a: ` took 220 s). All brackets count, including those in comments and quotes, because
/// recognising these would take another scanner.
///
/// Directives (`%TAG`) are compared with each other, and 60,000 of them took minutes; a configuration needs none.
fn refuse_costly_scan(text: &str) -> Result<(), String> {
    let n_directives = text.lines().filter(|line| line.starts_with('%')).count();
    if n_directives > DIRECTIVES_MAX {
        return Err(format!(
            "{n_directives} lines that begin with `%` are too many; YAML takes them for directives, so indent or quote \
             them"
        ));
    }
    let n_brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() as u64;
    if n_brackets * text.len() as u64 > SCAN_COST_MAX {
        return Err(format!(
            "{n_brackets} brackets (`[`, `{{`) in {} bytes are too many; use indented lists and mappings",
            text.len()
        ));
    }
    Ok(())
}
