//! Beginning calls: what to fetch next, with which memory.

use std::pin::pin;
use std::sync::Arc;

use futures::future::{Either, select};

use super::{Fetching, OwnCall};
use crate::chunk::ChunkWriter;
use crate::integrity::TRAILER_BYTES;
use crate::key::ChunkSpec;
use crate::limits::BATCH_BYTES_MAX;
use crate::manager::breaker::{Direction, OwnedPermit};
use crate::manager::fetched::{Fetched, Miss};
use crate::manager::flights::{Claims, FlightKey};
use crate::tier::TierError;

impl Fetching<'_> {
    /// Begins the next call, if one may begin now, and reports whether it did.
    pub(super) async fn begin_call(&mut self) -> bool {
        let Some(mut claims) = self.claim() else { return false };
        let backend = self.backend;
        let indices = claims.indices();
        let specs: Vec<ChunkSpec> = indices.iter().map(|index| self.pending[index].spec).collect();
        let Some(permit) = backend.admit(Direction::Reading, specs.iter().map(|spec| spec.key)) else {
            drop(claims);
            self.skip(&Miss::Error(TierError::BreakerOpen));
            return false;
        };
        let permit = OwnedPermit::new(&backend.breakers, Direction::Reading, permit);
        let writers = self.buffers_for(&specs).await;
        if self.timed_out.is_some() {
            // Another call timed out while this one waited for memory.
            return false;
        }
        let n_ready = writers.len();
        if n_ready < indices.len() {
            claims.truncate(n_ready);
            self.miss_memory_for(&indices[n_ready..]);
        }
        if writers.is_empty() {
            return false;
        }
        self.begin(claims, permit, writers, &indices[..n_ready]);
        true
    }

    /// Claims the next batch, as far as the limits and the breaker allow now.
    fn claim(&self) -> Option<Claims> {
        let (own_calls, limits) = (&self.own_calls, &self.limits);
        let cut = |flight_keys: &[FlightKey], n_under_way: usize| {
            if n_under_way > 0 && !self.backend.breakers.reading.is_ready() {
                // The calls in flight decide. One of them may be the probe.
                return 0;
            }
            let (n_chunks, n_bytes) = cut(flight_keys);
            let has_room =
                own_calls.len() < limits.batches && self.n_bytes_in_calls + n_bytes <= limits.bytes;
            if own_calls.is_empty() || has_room { n_chunks } else { 0 }
        };
        let subscriptions = self.pending.values().map(|pending| &pending.subscription);
        let claims = self.flights.claim(subscriptions, limits.batch_chunks, cut);
        (!claims.is_empty()).then_some(claims)
    }

    /// Finds a buffer for each chunk, as far as there is memory before the deadline, and takes the finished flights
    /// while it waits.
    async fn buffers_for(&mut self, specs: &[ChunkSpec]) -> Vec<ChunkWriter> {
        let (manager, notifications) = (self.manager, Arc::clone(&self.notifications));
        let mut buffers = pin!(manager.buffers_for(specs, self.deadline));
        loop {
            match select(buffers.as_mut(), pin!(notifications.next())).await {
                Either::Left((writers, _)) => return writers,
                Either::Right((indices, _)) => self.take_finished(indices),
            }
            if self.timed_out.is_some() {
                return Vec::new();
            }
        }
    }

    /// Notes that there was no memory for some chunks. The chunks after them are useless.
    fn miss_memory_for(&mut self, indices: &[usize]) {
        for index in indices {
            self.delivered.misses.push((*index, Miss::NoMemory));
            self.manager.count_no_memory();
        }
        self.delivered.out_of_memory = true;
        let Some(first) = indices.first() else { return };
        for (_, pending) in self.pending.split_off(first) {
            if let Some(number) = pending.call {
                self.count_down(number);
            }
        }
    }

    /// Begins a call for the claimed flights.
    fn begin(&mut self, claims: Claims, permit: OwnedPermit, writers: Vec<ChunkWriter>, indices: &[usize]) {
        let number = self.n_calls;
        self.n_calls += 1;
        let mut promised = Vec::with_capacity(indices.len());
        let mut n_bytes = 0;
        for index in indices {
            if let Some(pending) = self.pending.get_mut(index) {
                pending.call = Some(number);
                promised.push(pending.is_promised);
                n_bytes += pending.spec.size_bytes + TRAILER_BYTES;
            }
        }
        let running = claims.begin(permit, &self.group);
        let call = Arc::clone(&running.call);
        let backend = Arc::clone(self.backend);
        let soon = self.pending.values().map(|pending| pending.spec.size_bytes).sum::<usize>();
        let moving = backend.move_bytes(n_bytes, soon.min(self.limits.bytes));
        let task = self.backend.control.handle().spawn(async move {
            let deadline = moving.deadline;
            let outcomes = backend.fetch(&running.call, writers, &promised, deadline).await;
            drop(moving);
            // Releases the buffers of misses before anybody is notified.
            let outcomes: Vec<Fetched> = outcomes.into_iter().map(|(outcome, _)| outcome).collect();
            running.finish(outcomes);
        });
        call.runs_as(task.abort_handle());
        self.n_bytes_in_calls += n_bytes;
        self.own_calls.insert(number, OwnCall { call, n_chunks_left: indices.len(), n_bytes });
    }
}

/// Returns how many chunks the next call carries, at least one if there is any, and the bytes of their buffers.
fn cut(flight_keys: &[FlightKey]) -> (usize, usize) {
    let (mut n_chunks, mut n_bytes) = (0, 0);
    for flight_key in flight_keys {
        let more = n_bytes + flight_key.size_bytes;
        if n_chunks > 0 && more > BATCH_BYTES_MAX {
            break;
        }
        (n_chunks, n_bytes) = (n_chunks + 1, more);
    }
    (n_chunks, n_bytes + n_chunks * TRAILER_BYTES)
}
