//! Choosing tiers.

/// The name of the CPU tier.
pub const CPU_TIER: &str = "cpu";

/// A tier's place in the chain: 0 is the CPU tier, backends follow in the configuration's order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TierIndex(pub usize);

/// No backend of the chain has the given name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no backend `{0}`")]
pub struct UnknownBackend(pub String);

/// The tiers that an operation concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tiers {
    /// Every tier.
    #[default]
    All,
    /// The named tiers, in the chain's order; no tier if the list is empty.
    Only(Vec<String>),
}

impl Tiers {
    /// Chooses tiers by name.
    pub fn only<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::Only(names.into_iter().map(Into::into).collect())
    }

    pub(super) fn includes(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|chosen| chosen == name),
        }
    }
}
