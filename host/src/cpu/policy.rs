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
    pub const ALL: &'static [Self] =
        &[Self::Lru, Self::Lfu, Self::Fifo, Self::Mru, Self::S3Fifo, Self::Sieve];

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

    /// Returns a description of a few words, as help texts have it.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Lru => "Least recently used first",
            Self::Lfu => "Least often used first",
            Self::Fifo => "Oldest first",
            Self::Mru => "Most recently used first",
            Self::S3Fifo => "Three queues: chunks used once go before chunks used again",
            Self::Sieve => "Oldest first, but spared once for each use",
        }
    }

    /// Returns all names, separated by commas.
    fn names() -> String {
        Self::ALL.iter().map(|policy| policy.name()).collect::<Vec<_>>().join(", ")
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
        Self::ALL.iter().copied().find(is_named).ok_or_else(|| UnknownPolicy { name: name.into() })
    }
}

/// An unknown name of an eviction policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown cache policy {name:?}: choose one of {} (in any case)", EvictionPolicy::names())]
pub struct UnknownPolicy {
    /// The given name.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::EvictionPolicy;

    #[test]
    fn t44_policy_names_are_known_in_any_case_and_others_refused() {
        for &policy in EvictionPolicy::ALL {
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
