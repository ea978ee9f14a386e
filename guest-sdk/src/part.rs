//! Some of a call's chunks, for a backend that passes them on.

use crate::{ChunkKey, Error, Sinks, Sources};

/// Some of a call's chunks: their keys, and where they stand in the call.
///
/// A backend in front of another one passes a part of a call on, and puts the results back where they belong:
///
/// ```
/// # use kvtier_guest::{ChunkKey, Error, Part};
/// # use kvtier_guest::testing::{keys, sources};
/// # fn put_elsewhere(keys: &[ChunkKey]) -> Vec<Result<(), Error>> { keys.iter().map(|_| Ok(())).collect() }
/// # let (keys, data) = (keys(3), sources(["a", "b", "c"]));
/// let part = Part::of(&keys, |_, key| key.lo != 1);
/// let some = part.sources(&data)?;
/// assert_eq!((part.keys().len(), some.count()), (2, 2));
///
/// let mut results = vec![Err(Error::NoSpace); keys.len()];
/// part.put_back(&mut results, put_elsewhere(part.keys()));
/// assert_eq!(results, [Ok(()), Err(Error::NoSpace), Ok(())]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Part {
    indices: Vec<u32>,
    keys: Vec<ChunkKey>,
}

impl Part {
    /// Returns the chunks for which `belongs` returns true, given their index and key.
    pub fn of(keys: &[ChunkKey], mut belongs: impl FnMut(u32, ChunkKey) -> bool) -> Self {
        let some = keys.iter().zip(0..).filter(|&(key, index)| belongs(index, *key));
        let (keys, indices) = some.map(|(key, index)| (*key, index)).unzip();
        Self { indices, keys }
    }

    /// Returns the keys of the chunks, in the call's order.
    pub fn keys(&self) -> &[ChunkKey] {
        &self.keys
    }

    /// Returns where the chunks stand in the call.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Reports whether no chunk is in it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the chunks of a put, without a copy.
    ///
    /// # Errors
    /// See the contract's `sources.select`.
    pub fn sources(&self, data: &Sources) -> Result<Sources, Error> {
        data.select(&self.indices)
    }

    /// Returns the buffers of a get.
    ///
    /// # Errors
    /// See the contract's `sinks.select`.
    pub fn sinks(&self, into: &Sinks) -> Result<Sinks, Error> {
        into.select(&self.indices)
    }

    /// Replaces the results of these chunks among those of the call. Results beyond either list are dropped.
    pub fn put_back<T>(&self, all: &mut [T], results: impl IntoIterator<Item = T>) {
        for (index, result) in self.indices.iter().zip(results) {
            if let Some(place) = all.get_mut(*index as usize) {
                *place = result;
            }
        }
    }
}
