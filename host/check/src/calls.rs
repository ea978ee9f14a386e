//! The calls of the contract, with chunks whose bytes are known.

use kvtier::ChunkKey;
use kvtier::memory::{BufferMut, ChunkWriter};
use kvtier::tier::{Pinning, Sink, Sinks, Sources, TRAILER_BYTES, TierError};
use kvtier::{Chunk, block_on};

use crate::content::{Salt, fill, salt};
use crate::judgement::{Judgement, Stop, answered, breach, listed, no_space, require};
use crate::kit::Kit;

/// What a get says about one chunk, and what is in its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// The right bytes of the chunk, put with this salt; and the length that was answered.
    Chunk { salt: Salt, length: u64 },
    /// The chunk is absent.
    Miss,
    /// The chunk is larger than the buffer.
    Larger(u64),
    /// An answer whose bytes are not the chunk.
    Wrong(String),
    /// An error.
    Failed(TierError),
}

impl Got {
    /// Shows the answer as a report has it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Chunk { salt: 0, length } => format!("the chunk, {length} bytes"),
            Self::Chunk { salt, length } => format!("the chunk of put {}, {length} bytes", salt + 1),
            Self::Miss => "none".to_owned(),
            Self::Larger(length) => format!("a length of {length} bytes"),
            Self::Wrong(what) => what.clone(),
            Self::Failed(error) => format!("error: {error}"),
        }
    }

    /// Reports whether the bytes of the put with this salt came, whatever length was answered.
    pub(crate) fn is_chunk(&self, expected: Salt) -> bool {
        matches!(self, Self::Chunk { salt, .. } if *salt == expected)
    }
}

/// Results of a put, as a report has them.
pub(crate) fn shown_put(results: &[Result<(), TierError>]) -> String {
    listed(results.iter().map(|result| match result {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("error: {error}"),
    }))
}

/// Results of a get, as a report has them.
pub(crate) fn shown_get(results: &[Got]) -> String {
    listed(results.iter().map(Got::shown))
}

/// Returns the length that a get answers for a payload: the trailer belongs to the chunk.
pub(crate) fn stored_length(payload_bytes: usize) -> u64 {
    (payload_bytes + TRAILER_BYTES) as u64
}

impl Kit {
    fn writer(&self, key: ChunkKey, size_bytes: usize) -> Result<ChunkWriter, Stop> {
        let no_memory = || Stop::NotTried(format!("the check has no memory for {size_bytes} bytes"));
        let buffer = BufferMut::allocate(&self.memory, size_bytes).map_err(|_| no_memory())?;
        Ok(ChunkWriter::new(key, buffer.ok_or_else(no_memory)?))
    }

    fn chunk(&self, key: ChunkKey, size_bytes: usize, salt: Salt) -> Result<Chunk, Stop> {
        let mut writer = self.writer(key, size_bytes)?;
        fill(key, salt, &mut writer);
        Ok(writer.freeze())
    }

    /// Returns chunks of these keys, to be put.
    pub(crate) fn sources(&self, keys: &[ChunkKey], size_bytes: usize, salt: Salt) -> Result<Sources, Stop> {
        let chunks = keys.iter().map(|key| self.chunk(*key, size_bytes, salt));
        Ok(Sources::new(chunks.collect::<Result<_, _>>()?, &self.sealer))
    }

    /// Returns buffers for chunks of these keys.
    pub(crate) fn sinks(&self, keys: &[ChunkKey], size_bytes: usize) -> Result<Sinks, Stop> {
        let writers = keys.iter().map(|key| self.writer(*key, size_bytes));
        Ok(Sinks::new(writers.collect::<Result<_, _>>()?, &self.sealer))
    }

    /// Puts chunks of one size. Requires an answer for the call, and returns one result per chunk.
    pub(crate) fn put(
        &mut self,
        call: &str,
        keys: &[ChunkKey],
        size_bytes: usize,
        salt: Salt,
    ) -> Result<Vec<Result<(), TierError>>, Stop> {
        self.try_put(keys, size_bytes, salt).and_then(|put| answered(call, "one result for each chunk", put))
    }

    /// Puts chunks of one size.
    pub(crate) fn try_put(
        &mut self,
        keys: &[ChunkKey],
        size_bytes: usize,
        salt: Salt,
    ) -> Result<Result<Vec<Result<(), TierError>>, TierError>, Stop> {
        let tier = self.tier()?;
        let data = self.sources(keys, size_bytes, salt)?;
        self.stored.extend(keys);
        let put = block_on(tier.put(keys.into(), data.clone(), self.deadline()));
        data.revoke();
        Ok(put)
    }

    /// Puts chunks that later steps need. Ends the test if the store has no space for them.
    pub(crate) fn store(&mut self, keys: &[ChunkKey], size_bytes: usize) -> Judgement {
        let call = format!("put of {} chunks of {size_bytes} bytes", keys.len());
        let results = self.put(&call, keys, size_bytes, 0)?;
        all_ok(&call, keys.len(), &results)
    }

    /// Fetches chunks into buffers of one size. Requires an answer for the call, and looks at every buffer.
    pub(crate) fn get(&mut self, call: &str, keys: &[ChunkKey], size_bytes: usize) -> Result<Vec<Got>, Stop> {
        let tier = self.tier()?;
        let into = self.sinks(keys, size_bytes)?;
        let results = block_on(tier.get(keys.into(), into.clone(), self.deadline()));
        let sinks = into.revoke();
        let results = answered(call, "one result for each chunk", results)?;
        let answers = results.into_iter().zip(sinks).zip(keys);
        Ok(answers.map(|((result, sink), key)| got(*key, result, sink)).collect())
    }

