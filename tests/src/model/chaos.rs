//! A native tier that, depending on a seed, misbehaves in every way that the chain has to withstand.
//!
//! The seed, the method, the first key and the number of earlier calls for it decide what a call does, so the order of
//! threads does not matter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvtier::ChunkKey;
use kvtier::tier::{
    Lease, PerChunk, Pinning, Sealed, Sealer, Sinks, Sources, TRAILER_BYTES, Tier, TierError, TierFuture,
    TransferError,
};

use super::{mix, turns};

/// Faults of calls that return a count.
const IN_COUNTS: [Fault; 5] =
    [Fault::Fails, Fault::TimesOut, Fault::OneTooMany, Fault::SaysAll, Fault::SaysNone];
/// Faults of a put.
const IN_PUTS: [Fault; 11] = [
    Fault::Fails,
    Fault::TimesOut,
    Fault::FailsForOne,
    Fault::OneTooMany,
    Fault::OneTooFew,
    Fault::ClaimsOnly,
    Fault::CutsShort,
    Fault::FlipsBit,
    Fault::SwapsKeys,
    Fault::KeepsHandle,
    Fault::KeepsMemory,
];
/// Faults of a get.
const IN_GETS: [Fault; 14] = [
    Fault::Fails,
    Fault::TimesOut,
    Fault::FailsForOne,
    Fault::OneTooMany,
    Fault::OneTooFew,
    Fault::SaysNone,
    Fault::ClaimsOnly,
    Fault::CutsShort,
    Fault::FlipsBit,
    Fault::SwapsKeys,
    Fault::WritesBeyond,
    Fault::Forges,
    Fault::KeepsHandle,
    Fault::KeepsMemory,
];

/// A way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Fault {
    Fails,
    FailsForOne,
    TimesOut,
    OneTooMany,
    OneTooFew,
    SaysAll,
    SaysNone,
    /// Claims to have moved bytes that it did not move.
    ClaimsOnly,
    CutsShort,
    FlipsBit,
    /// Moves the bytes of another key, intact.
    SwapsKeys,
    WritesBeyond,
    /// Makes up a payload and seals it.
    Forges,
    /// Keeps the set of buffers after the call.
    KeepsHandle,
    /// Keeps a transfer running after the call.
    KeepsMemory,
    /// Claims to have removed, and has not.
    Forgets,
}

impl Fault {
    /// Every fault that a seed can cause.
    pub fn all() -> impl Iterator<Item = Self> {
        let mut all: Vec<Self> = IN_COUNTS.into_iter().chain(IN_PUTS).chain(IN_GETS).collect();
        all.push(Self::Forgets);
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }
}

#[derive(Default)]
struct State {
    chunks: BTreeMap<ChunkKey, Vec<u8>>,
    n_asked: BTreeMap<(u64, ChunkKey), u64>,
    faults: BTreeMap<Fault, u64>,
    kept: Kept,
}

/// Handles kept from calls that have ended.
#[derive(Default)]
struct Kept {
    sources: Vec<Sources>,
    sinks: Vec<Sinks>,
    leases: Vec<Lease>,
    sealed: Vec<(ChunkKey, Sealed)>,
}

/// The tier.
pub struct Chaos {
    seed: u64,
    rate_percent: u64,
    /// Sealers that the chain must not accept.
    forgers: Vec<Sealer>,
    state: Mutex<State>,
}

impl Chaos {
    /// Makes an empty tier.
    pub fn new(seed: u64, rate_percent: u64, forgers: Vec<Sealer>) -> Self {
        Self { seed, rate_percent, forgers, state: Mutex::default() }
    }

