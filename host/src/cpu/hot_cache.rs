//! The switch for keeping chunks in the CPU tier.

/// The switch for keeping chunks in the CPU tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HotCache {
    /// Chunks stay until they are evicted.
    On,
    /// The memory is used as a buffer pool only.
    Off,
}
