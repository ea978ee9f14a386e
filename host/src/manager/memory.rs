//! Buffers for chunks, and the wait for memory.

use std::pin::{Pin, pin};
use std::time::Instant;

use futures::future::{select, select_all};
use tokio::sync::futures::Notified;

use super::{Miss, StorageManager};
use crate::chunk::ChunkWriter;
use crate::cpu::Allocated;
use crate::key::ChunkSpec;
use crate::memory::{AllocateError, BufferMut};
use crate::runtime::anywhere;

impl StorageManager {
    /// Finds a buffer for each chunk from the first on, as far as there is memory before the deadline.
    pub(super) async fn buffers_for(&self, specs: &[ChunkSpec], deadline: Instant) -> Vec<ChunkWriter> {
        let mut ready = Vec::with_capacity(specs.len());
        for spec in specs {
            let Ok(Some(buffer)) = self.buffer(spec.size_bytes, deadline).await else { break };
            ready.push(ChunkWriter::new(spec.key, buffer));
        }
        ready
    }

    pub(super) fn count_no_memory(&self) {
        self.0.cpu_metrics.miss(Miss::NoMemory.reason(), 1);
    }

    /// Allocates a buffer, waiting for one to be released until `deadline`. `None`: there is none.
    ///
    /// # Errors
    /// [`AllocateError`]
    pub(super) async fn buffer(
        &self,
        size_bytes: usize,
        deadline: Instant,
    ) -> Result<Option<BufferMut>, AllocateError> {
        match self.0.cpu.allocate(size_bytes)? {
            Allocated::Ready(buffer) => Ok(Some(buffer)),
            Allocated::Exhausted(_) => anywhere(self.released_buffer(size_bytes, deadline)).await,
        }
    }

    async fn released_buffer(
        &self,
        size_bytes: usize,
        deadline: Instant,
    ) -> Result<Option<BufferMut>, AllocateError> {
        // Chunks whose pins have expired can be evicted.
        drop(self.release_expired());
        loop {
            let mut waiter = self.0.cpu.waiter();
            // If puts are on their way to backends their memory comes back; otherwise only the caller can
            // release any, and waiting for oneself is in vain. Asked before the attempt: a put that
            // settles afterwards has not had its memory counted in.
            let settling = self.settling_puts();
            match self.0.cpu.allocate(size_bytes)? {
                Allocated::Ready(buffer) => return Ok(Some(buffer)),
                Allocated::Exhausted(_) if settling.is_empty() => return Ok(None),
                Allocated::Exhausted(_) => {}
            }
            // A put may settle and release nothing, if somebody else holds its chunk as well.
            let released = pin!(waiter.released());
            let change = select(released, select_all(settling));
            if self.0.control.until(deadline, change).await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Registers for the next chunk to leave each of the queues that are not empty.
    fn settling_puts(&self) -> Vec<Pin<Box<Notified<'_>>>> {
        let busy = self.0.backends.iter().filter(|backend| !backend.queue.is_idle(None));
        let registered = busy.filter_map(|backend| {
            let mut settled = Box::pin(backend.queue.settled());
            settled.as_mut().enable();
            // It may have become empty before it was listened to.
            (!backend.queue.is_idle(None)).then_some(settled)
        });
        registered.collect()
    }
}
