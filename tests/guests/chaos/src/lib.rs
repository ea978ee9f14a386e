//! A backend that misbehaves by a seed, for the model test: a map of chunks, whose calls go wrong in every way that a
//! component has.

mod faults;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use kvtier_guest::prelude::*;
use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::wit_bindgen::StreamReader;

use faults::{Dice, Fault};

/// `config.seed` and `config.rate`, in percent of the calls.
pub struct ChaosBackend {
    dice: Dice,
    chunks: RefCell<BTreeMap<ChunkKey, Vec<u8>>>,
    /// Streams out of chunks of calls that are over.
    kept: RefCell<Vec<StreamReader<u8>>>,
}

impl ChaosBackend {
    /// What goes wrong with time, in any call.
    async fn delay(&self, fault: Option<Fault>) {
        match fault {
            Some(Fault::Late) => monotonic_clock::wait_for(Duration::from_millis(5).as_nanos() as u64).await,
            Some(Fault::Hangs) => loop {
                monotonic_clock::wait_for(Duration::from_hours(1).as_nanos() as u64).await;
            },
            Some(Fault::Spins) => loop {
                std::hint::spin_loop();
            },
            Some(Fault::Traps) => std::process::abort(),
            _ => {}
        }
    }

    async fn count(&self, keys: &[ChunkKey], right: u32) -> Result<u32, Error> {
        let (fault, _) = self.dice.roll(&faults::IN_COUNTS);
        self.delay(fault).await;
        match fault {
            Some(Fault::Fails) => Err(Error::unavailable("on purpose")),
            Some(Fault::OneTooMany) => Ok(keys.len() as u32 + 1),
            Some(Fault::SaysAll) => Ok(keys.len() as u32),
            Some(Fault::SaysNone) => Ok(0),
            _ => Ok(right),
        }
    }

    fn run(&self, keys: &[ChunkKey]) -> u32 {
        let chunks = self.chunks.borrow();
        keys.iter().take_while(|key| chunks.contains_key(key)).count() as u32
    }

    fn store(&self, index: u32, key: ChunkKey, data: &Sources, fault: Option<Fault>) -> Result<(), Error> {
        let mut bytes = data.read_all(index)?;
        match fault {
            Some(Fault::FailsForOne) if index == 0 => return Err(Error::NoSpace),
            Some(Fault::ClaimsOnly) => return Ok(()),
            Some(Fault::CutsShort) => bytes.truncate(bytes.len() / 2),
            Some(Fault::FlipsBit) => bytes[0] ^= 1,
            Some(Fault::SwapsKeys) => {
                if let Some(other) = self.chunks.borrow().values().next() {
                    bytes.clone_from(other);
                }
            }
            Some(Fault::KeepsStream) => {
                self.kept.borrow_mut().push(data.read_stream(index, 0, data.len(index)));
            }
            _ => {}
        }
        self.chunks.borrow_mut().entry(key).or_insert(bytes);
        Ok(())
    }

    fn load(
        &self,
        index: u32,
        key: ChunkKey,
        into: &Sinks,
        (fault, detail): (Option<Fault>, u64),
    ) -> Result<Option<u64>, Error> {
        let (chunks, capacity) = (self.chunks.borrow(), into.capacity(index));
        let mut bytes = chunks.get(&key).cloned();
        match fault {
            Some(Fault::FailsForOne) if index == 0 => return Err(Error::corrupt("on purpose")),
            Some(Fault::SaysNone) => bytes = None,
            Some(Fault::ClaimsOnly) => return Ok(Some(capacity)),
            Some(Fault::FlipsBit) => {
                let len = bytes.as_ref().map_or(1, |bytes| bytes.len().max(1));
                if let Some(byte) = bytes.as_mut().and_then(|bytes| bytes.get_mut(detail as usize % len)) {
                    *byte ^= 1;
                }
            }
            Some(Fault::SwapsKeys) => {
                let mut others = chunks.iter().filter(|(other, _)| **other != key);
                bytes =
                    others.find(|(_, bytes)| bytes.len() as u64 == capacity).map(|(_, bytes)| bytes.clone());
            }
            _ => {}
        }
        let Some(bytes) = bytes else { return Ok(None) };
        match fault {
            Some(Fault::CutsShort) => {
                let n = bytes.len() / 2;
                into.write(index, 0, &bytes[..n])?;
                Ok(Some(if detail.is_multiple_of(2) { n as u64 } else { capacity }))
            }
            Some(Fault::WritesBeyond) => {
                into.write(index, 1, &bytes)?;
                Ok(Some(capacity))
            }
            _ => {
                into.write(index, 0, &bytes)?;
                Ok(Some(bytes.len() as u64))
            }
        }
    }
}

/// Spoils the list of results.
fn spoil<T>(results: &mut Vec<Result<T, Error>>, fault: Option<Fault>) {
    match fault {
        Some(Fault::Fails) => results.iter_mut().for_each(|result| *result = Err(Error::other("on purpose"))),
        Some(Fault::OneTooMany) => results.push(Err(Error::Unsupported)),
        Some(Fault::OneTooFew) => drop(results.pop()),
        _ => {}
    }
}

impl StorageBackend for ChaosBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&["seed", "rate"])?;
        let dice = Dice::new(init.parse("seed")?.unwrap_or(0), init.parse("rate")?.unwrap_or(0));
        Ok(Self { dice, chunks: RefCell::default(), kept: RefCell::default() })
    }

    async fn contains(&self, keys: &[ChunkKey], _pinning: Pinning) -> Result<u32, Error> {
        self.count(keys, self.run(keys)).await
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let (fault, _) = self.dice.roll(&faults::IN_PUTS);
        self.delay(fault).await;
        let each = keys.iter().zip(0..);
        let mut results = each.map(|(key, index)| self.store(index, *key, data, fault)).collect();
        spoil(&mut results, fault);
        results
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let (fault, detail) = self.dice.roll(&faults::IN_GETS);
        self.delay(fault).await;
        let each = keys.iter().zip(0..);
        let mut results = each.map(|(key, index)| self.load(index, *key, into, (fault, detail))).collect();
        spoil(&mut results, fault);
        results
    }

    async fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.count(keys, self.run(keys)).await
    }

    async fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.count(keys, keys.len() as u32).await
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let (forgets, _) = self.dice.roll(&[()]);
        let mut right = keys.len() as u32;
        if forgets.is_none() {
            let mut chunks = self.chunks.borrow_mut();
            right = keys.iter().filter(|key| chunks.remove(key).is_some()).count() as u32;
        }
        self.count(keys, right).await
    }
}

kvtier_guest::export!(ChaosBackend);
