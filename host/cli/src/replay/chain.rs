//! What a replay needs from a chain of tiers.

use std::collections::BTreeMap;

use anyhow::Result;
use kvtier::{ChunkKey, ChunkSpec};

use crate::histogram::Histogram;

/// The outcome of an offered chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The chain took the payload.
    New,
    /// The first tier already had it. The offer counted as a use.
    Present,
    /// There was no memory for it.
    Refused,
}

/// A retrieved chunk.
pub struct Retrieved<C> {
    /// The position in the chain of the tier that served it.
    pub tier: usize,
    /// The payload.
    pub chunk: C,
}

/// The counts of one tier.
#[derive(Debug, Clone, Default)]
pub struct TierCounters {
    /// Payload bytes that the tier served.
    pub bytes_read: u64,
    /// Payload bytes that the tier stored.
    pub bytes_written: u64,
    /// Chunks evicted to make room. The host does not see evictions inside a backend.
    pub evictions: u64,
    /// Latency by operation.
    pub latency: BTreeMap<String, Histogram>,
    /// Chunks that a retrieval requested and the tier did not serve, by reason.
    pub misses: BTreeMap<String, u64>,
    /// Failed calls and chunks, by operation and kind.
    pub errors: BTreeMap<String, u64>,
    /// The text of the last error, by operation and kind.
    pub last_errors: BTreeMap<String, String>,
    /// Puts of chunks that the tier had no space for, by reason. The tier works, so they are not among its errors.
    pub refused: BTreeMap<String, u64>,
    /// Puts that ended before the tier had the chunk, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Operations that skipped the tier because its breaker was open, by direction.
    pub skipped: BTreeMap<String, u64>,
    /// Replaced lanes and opened breakers.
    pub events: BTreeMap<String, u64>,
    /// The last failure, by what failed.
    pub last_causes: BTreeMap<String, String>,
}

/// What a replay needs from a chain of tiers.
pub trait Chain {
    /// A retrieved payload.
    type Chunk: AsRef<[u8]>;

    /// Returns the tiers' names, in the chain's order.
    fn tier_names(&self) -> Vec<String>;

    /// Returns how many chunks may be retrieved in one call, at least 1.
    fn window(&self) -> usize;

    /// Returns the keys of a prompt whose chunks have these ids as content.
    fn keys(&self, block_ids: &[u64]) -> Vec<ChunkKey>;

    /// Returns how many of the leading `keys` the chain has. Retrievals in the order of `keys` follow, until
    /// [`Chain::release`].
    fn lookup(&mut self, keys: &[ChunkKey]) -> Result<usize>;

    /// Retrieves the chunks before the first gap.
    fn retrieve(&mut self, chunks: &[ChunkSpec]) -> Result<Vec<Retrieved<Self::Chunk>>>;

    /// Releases the resources of the last [`Chain::lookup`].
    fn release(&mut self) -> Result<()>;

    /// Offers a chunk to every tier. `fill` is called with the buffer if the payload is needed.
    fn store(&mut self, chunk: ChunkSpec, fill: &mut dyn FnMut(&mut [u8])) -> Result<Stored>;

    /// Waits until every tier has stored the offered chunks.
    fn flush(&mut self) -> Result<()>;

    /// Returns the tiers' counters, in the chain's order.
    fn counters(&self) -> Result<Vec<TierCounters>>;

    /// Closes all tiers, also after a failed replay.
    fn close(&mut self) -> Result<()>;
}
