//! The buffers of a call.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OwnedSemaphorePermit;

use super::selection::Selection;
use super::{Sink, TransferError};
use crate::chunk::ChunkWriter;
use crate::integrity::Sealer;
use crate::sync::lock;

/// Buffers, lent to one call for filling. Cloning shares the set.
#[derive(Clone)]
pub struct Sinks {
    set: Arc<SinksInner>,
    selection: Selection,
}

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
        Self { set: Arc::new(SinksInner { capacities, slots }), selection: Selection::default() }
    }

    /// Returns the number of buffers, even after they are revoked.
    pub fn count(&self) -> usize {
        self.selection.count(self.set.capacities.len())
    }

    /// Returns the capacity of buffer `index` in bytes, including the trailer, even after it is revoked; `None` if
    /// there is no such buffer.
    pub fn capacity(&self, index: usize) -> Option<usize> {
        self.set.capacities.get(self.selection.position(index)?).copied()
    }

    /// Returns the sum of all capacities in bytes.
    pub fn total_bytes(&self) -> usize {
        (0..self.count()).filter_map(|index| self.capacity(index)).sum()
    }

    /// Takes buffer `index` for one transfer. It returns to the set when the lease drops. If the set has been revoked
    /// by then, its memory is freed.
    ///
    /// # Errors
    /// [`TransferError::Busy`], [`TransferError::Revoked`], [`TransferError::OutOfRange`]
    pub fn lease(&self, index: usize) -> Result<Lease, TransferError> {
        let (position, mut slot) = self.slot(index)?;
        match std::mem::replace(&mut *slot, SinkState::Busy) {
            SinkState::Idle(sink) => Ok(Lease { set: Arc::clone(&self.set), position, sink: Some(sink) }),
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
        let (position, mut slot) = self.slot(index)?;
        match std::mem::replace(&mut *slot, SinkState::Busy) {
            SinkState::Idle(sink) => {
                *slot = SinkState::Claimed(sink);
                Ok(Claim { set: Arc::clone(&self.set), position })
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

    /// Returns where buffer `index` stands in the call, and its slot.
    fn slot(&self, index: usize) -> Result<(usize, MutexGuard<'_, SinkState>), TransferError> {
        let position = self.selection.position(index).ok_or(TransferError::OutOfRange)?;
        let slot = self.set.slots.get(position).ok_or(TransferError::OutOfRange)?;
        Ok((position, lock(slot)))
    }

    /// Returns another handle to the same memory, for the buffers at `indices`, in that order. A buffer has one writer
    /// at a time among all handles. `room` is held as long as the handle is.
    ///
    /// # Errors
    /// [`TransferError::Repeated`], [`TransferError::Revoked`]
    pub(crate) fn select(&self, indices: &[u32], room: OwnedSemaphorePermit) -> Result<Self, TransferError> {
        let mut seen = HashSet::with_capacity(indices.len());
        if !indices.iter().all(|index| seen.insert(*index)) {
            return Err(TransferError::Repeated);
        }
        if self.set.slots.first().is_some_and(|slot| matches!(*lock(slot), SinkState::Revoked)) {
            return Err(TransferError::Revoked);
        }
        Ok(Self { set: Arc::clone(&self.set), selection: self.selection.select(indices, room) })
    }

    /// Takes all buffers of the set back, in their order and in every handle to them. `None` stands for a buffer in use
    /// by a transfer, which is freed when that transfer ends.
    pub fn revoke(&self) -> Vec<Option<Sink>> {
        let take = |slot: &Mutex<SinkState>| match std::mem::replace(&mut *lock(slot), SinkState::Revoked) {
            SinkState::Idle(sink) | SinkState::Claimed(sink) => Some(*sink),
            SinkState::Busy | SinkState::Revoked => None,
        };
        self.set.slots.iter().map(take).collect()
    }
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sinks").field("capacities", &self.set.capacities).finish_non_exhaustive()
    }
}

/// One buffer for the duration of one stream.
pub struct Claim {
    set: Arc<SinksInner>,
    /// Of the buffer in the call.
    position: usize,
}

impl Claim {
    /// Copies `bytes` to `offset`; see [`Sink::write`].
    ///
    /// # Errors
    /// Those of [`Sink::write`], and [`TransferError::Revoked`].
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), TransferError> {
        match &mut *lock(&self.set.slots[self.position]) {
            SinkState::Claimed(sink) => sink.write(offset, bytes),
            _ => Err(TransferError::Revoked),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut slot = lock(&self.set.slots[self.position]);
        match std::mem::replace(&mut *slot, SinkState::Busy) {
            SinkState::Claimed(sink) => *slot = SinkState::Idle(sink),
            other => *slot = other,
        }
    }
}

/// One buffer for the duration of one transfer.
pub struct Lease {
    set: Arc<SinksInner>,
    /// Of the buffer in the call.
    position: usize,
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
        let mut slot = lock(&self.set.slots[self.position]);
        if let (SinkState::Busy, Some(sink)) = (&*slot, self.sink.take()) {
            *slot = SinkState::Idle(sink);
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("position", &self.position).finish_non_exhaustive()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("position", &self.position).finish_non_exhaustive()
    }
}