    /// Returns how often each fault has happened.
    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        self.lock().faults.clone()
    }

    /// Returns the number of chunks whose memory it holds.
    pub fn n_kept(&self) -> usize {
        self.lock().kept.sealed.len()
    }

    /// Ends the transfers that were kept running.
    pub fn release(&self) {
        let kept = std::mem::take(&mut self.lock().kept);
        drop(kept);
    }

    /// Uses handles kept from calls that have ended: they must be revoked, and chunks that are still being read must be
    /// intact. Buffers that are still being written get garbage, which must never become visible.
    ///
    /// # Errors
    /// What a handle of an ended call still gave.
    pub fn use_kept(&self) -> anyhow::Result<()> {
        let mut state = self.lock();
        for sinks in &state.kept.sinks {
            let found = sinks.lease(0).map(|_| ());
            anyhow::ensure!(
                matches!(found, Err(TransferError::Revoked)),
                "sinks after their call: {found:?}"
            );
        }
        for sources in &state.kept.sources {
            let found = sources.chunk(0).map(|_| ());
            anyhow::ensure!(
                matches!(found, Err(TransferError::Revoked)),
                "sources after their call: {found:?}"
            );
        }
        for (key, sealed) in &state.kept.sealed {
            kvtier_cli::content::verify(*key, sealed.parts().0)?;
        }
        for lease in &mut state.kept.leases {
            lease.write(0, &[0xee; TRAILER_BYTES])?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what this call does. Returns the fault and a number for its details.
    fn decide(&self, method: u64, keys: &[ChunkKey], faults: &[Fault]) -> (Option<Fault>, u64) {
        let Some(&key) = keys.first() else { return (None, 0) };
        let mut state = self.lock();
        let n = state.n_asked.entry((method, key)).or_default();
        *n += 1;
        let draw = mix(mix(self.seed ^ key.lo) ^ (method << 32) ^ *n);
        if draw % 100 >= self.rate_percent {
            return (None, draw >> 32);
        }
        let fault = faults[(draw >> 8) as usize % faults.len()];
        *state.faults.entry(fault).or_default() += 1;
        (Some(fault), draw >> 32)
    }

    async fn count(&self, method: u64, keys: Arc<[ChunkKey]>, right: usize) -> Result<usize, TierError> {
        let (fault, detail) = self.decide(method, &keys, &IN_COUNTS);
        turns(detail as u32 % 3).await;
        match fault {
            Some(Fault::Fails) => Err(TierError::Unavailable("on purpose".into())),
            Some(Fault::TimesOut) => Err(TierError::Timeout(Duration::ZERO)),
            Some(Fault::OneTooMany) => Ok(keys.len() + 1),
            Some(Fault::SaysAll) => Ok(keys.len()),
            Some(Fault::SaysNone) => Ok(0),
            _ => Ok(right),
        }
    }

    fn run(&self, keys: &[ChunkKey]) -> usize {
        let state = self.lock();
        keys.iter().take_while(|key| state.chunks.contains_key(key)).count()
    }

    fn store(
        &self,
        key: ChunkKey,
        data: &Sources,
        index: usize,
        fault: Option<Fault>,
    ) -> Result<(), TierError> {
        let failed = |error: TransferError| TierError::Other(error.to_string());
        let sealed = data.chunk(index).map_err(failed)?;
        let mut bytes = sealed.bytes(0..sealed.size_bytes()).map_err(failed)?.to_vec();
        let mut state = self.lock();
        match fault {
            Some(Fault::FailsForOne) if index == 0 => return Err(TierError::NoSpace),
            Some(Fault::ClaimsOnly) => return Ok(()),
            Some(Fault::CutsShort) => bytes.truncate(bytes.len() / 2),
            Some(Fault::FlipsBit) => bytes[0] ^= 1,
            Some(Fault::SwapsKeys) => {
                let other = state.chunks.values().next().cloned();
                bytes = other.unwrap_or(bytes);
            }
            Some(Fault::KeepsMemory) => state.kept.sealed.push((key, sealed)),
            _ => {}
        }
        state.chunks.entry(key).or_insert(bytes);
        Ok(())
    }

    fn load(
        &self,
        key: ChunkKey,
        into: &Sinks,
        index: usize,
        (fault, detail): (Option<Fault>, u64),
    ) -> Result<Option<u64>, TierError> {
        let failed = |error: TransferError| TierError::Other(error.to_string());
        let capacity = into.capacity(index).unwrap_or_default();
        let mut state = self.lock();
        let mut bytes = state.chunks.get(&key).cloned();
        match fault {
            Some(Fault::FailsForOne) if index == 0 => return Err(TierError::Corrupt("on purpose".into())),
            Some(Fault::SaysNone) => bytes = None,
            Some(Fault::ClaimsOnly) => return Ok(Some(capacity as u64)),
            Some(Fault::FlipsBit) => {
                let len = bytes.as_ref().map_or(0, Vec::len);
                if let Some(byte) =
                    bytes.as_mut().and_then(|bytes| bytes.get_mut(detail as usize % len.max(1)))
                {
                    *byte ^= 1 << (detail % 8);
                }
            }
            Some(Fault::SwapsKeys) => {
                let others = state.chunks.iter().filter(|(other, _)| **other != key);
                bytes = others.map(|(_, bytes)| bytes.clone()).find(|bytes| bytes.len() == capacity);
            }
            Some(Fault::Forges) => {
                let payload = vec![0x66; capacity - TRAILER_BYTES];
                let forger = &self.forgers[detail as usize % self.forgers.len()];
                bytes = Some([&payload[..], &forger.seal(key, &payload)].concat());
            }
            _ => {}
        }
        let mut lease = into.lease(index).map_err(failed)?;
        let answer = match bytes {
            None => Ok(None),
            Some(bytes) if fault == Some(Fault::CutsShort) => {
                // Every other time it reports that.
                let n = bytes.len() / 2;
                lease.write(0, &bytes[..n]).map_err(failed)?;
                Ok(Some(if detail.is_multiple_of(2) { n } else { capacity } as u64))
            }
            Some(bytes) => {
                let at = usize::from(fault == Some(Fault::WritesBeyond));
                lease.write(at, &bytes).map_err(failed)?;
                Ok(Some(bytes.len() as u64))
            }
        };
        if fault == Some(Fault::KeepsMemory) {
            state.kept.leases.push(lease);
        }
        answer
    }
}

/// Spoils the list of results.
fn spoilt<T>(mut results: Vec<Result<T, TierError>>, fault: Option<Fault>) -> PerChunk<T> {
    match fault {
        Some(Fault::Fails) => return Err(TierError::Other("on purpose".into())),
        Some(Fault::TimesOut) => return Err(TierError::Timeout(Duration::ZERO)),
        Some(Fault::OneTooMany) => results.push(Err(TierError::Unsupported)),
        Some(Fault::OneTooFew) => drop(results.pop()),
        _ => {}
    }
    Ok(results)
}

impl Tier for Chaos {
    fn contains(
        &self,
        keys: Arc<[ChunkKey]>,
        pinning: Pinning,
        _deadline: Instant,
    ) -> TierFuture<'_, Result<usize, TierError>> {
        let right = self.run(&keys);
        Box::pin(self.count(u64::from(pinning == Pinning::Pin), keys, right))
    }

    fn put(&self, keys: Arc<[ChunkKey]>, data: Sources, _deadline: Instant) -> TierFuture<'_, PerChunk<()>> {
        Box::pin(async move {
            let (fault, detail) = self.decide(2, &keys, &IN_PUTS);
            turns(detail as u32 % 4).await;
            let each = keys.iter().enumerate();
            let results = each.map(|(index, key)| self.store(*key, &data, index, fault)).collect();
            if fault == Some(Fault::KeepsHandle) {
                self.lock().kept.sources.push(data);
            }
            spoilt(results, fault)
        })
    }

    fn get(
        &self,
        keys: Arc<[ChunkKey]>,
        into: Sinks,
        _deadline: Instant,
    ) -> TierFuture<'_, PerChunk<Option<u64>>> {
        Box::pin(async move {
            let (fault, detail) = self.decide(3, &keys, &IN_GETS);
            if fault == Some(Fault::KeepsHandle) {
                self.lock().kept.sinks.push(into.clone());
            }
            turns(detail as u32 % 4).await;
            let each = keys.iter().enumerate();
            let results = each.map(|(index, key)| self.load(*key, &into, index, (fault, detail))).collect();
            turns(detail as u32 / 4 % 2).await;
            spoilt(results, fault)
        })
    }

    fn pin(&self, keys: Arc<[ChunkKey]>, _deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        let right = self.run(&keys);
        Box::pin(self.count(4, keys, right))
    }

    fn unpin(&self, keys: Arc<[ChunkKey]>, _deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        let right = keys.len();
        Box::pin(self.count(5, keys, right))
    }

    fn remove(&self, keys: Arc<[ChunkKey]>, _deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        let (fault, _) = self.decide(6, &keys, &[Fault::Forgets]);
        let mut right = keys.len();
        if fault.is_none() {
            let mut state = self.lock();
            right = keys.iter().filter(|key| state.chunks.remove(key).is_some()).count();
        }
        Box::pin(self.count(7, keys, right))
    }

    fn close(&self, _deadline: Instant) -> TierFuture<'_, Result<(), TierError>> {
        let odd = self.seed % 2 == 1;
        Box::pin(std::future::ready(if odd { Err(TierError::Other("on purpose".into())) } else { Ok(()) }))
    }

    fn batch_chunks_max(&self) -> usize {
        3
    }
}
