//! Filling a store until it is full.

use kvtier::ChunkKey;
use kvtier::tier::{Pinning, TierError};

use crate::calls::Got;
use crate::judgement::{Stop, refused};
use crate::kit::{Ended, Kit};
use crate::limits::{
    CHUNKS_MIN, FILL_BYTES_MAX, FILL_CHUNK_BYTES, FILL_CHUNKS, FILL_MEMORIES_MAX, FILL_SMALL_BYTES,
    LARGE_FILL_CHUNK_BYTES,
};

/// How filling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The store refused a chunk.
    Refused,
    /// The store evicted a chunk.
    Evicted,
    /// The store took all that the check wanted to give.
    NeverFull,
}

/// A store that was filled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) end: End,
    /// The bytes that are stored then: an estimate of the capacity.
    pub(crate) bytes: usize,
    /// The size of chunks of which the store holds many.
    pub(crate) chunk_bytes: usize,
    /// A chunk that the store refused, and found nevertheless.
    pub(crate) refused_but_found: bool,
}

/// Whether the sizes of chunks grow while a store is filled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sizes {
    Growing,
    Large,
}

impl Kit {
    /// Fills a new instance: with chunks that are smaller than one transfer, and then another with larger ones. Returns
    /// the result of the first, and does it once for all tests.
    pub(crate) fn filled(&mut self) -> Result<Fill, Stop> {
        if let Some(fill) = self.fill {
            return Ok(fill);
        }
        let most =
            (self.backend().limits.memory_bytes * FILL_MEMORIES_MAX).min(FILL_BYTES_MAX as u64) as usize;
        self.renew();
        let fill = self.fill_up_to(most, Sizes::Growing)?;
        self.alive("put until the store is full")?;
        if fill.end != End::NeverFull {
            self.clean_up(Ended::Well);
            self.renew();
            self.fill_up_to(fill.bytes + fill.bytes / 2 + LARGE_FILL_CHUNK_BYTES, Sizes::Large)?;
            self.alive("put of chunks of 1 MiB + 1 until the store is full")?;
        }
        self.fill = Some(fill);
        Ok(fill)
    }

    fn fill_up_to(&mut self, most: usize, sizes: Sizes) -> Result<Fill, Stop> {
        let mut fill = Fill { end: End::NeverFull, bytes: 0, chunk_bytes: 0, refused_but_found: false };
        let mut keys: Vec<(ChunkKey, usize)> = Vec::new();
        let mut n_calls = 0;
        while fill.bytes < most && fill.end == End::NeverFull {
            let (n_chunks, size) = match sizes {
                Sizes::Large => (1, LARGE_FILL_CHUNK_BYTES),
                Sizes::Growing => {
                    (FILL_CHUNKS, FILL_CHUNK_BYTES[usize::from(fill.bytes >= FILL_SMALL_BYTES)])
                }
            };
            let new = self.many_keys(n_chunks);
            let call =
                format!("put of {n_chunks} chunks of {size} bytes when {} bytes are stored", fill.bytes);
            let results = self.try_put(&new, size, 0)?;
            let results = results.map_err(|error| refused(&call, "ok or no-space for each chunk", &error))?;
            for (key, result) in new.iter().zip(results) {
                match result {
                    Ok(()) => {
                        fill.bytes += size;
                        keys.push((*key, size));
                    }
                    Err(error) => {
                        fill.end = End::Refused;
                        self.look_at_refused(*key, size, &error, &mut fill)?;
                    }
                }
            }
            // Each time another key, because looking at it may count as a use.
            if let Some((key, _)) = keys.get(n_calls)
                && self.contains(&[*key], Pinning::None)? == Ok(0)
            {
                fill.end = End::Evicted;
                fill.bytes = self.held_bytes(&keys)?;
            }
            n_calls += 1;
        }
        fill.chunk_bytes = FILL_CHUNK_BYTES[usize::from(fill.bytes >= FILL_SMALL_BYTES * 2)];
        Ok(fill)
    }

    /// Returns the payload of those chunks that are present.
    fn held_bytes(&mut self, keys: &[(ChunkKey, usize)]) -> Result<usize, Stop> {
        let mut bytes = 0;
        for (key, size) in keys {
            if self.contains(&[*key], Pinning::None)? == Ok(1) {
                bytes += size;
            }
        }
        Ok(bytes)
    }

    fn look_at_refused(
        &mut self,
        key: ChunkKey,
        size: usize,
        error: &TierError,
        fill: &mut Fill,
    ) -> Result<(), Stop> {
        if *error != TierError::NoSpace {
            self.note(format!(
                "a full store answers `{error}`; `no-space` would tell the host that the backend works and is full"
            ));
        }
        let got = self.get("get of a chunk that was refused", &[key], size)?;
        fill.refused_but_found |= got != [Got::Miss];
        Ok(())
    }

    /// Returns the filled store, or ends the test if its capacity is not known.
    pub(crate) fn capacity(&mut self) -> Result<Fill, Stop> {
        let fill = self.filled()?;
        if fill.end == End::NeverFull {
            return Err(Stop::NotTried(format!(
                "the store is not full after {} MiB; configure a smaller capacity for the check",
                fill.bytes >> 20
            )));
        }
        let least = fill.chunk_bytes * CHUNKS_MIN;
        if fill.bytes < least {
            return Err(Stop::NotTried(format!(
                "the store has room for {} KiB only; configure at least {} KiB for the check",
                fill.bytes >> 10,
                least >> 10
            )));
        }
        Ok(fill)
    }
}
