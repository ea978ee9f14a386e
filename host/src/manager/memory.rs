//! Buffers for chunks, and waiting for memory.

use std::pin::{Pin, pin};
use std::time::Instant;

use futures::future::{select, select_all};
use tokio::sync::futures::Notified;

use super::{Miss, StorageManager};
use crate::chunk::ChunkWriter;
use crate::cpu::Allocated;
use crate::key::ChunkSpec;
use crate::memory::{AllocateError, BufferMut};
use crate::runtime::unbudgeted;

impl StorageManager {
    /// Returns a buffer for each of the first chunks, as far as there is memory before the deadline.
    pub(super) async fn buffers_for(&self, specs: &[ChunkSpec], deadline: Instant) -> Vec<ChunkWriter> {
        let mut ready = Vec::with_capacity(specs.len());
        for spec in specs {
            let Ok(Some(buffer)) = self.buffer(spec.size_bytes, deadline).await else { break };
            ready.push(ChunkWriter::new(spec.key, buffer));
        }
        ready
    }

    /// Counts a chunk that found no memory.
    pub(super) fn count_no_memory(&self) {
        self.0.cpu_metrics.miss(Miss::NoMemory.reason(), 1);
    }

    /// Allocates a buffer, and waits until `deadline` for memory to be released. Returns `None` if there is none.
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
            Allocated::Exhausted(_) => unbudgeted(self.released_buffer(size_bytes, deadline)).await,
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
            // Puts under way will release their memory. Without any, only the caller could release some, and it would
            // wait for itself. Registered before the attempt: a put that settles in between is then not missed.
            let settling = self.settling_puts();
            match self.0.cpu.allocate(size_bytes)? {
                Allocated::Ready(buffer) => return Ok(Some(buffer)),
                Allocated::Exhausted(_) if settling.is_empty() => return Ok(None),
                Allocated::Exhausted(_) => {}
            }
            // A put may settle without releasing memory, if another reader holds its chunk.
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
            // The queue may have become empty before the registration.
            (!backend.queue.is_idle(None)).then_some(settled)
        });
        registered.collect()
    }
}
