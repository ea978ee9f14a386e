//! The names of the eviction policies.

use std::fmt;
use std::str::FromStr;

/// Which chunk leaves the CPU tier first when room is needed. All are exact, over the whole tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EvictionPolicy {
    /// The one whose last use is longest ago.
    #[default]
    Lru,
    /// The one used least often; among those, the one whose last use is longest ago.
    Lfu,
    /// The one that was put first; uses do not matter.
    Fifo,
    /// The one used last.
    Mru,
    /// S3-FIFO: what came once goes before what was used again, first come first. The order of arrival in a
    /// small queue of a tenth of all chunks and a main queue for those used more than once in the small
    /// one; uses count up to 3, and each spares a chunk of the main queue once.
    S3Fifo,
    /// SIEVE: the one that came first among those not used since they were last looked at.
    Sieve,
}

impl EvictionPolicy {
    /// All policies, in the order in which errors list them.
    pub const ALL: [Self; 6] = [Self::Lru, Self::Lfu, Self::Fifo, Self::Mru, Self::S3Fifo, Self::Sieve];

    /// Returns the name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "LRU",
            Self::Lfu => "LFU",
            Self::Fifo => "FIFO",
            Self::Mru => "MRU",
            Self::S3Fifo => "S3-FIFO",
            Self::Sieve => "SIEVE",
        }
    }
}

impl fmt::Display for EvictionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EvictionPolicy {
    type Err = UnknownPolicy;

    /// Parses a name in any case.
    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let is_named = |policy: &Self| policy.name().eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(is_named).ok_or_else(|| UnknownPolicy { name: name.into() })
    }
}

/// A name that no eviction policy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown cache policy {name:?}: choose one of LRU, LFU, FIFO, MRU, S3-FIFO, SIEVE (in any case)")]
pub struct UnknownPolicy {
    /// What was given.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::EvictionPolicy;

    #[test]
    fn t44_policy_names_are_known_in_any_case_and_others_refused() {
        for policy in EvictionPolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
            assert_eq!(policy.name().to_lowercase().parse(), Ok(policy));
        }
        assert_eq!("lRu".parse(), Ok(EvictionPolicy::Lru));
        for unknown in ["", "ARC", "LRU "] {
            let error = unknown.parse::<EvictionPolicy>().unwrap_err();
            assert_eq!(error.name, unknown);
            for policy in EvictionPolicy::ALL {
                assert!(error.to_string().contains(policy.name()));
            }
        }
    }
}