    /// Fetches chunks, and does not look at them.
    pub(crate) fn try_get(
        &mut self,
        keys: &[ChunkKey],
        size_bytes: usize,
    ) -> Result<Result<(), TierError>, Stop> {
        let tier = self.tier()?;
        let into = self.sinks(keys, size_bytes)?;
        let results = block_on(tier.get(keys.into(), into.clone(), self.deadline()));
        drop(into.revoke());
        Ok(results.map(drop))
    }

    /// Requires that chunks are found with the bytes of the put with this salt.
    pub(crate) fn found(
        &mut self,
        call: &str,
        keys: &[ChunkKey],
        size_bytes: usize,
        salt: Salt,
    ) -> Judgement {
        let got = self.get(call, keys, size_bytes)?;
        let expected = vec![Got::Chunk { salt, length: stored_length(size_bytes) }; keys.len()];
        let holds = got.len() == keys.len() && got.iter().all(|got| got.is_chunk(salt));
        require(holds, call, shown_get(&expected), shown_get(&got))
    }

    /// Requires that chunks are absent.
    pub(crate) fn absent(&mut self, call: &str, keys: &[ChunkKey], size_bytes: usize) -> Judgement {
        let got = self.get(call, keys, size_bytes)?;
        let holds = got.len() == keys.len() && got.iter().all(|got| *got == Got::Miss);
        require(holds, call, listed(vec!["none".to_owned(); keys.len()]), shown_get(&got))
    }

    /// Asks for the leading run.
    pub(crate) fn contains(
        &mut self,
        keys: &[ChunkKey],
        pinning: Pinning,
    ) -> Result<Result<usize, TierError>, Stop> {
        let tier = self.tier()?;
        Ok(block_on(tier.contains(keys.into(), pinning, self.deadline())))
    }

    /// Pins.
    pub(crate) fn pin(&mut self, keys: &[ChunkKey]) -> Result<Result<usize, TierError>, Stop> {
        let tier = self.tier()?;
        Ok(block_on(tier.pin(keys.into(), self.deadline())))
    }

    /// Unpins.
    pub(crate) fn unpin(&mut self, keys: &[ChunkKey]) -> Result<Result<usize, TierError>, Stop> {
        let tier = self.tier()?;
        Ok(block_on(tier.unpin(keys.into(), self.deadline())))
    }

    /// Pins, and ends the test if the class does not support it.
    pub(crate) fn pins(&mut self, call: &str, keys: &[ChunkKey]) -> Result<usize, Stop> {
        match self.pin(keys)? {
            Err(TierError::Unsupported) => {
                Err(Stop::NotTried("the class answers `unsupported` to pin".to_owned()))
            }
            other => answered(call, "a count", other),
        }
    }

    /// Removes, and ends the test if the class does not support it.
    pub(crate) fn remove(&mut self, call: &str, keys: &[ChunkKey]) -> Result<usize, Stop> {
        let tier = self.tier()?;
        match block_on(tier.remove(keys.into(), self.deadline())) {
            Err(TierError::Unsupported) => {
                self.note(
                    "remove answers `unsupported`, which is right only for stores that keep chunks for ever: the host \
                     can then remove neither damaged chunks nor those that a user wants to be gone",
                );
                Err(Stop::NotTried("the class answers `unsupported` to remove".to_owned()))
            }
            other => answered(call, "a count", other),
        }
    }
}

/// Looks at the answer for one chunk, and at its buffer.
pub(crate) fn got(key: ChunkKey, result: Result<Option<u64>, TierError>, sink: Option<Sink>) -> Got {
    let length = match result {
        Ok(Some(length)) => length,
        Ok(None) => return Got::Miss,
        Err(error) => return Got::Failed(error),
    };
    let Some(mut sink) = sink else {
        return Got::Wrong("an answer before the transfer into the buffer had ended".to_owned());
    };
    if length > sink.capacity() as u64 {
        return Got::Larger(length);
    }
    // Bytes may be right although the length is not, which is another breach.
    if !sink.end_at(length as usize) && !sink.is_full() {
        return Got::Wrong(format!("a length of {length} bytes, which this call has not written"));
    }
    match sink.check() {
        Ok(()) => {
            let (payload, _) = sink.into_parts();
            salt(key, &payload)
                .map_or_else(|| Got::Wrong("an empty chunk".to_owned()), |salt| Got::Chunk { salt, length })
        }
        Err(flaw) => {
            Got::Wrong(format!("a length of {length} bytes, and bytes that are not the chunk ({flaw})"))
        }
    }
}

/// Requires that every chunk was stored.
pub(crate) fn all_ok(call: &str, n_chunks: usize, results: &[Result<(), TierError>]) -> Judgement {
    let expected = listed(vec!["ok".to_owned(); n_chunks]);
    let first = results.iter().find_map(|result| result.as_ref().err());
    match first {
        Some(TierError::NoSpace) => Err(no_space(call)),
        Some(_) => Err(breach(call, expected, shown_put(results))),
        None => require(results.len() == n_chunks, call, expected, shown_put(results)),
    }
}
