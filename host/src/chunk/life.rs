//! The state of a chunk in one word: the number of readers, whether an index has the chunk, whether that index wants to
//! be notified about its last reader, and a generation that counts the chunks that the word has served.
//!
//! Every change is one atomic operation, so no two facts about a chunk can contradict each other.
//!
//! | readers | indexed | the chunk |
//! |---|---|---|
//! | 0 | no | is over, and its memory free |
//! | ≥ 1 | no | is held by its readers alone |
//! | 0 | yes | can be evicted |
//! | ≥ 1 | yes | is held |
//!
//! The thread that makes both columns zero owns the memory. `tests/loom` runs this file under a model checker.

use std::process::abort;

use crate::sync::{AtomicU64, Ordering, fence};

const READER: u64 = 1;
const READERS: u64 = 0xffff_ffff;
/// Far below what the word can count, so that threads that pass it at the same time cannot overflow the count.
const READERS_MAX: u64 = 1 << 31;
const INDEXED: u64 = 1 << 32;
const WATCHED: u64 = 1 << 33;
const GENERATION: u64 = 1 << 40;

#[derive(Debug)]
pub(crate) struct Life(AtomicU64);

/// The consequence of releasing a reader's reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum ReleaseOutcome {
    /// None: the chunk has other holders.
    Held,
    /// The last reader is gone, and the index that has the chunk wants to be notified.
    Watched,
    /// The chunk has ended: the caller owns its memory.
    Over,
}

/// The word at one moment at which an index had the chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot(u64);

impl Life {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Begins the next generation of a word that is free and owned by the caller. A thread that sees what the caller
    /// writes from here on also sees the new generation.
    pub(crate) fn begin(&self) {
        let generation = self.0.load(Ordering::Relaxed).wrapping_add(GENERATION) & !(GENERATION - 1);
        self.0.store(generation, Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Makes the caller the first reader.
    pub(crate) fn first_reader(&self) {
        self.0.fetch_add(READER, Ordering::Release);
    }

    /// Returns the generation. It repeats after 16 million others.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        (self.0.load(Ordering::Relaxed) / GENERATION) as u32
    }

    /// Returns the state if an index has the chunk. What is read after this belongs to that chunk if
    /// [`is_same_chunk`](Self::is_same_chunk) is true afterwards.
    #[inline]
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let word = self.0.load(Ordering::Acquire);
        (word & INDEXED != 0).then_some(Snapshot(word))
    }

    /// Reports whether the word still serves the same chunk.
    #[inline]
    pub(crate) fn is_same_chunk(&self, snapshot: Snapshot) -> bool {
        fence(Ordering::Acquire);
        (self.0.load(Ordering::Relaxed) ^ snapshot.0) < GENERATION
    }

    /// Adds the caller as a reader if an index has the chunk at this moment, without a lock.
    #[inline]
    pub(crate) fn acquire(&self) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        while word & INDEXED != 0 {
            refuse_too_many(word);
            let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
            match self.0.compare_exchange_weak(word, word + READER, success, failure) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Adds a reader. The caller is already one.
    #[inline]
    pub(crate) fn share(&self) {
        refuse_too_many(self.0.fetch_add(READER, Ordering::Relaxed));
    }

    /// Removes the caller from the readers. Unless the chunk has ended, the word may serve another chunk when this
    /// returns.
    #[inline]
    pub(crate) fn release(&self) -> ReleaseOutcome {
        let before = self.0.fetch_sub(READER, Ordering::Release);
        if before & READERS != READER {
            ReleaseOutcome::Held
        } else if before & INDEXED == 0 {
            fence(Ordering::Acquire);
            ReleaseOutcome::Over
        } else if before & WATCHED != 0 {
            ReleaseOutcome::Watched
        } else {
            ReleaseOutcome::Held
        }
    }

    /// Enters the chunk into an index, and reports whether no index had it. The caller is a reader.
    pub(crate) fn enter(&self) -> bool {
        self.0.fetch_or(INDEXED, Ordering::AcqRel) & INDEXED == 0
    }

    /// Takes the chunk out of its index if it has no reader, and reports whether that was so: then the caller owns its
    /// memory.
    pub(crate) fn leave_if_unread(&self) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        while word & READERS == 0 {
            let over = word & !(INDEXED | WATCHED);
            match self.0.compare_exchange_weak(word, over, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Takes the chunk out of its index, and reports whether it has no reader: then the caller owns its memory.
    pub(crate) fn leave(&self) -> bool {
        self.0.fetch_and(!(INDEXED | WATCHED), Ordering::AcqRel) & READERS == 0
    }

    /// Makes the last reader notify the index when it goes. Reports whether there is a reader; without one no
    /// notification follows.
    pub(crate) fn watch(&self) -> bool {
        let watched = |word: u64| (word & READERS != 0).then_some(word | WATCHED);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, watched).is_ok()
    }

    pub(crate) fn unwatch(&self) {
        self.0.fetch_and(!WATCHED, Ordering::Relaxed);
    }

    pub(crate) fn is_indexed(&self) -> bool {
        self.0.load(Ordering::Acquire) & INDEXED != 0
    }

    /// Returns the number of readers, which may be out of date immediately.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests and models ask"))]
    pub(crate) fn n_readers(&self) -> usize {
        (self.0.load(Ordering::Acquire) & READERS) as usize
    }
}

#[inline]
fn refuse_too_many(word: u64) {
    if word & READERS >= READERS_MAX {
        // Like the standard library: only a program that leaks handles on purpose gets here.
        abort();
    }
}
