//! The holders of a record: readers, and the index that has it. Recycles a record after its last holder.
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
    /// Takes a free record for a chunk. The caller is its only reader.
    pub(super) fn open(key: ChunkKey, content: Content) -> &'static Self {
        let record = take_free();
        record.life.begin();
        record.key_hi.store(key.hi, Ordering::Relaxed);
        record.key_lo.store(key.lo, Ordering::Relaxed);
        // SAFETY: the record was free, and only this thread has it: it has no reader and no index.
        unsafe { *record.content.0.get() = Some(content) };
        record.life.first_reader();
        record
    }

    /// Adds a reader of the chunk `key` if the index `index_id` has it in this record, without a lock.
    #[inline]
    pub(super) fn acquire(&'static self, key: ChunkKey, index_id: IndexId) -> bool {
        if !self.life.acquire() {
            return false;
        }
        if self.is_named(key, index_id) {
            return true;
        }
        // Since it was found, the record has gone to another chunk.
        self.release();
        false
    }

    /// Adds a reader to the existing ones.
    #[inline]
    pub(super) fn share(&self) {
        self.life.share();
    }

    /// Removes a reader, and recycles the record or notifies the index as needed. Afterwards the record may serve
    /// another chunk.
    #[inline]
    pub(super) fn release(&'static self) {
        match self.life.release() {
            ReleaseOutcome::Held => {}
            ReleaseOutcome::Over => self.recycle(),
            // If another index has taken the record, it ignores the notification.
            ReleaseOutcome::Watched => IndexId(self.index_id.load(Ordering::Relaxed)).notify(self.slot),
        }
    }

    /// Takes the record out of its index if it has no reader. From then on it cannot get one.
    pub(crate) fn leave_if_unread(&'static self) -> Option<RemovedChunk> {
        let has_left = self.life.leave_if_unread();
        has_left.then(|| {
            self.index_id.store(0, Ordering::Relaxed);
            RemovedChunk(Some(self))
        })
    }

    /// Takes the record out of its index. Its readers keep it.
    pub(crate) fn leave(&'static self) -> RemovedChunk {
        // Before the next line, after which another index may enter.
        self.index_id.store(0, Ordering::Relaxed);
        RemovedChunk(self.life.leave().then_some(self))
    }

    /// Returns the memory to its provider, and the record to the free ones. The caller has ended its life.
    fn recycle(&'static self) {
        // SAFETY: there is no reader and no index, and none can come: each comes through an existing one.
        let content = unsafe { (*self.content.0.get()).take() };
        drop(content);
        put_free(self);
    }
}

/// A chunk that has left its index. If it has no reader, dropping this returns its memory, which may run a foreign
/// provider's code: not under a lock.
#[must_use]
pub(crate) struct RemovedChunk(Option<&'static ChunkRecord>);

impl RemovedChunk {
    /// Returns the chunk's buffer for another chunk if it has no reader and has `size_bytes` of `provider`.
    pub(crate) fn into_buffer(
        mut self,
        provider: &Arc<dyn Provider>,
        size_bytes: usize,
    ) -> Option<BufferMut> {
        let record = self.0?;
        // SAFETY: there is no reader and no index, and none can come: each comes through an existing one.
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
