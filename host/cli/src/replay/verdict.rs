//! The judgement of a replay over the backends.

use std::fmt;

use super::Outcome;

/// Errors of a backend that no store may make, whatever its state: the answer breaks the contract, or the guest
/// trapped.
const BREACHES: [&str; 2] = ["bad_answer", "trap"];

/// Misses that are wrong answers: the backend said that it had delivered the chunk, and it had delivered other bytes.
const WRONG_DELIVERIES: [&str; 7] = [
    "check_failed",
    "no_trailer",
    "other_algorithm",
    "other_key",
    "other_length",
    "other_namespace",
    "wrong_length",
];

/// Misses without a failure: the chunk is not there, is no longer there, or does not fit.
const WITHOUT_FAILURE: [&str; 4] = ["larger_than_buffer", "no_memory", "not_found", "phantom_hit"];

/// How strictly backends are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// A backend may be slow, full or out of reach.
    Lenient,
    /// A backend has to serve.
    Strict,
}

/// Backends failed the judgement. The results of the replay are valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultyBackends(Vec<String>);

impl FaultyBackends {
    /// Judges the backends; `None` if they passed.
    pub fn find(outcome: &Outcome, strictness: Strictness) -> Option<Self> {
        let mut faults = Vec::new();
        for (name, tier) in outcome.tier_names.iter().zip(&outcome.tiers) {
            let ends_with = |kind: &str, ends: &[&str]| ends.iter().any(|end| kind.ends_with(end));
            let errors = tier.errors.keys().filter(|kind| ends_with(kind, &BREACHES));
            let misses = tier.misses.keys().filter(|reason| WRONG_DELIVERIES.contains(&reason.as_str()));
            let breaches: Vec<&str> = errors.chain(misses).map(String::as_str).collect();
            if !breaches.is_empty() {
                faults.push(format!("`{name}` broke the contract: {}", breaches.join(", ")));
            }
            if strictness == Strictness::Strict {
                let errors = tier.errors.keys().filter(|kind| !ends_with(kind, &BREACHES));
                let is_failure = |reason: &&String| {
                    let reason = reason.as_str();
                    !WITHOUT_FAILURE.contains(&reason) && !WRONG_DELIVERIES.contains(&reason)
                };
                let misses = tier.misses.keys().filter(is_failure);
                let failures: Vec<&str> =
                    errors.chain(tier.dropped.keys()).chain(misses).map(String::as_str).collect();
                if !failures.is_empty() {
                    faults.push(format!("`{name}` could not serve: {}", failures.join(", ")));
                }
            }
        }
        if faults.is_empty() { None } else { Some(Self(faults)) }
    }
}

impl fmt::Display for FaultyBackends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for FaultyBackends {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    /// The outcome of the sample, in which `disk` works but for one kind of error or miss.
    fn judged(errors: &[&str], misses: &[&str], strictness: Strictness) -> Option<String> {
        let mut outcome = sample::outcome();
        for tier in &mut outcome.tiers {
            tier.errors.clear();
            tier.dropped.clear();
            tier.misses.retain(|reason, _| reason == "not_found");
        }
        let disk = &mut outcome.tiers[2];
        disk.errors.extend(errors.iter().map(|kind| ((*kind).to_owned(), 1)));
        disk.misses.extend(misses.iter().map(|reason| ((*reason).to_owned(), 1)));
        FaultyBackends::find(&outcome, strictness).map(|faults| faults.to_string())
    }

    #[test]
    fn a_breach_of_the_contract_fails_and_a_store_that_is_slow_or_full_fails_strictly_only() {
        use Strictness::{Lenient, Strict};
        assert_eq!(judged(&[], &["phantom_hit"], Strict), None);
        for kind in ["get_trap", "contains_bad_answer"] {
            assert_eq!(judged(&[kind], &[], Lenient), Some(format!("`disk` broke the contract: {kind}")));
        }
        for reason in WRONG_DELIVERIES {
            assert!(judged(&[], &[reason], Lenient).is_some(), "{reason}");
        }
        assert_eq!(judged(&[], &["other"], Lenient), None);
        assert_eq!(judged(&[], &["other"], Strict), Some("`disk` could not serve: other".into()));
        for kind in ["get_timeout", "put_unavailable", "get_corrupt", "put_lost"] {
            assert_eq!(judged(&[kind], &[], Lenient), None);
            assert_eq!(judged(&[kind], &[], Strict), Some(format!("`disk` could not serve: {kind}")));
        }
    }
}
