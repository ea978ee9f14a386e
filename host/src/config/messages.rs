//! Messages about a configuration that was read: a few of each kind, and the number of the rest.

use std::collections::BTreeMap;

use crate::limits::{CONFIG_MESSAGE_BYTES_MAX, MESSAGES_OF_A_KIND_MAX};
use crate::text::shown;

/// Collects messages, each as one line that is escaped and cut. It bounds them, so that ninety thousand unknown keys
/// are not ninety thousand lines of a log.
#[derive(Debug, Default)]
pub(super) struct Messages {
    kept: Vec<String>,
    /// Number of messages of each kind.
    n_of_kind: BTreeMap<&'static str, usize>,
}

impl Messages {
    /// Adds a message. `kind` is a plural, as in "unknown keys, which are ignored".
    pub(super) fn push(&mut self, kind: &'static str, message: impl FnOnce() -> String) {
        let n = self.n_of_kind.entry(kind).or_default();
        *n += 1;
        if *n <= MESSAGES_OF_A_KIND_MAX {
            self.kept.push(shown(&message(), CONFIG_MESSAGE_BYTES_MAX));
        }
    }

    /// Returns the kept messages, and the number of the rest of each kind.
    pub(super) fn finish(self) -> Vec<String> {
        let mut kept = self.kept;
        for (kind, n) in self.n_of_kind {
            if let Some(n_more @ 1..) = n.checked_sub(MESSAGES_OF_A_KIND_MAX) {
                kept.push(format!("there are {n_more} more {kind}"));
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_kind_are_kept_and_the_rest_counted() {
        let mut messages = Messages::default();
        for index in 0..MESSAGES_OF_A_KIND_MAX + 2 {
            messages.push("unknown keys", || format!("unknown key `k{index}`"));
        }
        messages.push("tiers", || "one tier".to_owned());
        let kept = messages.finish();
        assert_eq!(kept.len(), MESSAGES_OF_A_KIND_MAX + 2);
        assert_eq!(kept[MESSAGES_OF_A_KIND_MAX], "one tier");
        assert_eq!(kept[MESSAGES_OF_A_KIND_MAX + 1], "there are 2 more unknown keys");
    }
}
