//! A chunk as the models see it: its life, and memory whose accesses the checker tracks.

#[path = "../../../../host/src/chunk/life.rs"]
#[expect(dead_code, reason = "the models do not use all of it")]
mod life;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU64;

use crate::sync::Ordering;
use life::{Life, ReleaseOutcome};

/// A chunk's life, its key and its memory.
#[derive(Debug)]
pub struct Chunk {
    life: Life,
    key: [AtomicU64; 2],
    memory: UnsafeCell<u32>,
}

impl Chunk {
    /// Makes a chunk that an index has and that has no reader.
    ///
    /// # Panics
    /// If the life does not begin in that state.
    pub fn indexed() -> Self {
        let chunk = Self {
            life: Life::new(),
            key: [AtomicU64::new(1), AtomicU64::new(1)],
            memory: UnsafeCell::new(0),
        };
        chunk.life.begin();
        chunk.life.first_reader();
        assert!(chunk.life.enter() && chunk.life.release() == ReleaseOutcome::Held);
        chunk
    }

    /// See the host.
    pub fn acquire(&self) -> bool {
        self.life.acquire()
    }

    /// Releases a reader, and reports whether to notify the index.
    pub fn release(&self) -> bool {
        self.life.release() == ReleaseOutcome::Watched
    }

    /// Releases a reader, and reports whether the chunk's life has ended.
    pub fn release_is_over(&self) -> bool {
        self.life.release() == ReleaseOutcome::Over
    }

    /// See the host.
    pub fn leave_if_unread(&self) -> bool {
        self.life.leave_if_unread()
    }

    /// See the host.
    pub fn leave(&self) -> bool {
        self.life.leave()
    }

    /// See the host.
    pub fn watch(&self) -> bool {
        self.life.watch()
    }

    /// See the host.
    pub fn n_readers(&self) -> usize {
        self.life.n_readers()
    }

    /// Reads the memory; the checker records the access.
    pub fn read(&self) {
        self.memory.with(|_| {});
    }

    /// Writes the memory, as its next owner does.
    pub fn overwrite(&self) {
        self.memory.with_mut(|_| {});
    }

    /// Gives the record to another chunk, whose key is (2, 2), and which an index has.
    ///
    /// # Panics
    /// If an index has it already.
    pub fn begin_again(&self) {
        self.life.begin();
        self.key.iter().for_each(|half| half.store(2, Ordering::Relaxed));
        self.life.first_reader();
        assert!(self.life.enter());
    }

    /// Returns the key of the chunk that an index has; with `is_checked`, only if it was the same chunk throughout.
    pub fn key_if_indexed(&self, is_checked: bool) -> Option<[u64; 2]> {
        let snapshot = self.life.snapshot()?;
        let [hi, lo] = &self.key;
        let key = [hi.load(Ordering::Relaxed), lo.load(Ordering::Relaxed)];
        (!is_checked || self.life.is_same_chunk(snapshot)).then_some(key)
    }
}
