//! A chunk's life in one word: how many readers hold it, whether an index has it, whether that index wants
//! to hear of its last reader, and, in its generation, for which chunk the word serves.
//!
//! Every change is one atomic operation, so that no two facts about a chunk can contradict each other.
//!
//! | readers | indexed | the chunk |
//! |---|---|---|
//! | 0 | no | is over, and its memory free |
//! | ≥ 1 | no | is held by its readers alone |
//! | 0 | yes | can be evicted |
//! | ≥ 1 | yes | is held |
//!
//! Whoever makes both columns zero owns the memory. `tests/loom` runs this file under a model checker.

use std::process::abort;

use crate::sync::{AtomicU64, Ordering, fence};

const READER: u64 = 1;
const READERS: u64 = 0xffff_ffff;
/// Far below what the word can count, so that threads which pass it at once cannot run over.
const READERS_MAX: u64 = 1 << 31;
const INDEXED: u64 = 1 << 32;
const WATCHED: u64 = 1 << 33;
const GENERATION: u64 = 1 << 40;

/// The word.
#[derive(Debug)]
pub(crate) struct Life(AtomicU64);

/// What it means that a reader let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum ReleaseOutcome {
    /// Nothing.
    Held,
    /// The last reader is gone, and the index that has the chunk wants to know.
    Watched,
    /// The chunk is over: the caller owns its memory.
    Over,
}

/// The word as it was at one moment, of a chunk that an index had then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot(u64);

impl Life {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Begins the next generation, of a word that is free and the caller's. What the caller writes from here
    /// on is seen by nobody who does not see the new generation as well.
    pub(crate) fn begin(&self) {
        let generation = self.0.load(Ordering::Relaxed).wrapping_add(GENERATION) & !(GENERATION - 1);
        self.0.store(generation, Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Makes the caller the first reader.
    pub(crate) fn first_reader(&self) {
        self.0.fetch_add(READER, Ordering::Release);
    }

    /// Returns the generation: it is not the same again before 16 million others.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        (self.0.load(Ordering::Relaxed) / GENERATION) as u32
    }

    /// Looks whether an index has the chunk. What is read after this belongs to that chunk if
    /// [`is_same_chunk`](Self::is_same_chunk) says so afterwards.
    #[inline]
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let word = self.0.load(Ordering::Acquire);
        (word & INDEXED != 0).then_some(Snapshot(word))
    }

    /// Says whether the word serves for the same chunk as it did.
    #[inline]
    pub(crate) fn is_same_chunk(&self, snapshot: Snapshot) -> bool {
        fence(Ordering::Acquire);
        (self.0.load(Ordering::Relaxed) ^ snapshot.0) < GENERATION
    }

    /// Becomes a reader, if an index has the chunk at this moment: without a lock.
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

    /// Adds a reader. The caller is one.
    #[inline]
    pub(crate) fn share(&self) {
        refuse_too_many(self.0.fetch_add(READER, Ordering::Relaxed));
    }

    /// Takes the caller away from the readers. Unless the chunk is over, the word may be another chunk's when
    /// this returns.
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

    /// Puts the chunk into an index, and returns false if one has it already. The caller is a reader.
    pub(crate) fn enter(&self) -> bool {
        self.0.fetch_or(INDEXED, Ordering::AcqRel) & INDEXED == 0
    }

    /// Takes the chunk out of its index if nobody reads it, and says whether: then the caller owns its memory.
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

    /// Takes the chunk out of its index, and says whether nobody reads it: then the caller owns its memory.
    pub(crate) fn leave(&self) -> bool {
        self.0.fetch_and(!(INDEXED | WATCHED), Ordering::AcqRel) & READERS == 0
    }

    /// Asks for the index to be told when the last reader goes; false if there is none, and nobody will be
    /// told.
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

    /// Returns how many readers there are, which is out of date when it returns.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests and models ask"))]
    pub(crate) fn n_readers(&self) -> usize {
        (self.0.load(Ordering::Acquire) & READERS) as usize
    }
}

#[inline]
fn refuse_too_many(word: u64) {
    if word & READERS >= READERS_MAX {
        // As the standard library does: only a program that forgets handles on purpose comes here.
        abort();
    }
}
