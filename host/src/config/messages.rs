//! What reading a configuration has to say: a few messages of each kind, and how many more there are.

use std::collections::BTreeMap;

use crate::limits::{CONFIG_MESSAGE_BYTES_MAX, MESSAGES_OF_A_KIND_MAX};
use crate::text::shown;

/// Collects messages, each as one line that is escaped and cut, so that ninety thousand unknown keys are not ninety
/// thousand lines of a log.
#[derive(Debug, Default)]
pub(super) struct Messages {
    said: Vec<String>,
    /// How many there are of each kind.
    n_of_kind: BTreeMap<&'static str, usize>,
}

impl Messages {
    /// Adds a message. `kind` names many of them, as in "unknown keys, which are ignored".
    pub(super) fn push(&mut self, kind: &'static str, message: impl FnOnce() -> String) {
        let n = self.n_of_kind.entry(kind).or_default();
        *n += 1;
        if *n <= MESSAGES_OF_A_KIND_MAX {
            self.said.push(shown(&message(), CONFIG_MESSAGE_BYTES_MAX));
        }
    }

    /// Returns the messages, and one for each kind of which there are more.
    pub(super) fn finish(self) -> Vec<String> {
        let mut said = self.said;
        for (kind, n) in self.n_of_kind {
            if let Some(n_more @ 1..) = n.checked_sub(MESSAGES_OF_A_KIND_MAX) {
                said.push(format!("there are {n_more} more {kind}"));
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_kind_are_said_and_the_rest_counted() {
        let mut messages = Messages::default();
        for index in 0..MESSAGES_OF_A_KIND_MAX + 2 {
            messages.push("unknown keys", || format!("unknown key `k{index}`"));
        }
        messages.push("tiers", || "one tier".to_owned());
        let said = messages.finish();
        assert_eq!(said.len(), MESSAGES_OF_A_KIND_MAX + 2);
        assert_eq!(said[MESSAGES_OF_A_KIND_MAX], "one tier");
        assert_eq!(said[MESSAGES_OF_A_KIND_MAX + 1], "there are 2 more unknown keys");
    }
}
