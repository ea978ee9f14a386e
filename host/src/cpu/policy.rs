//! The names of the eviction policies.

use std::fmt;
use std::str::FromStr;

/// The order in which chunks leave the CPU tier when room is needed. Each policy is exact over the whole tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EvictionPolicy {
    /// The chunk whose last use is longest ago.
    #[default]
    Lru,
    /// The chunk used least often; among equals, the one whose last use is longest ago.
    Lfu,
    /// The chunk that was stored first. Uses do not matter.
    Fifo,
    /// The chunk used last.
    Mru,
    /// S3-FIFO: chunks that came once before chunks that were used again, in the order of arrival. A small queue has a
    /// tenth of all chunks, and a main queue those used more than once in the small one. Uses count up to 3, and each
    /// one spares a chunk of the main queue once.
    S3Fifo,
    /// SIEVE: the oldest chunk that was not used since the policy last visited it.
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

/// The name of no eviction policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown cache policy {name:?}: choose one of LRU, LFU, FIFO, MRU, S3-FIFO, SIEVE (in any case)")]
pub struct UnknownPolicy {
    /// The given name.
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
