//! Who holds a record, and what follows when the last holder goes: readers, and the index that has it.
#![expect(unsafe_code, reason = "content is taken by a count that the type system does not see")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::arena::{put_free, take_free};
use super::content::Content;
use super::life::ReleaseOutcome;
use super::record::ChunkRecord;
use super::slot::IndexId;
use crate::key::ChunkKey;
use crate::memory::{BufferMut, Provider};

impl ChunkRecord {
    /// Takes a free record for a chunk. The caller is its one reader.
    pub(super) fn open(key: ChunkKey, content: Content) -> &'static Self {
        let record = take_free();
        record.life.begin();
        record.key_hi.store(key.hi, Ordering::Relaxed);
        record.key_lo.store(key.lo, Ordering::Relaxed);
        // SAFETY: the record was free, and only this thread has it: no reader and no index has.
        unsafe { *record.content.0.get() = Some(content) };
        record.life.first_reader();
        record
    }

    /// Becomes a reader of the chunk `key`, if the index `index_id` has it in this record. Needs no lock.
    #[inline]
    pub(super) fn acquire(&'static self, key: ChunkKey, index_id: IndexId) -> bool {
        if !self.life.acquire() {
            return false;
        }
        if self.is_named(key, index_id) {
            return true;
        }
        // The record went to another chunk since it was found.
        self.release();
        false
    }

    /// Adds a reader to those that there are.
    #[inline]
    pub(super) fn share(&self) {
        self.life.share();
    }

    /// Takes a reader away, and does what follows from it. The record may be another chunk's then.
    #[inline]
    pub(super) fn release(&'static self) {
        match self.life.release() {
            ReleaseOutcome::Held => {}
            ReleaseOutcome::Over => self.recycle(),
            // If an index has taken the record meanwhile it needs no telling, and another is told in vain.
            ReleaseOutcome::Watched => IndexId(self.index_id.load(Ordering::Relaxed)).tell(self.slot),
        }
    }

    /// Takes the record out of its index if nobody reads it: from then on nobody can.
    pub(crate) fn leave_if_unread(&'static self) -> Option<RemovedChunk> {
        let has_left = self.life.leave_if_unread();
        has_left.then(|| {
            self.index_id.store(0, Ordering::Relaxed);
            RemovedChunk(Some(self))
        })
    }

    /// Takes the record out of its index. Its readers keep it.
    pub(crate) fn leave(&'static self) -> RemovedChunk {
        // First: afterwards another index may enter itself.
        self.index_id.store(0, Ordering::Relaxed);
        RemovedChunk(self.life.leave().then_some(self))
    }

    /// Gives the memory back, and then the record. The caller has ended its life.
    fn recycle(&'static self) {
        // SAFETY: there is no reader and no index any more, and none can come: both need one that is there.
        let content = unsafe { (*self.content.0.get()).take() };
        drop(content);
        put_free(self);
    }
}

/// A chunk that has left its index. If nobody reads it, dropping this gives its memory back, which may
/// run anybody's code: not under a lock.
#[must_use]
pub(crate) struct RemovedChunk(Option<&'static ChunkRecord>);

impl RemovedChunk {
    /// Returns the chunk's buffer for another chunk, if nobody reads it and it has `size_bytes` of `provider`.
    pub(crate) fn into_buffer(
        mut self,
        provider: &Arc<dyn Provider>,
        size_bytes: usize,
    ) -> Option<BufferMut> {
        let record = self.0?;
        // SAFETY: there is no reader and no index any more, and none can come: both need one that is there.
        let content = unsafe { &mut *record.content.0.get() };
        let content = content
            .take_if(|content| content.buffer.len() == size_bytes && content.buffer.is_of(provider))?;
        self.0 = None;
        put_free(record);
        Some(content.buffer)
    }
}

impl Drop for RemovedChunk {
    fn drop(&mut self) {
        if let Some(record) = self.0 {
            record.recycle();
        }
    }
}
