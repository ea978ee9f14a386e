//! JSON, the format of `LMCACHE_EXTRA_CONFIG`.

use super::Node;
use super::build::Budget;

/// Parses a document.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let budget = Budget::new();
    budget
        .build(&mut deserializer)
        .and_then(|node| deserializer.end().map(|()| node))
        .map_err(|error| budget.explain(&error))
}
