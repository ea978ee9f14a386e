//! The buffers of a call.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::{Sink, TransferError};
use crate::chunk::ChunkWriter;
use crate::integrity::Sealer;
use crate::sync::lock;

/// Buffers, lent to one call for filling. Cloning shares the set.
#[derive(Clone)]
pub struct Sinks(Arc<SinksInner>);

struct SinksInner {
    capacities: Box<[usize]>,
    slots: Box<[Mutex<SinkState>]>,
}

enum SinkState {
    Idle(Box<Sink>),
    /// A stream fills it, piece by piece.
    Claimed(Box<Sink>),
    /// A transfer has it.
    Busy,
    /// Taken back. A running transfer drops the buffer when it ends.
    Revoked,
}

impl Sinks {
    /// Lends one buffer for each writer, to be verified by `sealer`.
    pub fn new(writers: Vec<ChunkWriter>, sealer: &Sealer) -> Self {
        let sinks: Vec<_> = writers.into_iter().map(|writer| Box::new(Sink::new(writer, sealer))).collect();
        let capacities = sinks.iter().map(|sink| sink.capacity()).collect();
        let slots = sinks.into_iter().map(|sink| Mutex::new(SinkState::Idle(sink))).collect();
        Self(Arc::new(SinksInner { capacities, slots }))
    }

    /// Returns the number of buffers, even after they are revoked.
    pub fn count(&self) -> usize {
        self.0.capacities.len()
    }

    /// Returns the capacity of buffer `index` in bytes, including the trailer, even after it is revoked; `None` if
    /// there is no such buffer.
    pub fn capacity(&self, index: usize) -> Option<usize> {
        self.0.capacities.get(index).copied()
    }

    /// Returns the sum of all capacities in bytes.
    pub fn total_bytes(&self) -> usize {
        self.0.capacities.iter().sum()
    }

    /// Takes buffer `index` for one transfer. It returns to the set when the lease drops. If the set has been revoked
    /// by then, its memory is freed.
    ///
    /// # Errors
    /// [`TransferError::Busy`], [`TransferError::Revoked`], [`TransferError::OutOfRange`]
    pub fn lease(&self, index: usize) -> Result<Lease, TransferError> {
        let slot = self.0.slots.get(index).ok_or(TransferError::OutOfRange)?;
        let mut slot = lock(slot);
        match std::mem::replace(&mut *slot, SinkState::Busy) {
            SinkState::Idle(sink) => Ok(Lease { set: self.clone(), index, sink: Some(sink) }),
            SinkState::Claimed(sink) => {
                *slot = SinkState::Claimed(sink);
                Err(TransferError::Busy)
            }
            SinkState::Busy => Err(TransferError::Busy),
            SinkState::Revoked => {
                *slot = SinkState::Revoked;
                Err(TransferError::Revoked)
            }
        }
    }

    /// Reserves buffer `index` for one stream, which fills it piece by piece. Unlike a lease, a claim does not keep the
    /// memory when the set is revoked: a guest may keep a stream open for any time.
    ///
    /// # Errors
    /// [`TransferError::Busy`], [`TransferError::Revoked`], [`TransferError::OutOfRange`]
    pub fn claim(&self, index: usize) -> Result<Claim, TransferError> {
        let mut slot = lock(self.0.slots.get(index).ok_or(TransferError::OutOfRange)?);
        match std::mem::replace(&mut *slot, SinkState::Busy) {
            SinkState::Idle(sink) => {
                *slot = SinkState::Claimed(sink);
                Ok(Claim { set: self.clone(), index })
            }
            SinkState::Revoked => {
                *slot = SinkState::Revoked;
                Err(TransferError::Revoked)
            }
            taken => {
                *slot = taken;
                Err(TransferError::Busy)
            }
        }
    }

    /// Takes all buffers back, in order. `None` stands for a buffer in use by a transfer, which is freed when that
    /// transfer ends.
    pub fn revoke(&self) -> Vec<Option<Sink>> {
        let take = |slot: &Mutex<SinkState>| match std::mem::replace(&mut *lock(slot), SinkState::Revoked) {
            SinkState::Idle(sink) | SinkState::Claimed(sink) => Some(*sink),
            SinkState::Busy | SinkState::Revoked => None,
        };
        self.0.slots.iter().map(take).collect()
    }
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sinks").field("capacities", &self.0.capacities).finish_non_exhaustive()
    }
}

/// One buffer for the duration of one stream.
#[derive(Debug)]
pub struct Claim {
    set: Sinks,
    index: usize,
}

impl Claim {
    /// Copies `bytes` to `offset`; see [`Sink::write`].
    ///
    /// # Errors
    /// Those of [`Sink::write`], and [`TransferError::Revoked`].
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), TransferError> {
        match &mut *lock(&self.set.0.slots[self.index]) {
            SinkState::Claimed(sink) => sink.write(offset, bytes),
            _ => Err(TransferError::Revoked),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut slot = lock(&self.set.0.slots[self.index]);
        match std::mem::replace(&mut *slot, SinkState::Busy) {
            SinkState::Claimed(sink) => *slot = SinkState::Idle(sink),
            other => *slot = other,
        }
    }
}

/// One buffer for the duration of one transfer.
#[derive(Debug)]
pub struct Lease {
    set: Sinks,
    index: usize,
    sink: Option<Box<Sink>>,
}

impl std::ops::Deref for Lease {
    type Target = Sink;
    fn deref(&self) -> &Sink {
        self.sink.as_ref().expect("a lease has its sink until it drops")
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Sink {
        self.sink.as_mut().expect("a lease has its sink until it drops")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut slot = lock(&self.set.0.slots[self.index]);
        if let (SinkState::Busy, Some(sink)) = (&*slot, self.sink.take()) {
            *slot = SinkState::Idle(sink);
        }
    }
}
