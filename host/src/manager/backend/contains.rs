//! Lookups in one backend. Those for the same keys, or for a prefix of the same keys, share one call.
//!
//! No lookup owns the shared call. Every waiter drives it, it has the time limit of one call, and it is abandoned when
//! the last waiter has left. Unlike a fetch it does not run on the control threads: a lookup that the tier answers at
//! once takes some 40 µs, and two more changes of threads would add half of that.
//!
//! Not shared: lookups that pin, and lookups that began before something was stored or removed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::{Backend, within};
use crate::key::ChunkKey;
use crate::manager::breaker::{CallOutcome, Direction, OwnedPermit};
use crate::metrics::Operation;
use crate::sync::lock;
use crate::tier::{Pinning, TierError};

type Answer = Shared<BoxFuture<'static, Result<usize, TierError>>>;

/// The lookups of a backend that can be joined.
#[derive(Default)]
pub(in crate::manager) struct SharedLookups(Mutex<Vec<SharedLookup>>);

struct SharedLookup {
    keys: Arc<[ChunkKey]>,
    answer: WeakShared<BoxFuture<'static, Result<usize, TierError>>>,
    call: Arc<LookupCall>,
}

/// A call that several lookups wait for.
struct LookupCall {
    n_waiting: AtomicUsize,
    permit: Mutex<Option<OwnedPermit>>,
}

/// One lookup that waits for the answer.
struct LookupWaiter(Arc<LookupCall>);

impl LookupWaiter {
    fn new(call: &Arc<LookupCall>) -> Self {
        call.n_waiting.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(call))
    }

    /// Reports whether no other lookup waits.
    fn is_alone(&self) -> bool {
        self.0.n_waiting.load(Ordering::Acquire) == 1
    }
}

impl Drop for LookupWaiter {
    fn drop(&mut self) {
        self.0.n_waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl SharedLookups {
    /// Prevents later lookups from joining the calls that are under way now.
    pub(in crate::manager) fn invalidate(&self) {
        lock(&self.0).clear();
    }

    /// Returns the answer of a call under way whose keys begin with `keys`, or of the call that `begin` makes.
    fn find_or_begin(
        &self,
        keys: &[ChunkKey],
        begin: impl FnOnce() -> Result<(Answer, Arc<LookupCall>), TierError>,
    ) -> Result<(Answer, LookupWaiter), TierError> {
        // Each of these may be the last reference to its call, which must not be dropped under the lock.
        let mut held = Vec::new();
        let mut shared_lookups = lock(&self.0);
        let mut found = None;
        shared_lookups.retain(|shared| {
            let Some(answer) = shared.answer.upgrade() else { return false };
            let is_under_way = answer.peek().is_none();
            if is_under_way && found.is_none() && shared.keys.starts_with(keys) {
                found = Some((answer, LookupWaiter::new(&shared.call)));
            } else {
                held.push(answer);
            }
            is_under_way
        });
        if let Some(found) = found {
            return Ok(found);
        }
        let (answer, call) = begin()?;
        let waiting = LookupWaiter::new(&call);
        if let Some(weak) = answer.downgrade() {
            shared_lookups.push(SharedLookup { keys: keys.into(), answer: weak, call });
        }
        drop(shared_lookups);
        Ok((answer, waiting))
    }
}

impl Backend {
    /// Counts the leading run of present chunks, and pins it if requested.
    pub(in crate::manager) async fn contains(
        self: &Arc<Self>,
        keys: &[ChunkKey],
        pinning: Pinning,
        deadline: Instant,
    ) -> Result<usize, TierError> {
        if self.control.is_forked_child() {
            self.metrics.error(Operation::Contains, &TierError::Forked);
            return Err(TierError::Forked);
        }
        if pinning == Pinning::None {
            return self.count_shared(keys, deadline).await;
        }
        let permit = self.admit(Direction::Reading, keys.iter().copied()).ok_or(TierError::BreakerOpen)?;
        let outcome = self.count_and_pin(keys, deadline).await;
        self.report(permit, CallOutcome::of(&outcome));
        outcome
    }

    /// Counts the leading run, in one call with all concurrent lookups of the same keys.
    async fn count_shared(
        self: &Arc<Self>,
        keys: &[ChunkKey],
        deadline: Instant,
    ) -> Result<usize, TierError> {
        let started = Instant::now();
        let (answer, waiting) = self.shared_lookups.find_or_begin(keys, || self.begin_lookup(keys))?;
        match self.control.until(deadline, answer).await {
            Ok(answer) => answer.map(|n_run| n_run.min(keys.len())),
            Err(_elapsed) => {
                let error = TierError::Timeout(deadline.saturating_duration_since(started));
                if waiting.is_alone() {
                    self.metrics.error(Operation::Contains, &error);
                    let permit = lock(&waiting.0.permit).take();
                    self.report_owned(permit, CallOutcome::of_error(&error));
                }
                Err(error)
            }
        }
    }

    /// Prepares a call, which runs while its answer is awaited.
    fn begin_lookup(self: &Arc<Self>, keys: &[ChunkKey]) -> Result<(Answer, Arc<LookupCall>), TierError> {
        let permit = self.admit(Direction::Reading, keys.iter().copied()).ok_or(TierError::BreakerOpen)?;
        let permit = OwnedPermit::new(&self.breakers, Direction::Reading, permit);
        let call = Arc::new(LookupCall { n_waiting: AtomicUsize::new(0), permit: Mutex::new(Some(permit)) });
        let (backend, shared, keys) = (Arc::clone(self), Arc::clone(&call), Arc::<[ChunkKey]>::from(keys));
        let answer = async move {
            let (tier, deadline) = (backend.tier(), backend.call_deadline(0));
            let call = async {
                within("contains", tier.contains(Arc::clone(&keys), Pinning::None, deadline).await?, &keys)
            };
            let outcome = backend.counted(Operation::Contains, call).await;
            let permit = lock(&shared.permit).take();
            backend.report_owned(permit, CallOutcome::of(&outcome));
            outcome
        };
        Ok((answer.boxed().shared(), call))
    }
}
