//! How a test ends.

use std::fmt::{Debug, Display};

use kvtier::tier::TierError;

use crate::limits::FOUND_CHARS_MAX;

/// What a backend did against a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The call.
    pub call: String,
    /// The answer that keeps the sentence.
    pub expected: String,
    /// The answer that came.
    pub found: String,
}

impl Breach {
    /// Returns where to look first, if the instance died or did not answer, whatever the sentence is.
    pub fn hint(&self) -> Option<&'static str> {
        if self.found.contains("the guest trapped") {
            Some("The instance ended in a trap: look at its last output first.")
        } else if self.found.starts_with("no answer within") {
            Some("The call did not end in time: look at what it waits for first.")
        } else {
            None
        }
    }
}

/// Why a test ended before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The backend broke the sentence.
    Breach(Breach),
    /// No answer came, so the sentence is broken, and further tests may wait in vain.
    Silence(Breach),
    /// The test says nothing about this backend, and why.
    NotTried(String),
}

/// The end of a test: `Ok` if the sentence is kept.
pub(crate) type Judgement = Result<(), Stop>;

/// Requires that something holds.
pub(crate) fn require(
    holds: bool,
    call: impl Display,
    expected: impl Display,
    found: impl Display,
) -> Judgement {
    if holds { Ok(()) } else { Err(breach(call, expected, found)) }
}

/// Requires an answer without an error.
pub(crate) fn answered<T>(
    call: impl Display,
    expected: impl Display,
    found: Result<T, TierError>,
) -> Result<T, Stop> {
    found.map_err(|error| refused(call, expected, &error))
}

/// Requires exactly this answer.
pub(crate) fn answers<T: Debug + PartialEq>(
    call: impl Display,
    expected: &T,
    found: Result<T, TierError>,
) -> Judgement {
    let shown = format!("{expected:?}");
    let found = answered(&call, &shown, found)?;
    require(found == *expected, call, shown, format!("{found:?}"))
}

/// Makes the stop of a call that ended in an error.
pub(crate) fn refused(call: impl Display, expected: impl Display, error: &TierError) -> Stop {
    match error {
        TierError::Timeout(_) => silence(call, expected, error),
        // Not the backend's answer.
        TierError::Busy => Stop::NotTried(
            "the host refuses calls beyond limits.calls_in_flight_max and limits.bytes_in_flight; raise them for the \
             check"
                .to_owned(),
        ),
        _ => breach(call, expected, error),
    }
}

/// Makes the stop of a test whose chunks the store has no space for.
pub(crate) fn no_space(call: impl Display) -> Stop {
    Stop::NotTried(format!("the store has no space for the chunks of the {call}"))
}

/// Makes the stop of a broken sentence.
pub(crate) fn breach(call: impl Display, expected: impl Display, found: impl Display) -> Stop {
    Stop::Breach(new_breach(call, expected, found))
}

/// Makes the stop of a broken sentence after which further tests may wait in vain.
pub(crate) fn silence(call: impl Display, expected: impl Display, found: impl Display) -> Stop {
    Stop::Silence(new_breach(call, expected, found))
}

fn new_breach(call: impl Display, expected: impl Display, found: impl Display) -> Breach {
    let found = shortened(&found.to_string());
    Breach { call: call.to_string(), expected: expected.to_string(), found }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(FOUND_CHARS_MAX) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

/// Joins answers, with a count in front of equal ones: `3 × ok, none`.
pub(crate) fn listed(answers: impl IntoIterator<Item = String>) -> String {
    let mut runs: Vec<(usize, String)> = Vec::new();
    for answer in answers {
        match runs.last_mut() {
            Some((n, last)) if *last == answer => *n += 1,
            _ => runs.push((1, answer)),
        }
    }
    let runs = runs.into_iter().map(|(n, answer)| if n == 1 { answer } else { format!("{n} × {answer}") });
    let text = runs.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "no results".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_answers_are_counted_and_long_texts_are_cut() {
        let answers = ["ok", "ok", "none", "ok"].map(str::to_owned);
        assert_eq!(listed(answers), "2 × ok, none, ok");
        assert_eq!(listed([]), "no results");
        let Stop::Breach(found) = breach("a", "b", "é".repeat(5000)) else { panic!("another stop") };
        assert_eq!(found.found.chars().count(), FOUND_CHARS_MAX + 2);
    }

    #[test]
    fn a_trap_has_a_hint() {
        let hint = |stop| match stop {
            Stop::Breach(breach) | Stop::Silence(breach) => breach.hint(),
            Stop::NotTried(_) => None,
        };
        assert_eq!(hint(breach("get", "ok", "none")), None);
        let trap = refused("get", "ok", &TierError::Trap("unreachable".to_owned()));
        assert!(hint(trap).is_some_and(|text| text.contains("trap")));
        let late = refused("get", "ok", &TierError::Timeout(std::time::Duration::ZERO));
        assert!(hint(late).is_some_and(|text| text.contains("in time")));
    }

    #[test]
    fn a_call_without_an_answer_is_told_apart() {
        let silent = refused("put", "ok", &TierError::Timeout(std::time::Duration::ZERO));
        assert!(matches!(silent, Stop::Silence(_)));
        assert!(matches!(refused("put", "ok", &TierError::NoSpace), Stop::Breach(_)));
        assert!(matches!(refused("put", "ok", &TierError::Busy), Stop::NotTried(_)), "the host's answer");
    }
}
