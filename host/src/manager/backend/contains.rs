//! Lookups on their way in one backend: those that ask for the same, or for the beginning of the same, share one call.
//!
//! The call belongs to nobody: each of those who wait for it drives it, it has the time that a call has, and it is
//! abandoned when the last has left. Unlike a fetch it is not handed to the control threads: a lookup that the tier answers at
//! once takes some 40 µs, and two more changes of threads would add half of that.
//!
//! Not shared: lookups that pin, and those that began before something was stored or removed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::{Backend, within};
use crate::key::ChunkKey;
use crate::manager::breaker::{Direction, OwnedPermit, Verdict};
use crate::metrics::Operation;
use crate::sync::lock;
use crate::tier::{Pinning, TierError};

type Answer = Shared<BoxFuture<'static, Result<usize, TierError>>>;

/// The lookups of a backend that can be joined.
#[derive(Default)]
pub(in crate::manager) struct Questions(Mutex<Vec<Question>>);

struct Question {
    keys: Arc<[ChunkKey]>,
    answer: WeakShared<BoxFuture<'static, Result<usize, TierError>>>,
    asked: Arc<Asked>,
}

/// What those who wait for one answer share.
struct Asked {
    n_waiting: AtomicUsize,
    permit: Mutex<Option<OwnedPermit>>,
}

/// One who waits for an answer.
struct Waiting(Arc<Asked>);

impl Waiting {
    fn new(asked: &Arc<Asked>) -> Self {
        asked.n_waiting.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(asked))
    }

    /// Reports whether nobody else waits.
    fn is_alone(&self) -> bool {
        self.0.n_waiting.load(Ordering::Acquire) == 1
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.n_waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Questions {
    /// Has nobody join a lookup that is on its way at this moment.
    pub(in crate::manager) fn forget(&self) {
        lock(&self.0).clear();
    }

    /// Returns the answer of a lookup on its way that has `keys` at its beginning, or of the one that `ask` makes.
    fn find_or_ask(
        &self,
        keys: &[ChunkKey],
        ask: impl FnOnce() -> Result<(Answer, Arc<Asked>), TierError>,
    ) -> Result<(Answer, Waiting), TierError> {
        // What is held here may be the last of its kind, and must not end under the lock.
        let mut held = Vec::new();
        let mut questions = lock(&self.0);
        let mut found = None;
        questions.retain(|question| {
            let Some(answer) = question.answer.upgrade() else { return false };
            let is_under_way = answer.peek().is_none();
            if is_under_way && found.is_none() && question.keys.starts_with(keys) {
                found = Some((answer, Waiting::new(&question.asked)));
            } else {
                held.push(answer);
            }
            is_under_way
        });
        if let Some(found) = found {
            return Ok(found);
        }
        let (answer, asked) = ask()?;
        let waiting = Waiting::new(&asked);
        if let Some(weak) = answer.downgrade() {
            questions.push(Question { keys: keys.into(), answer: weak, asked });
        }
        drop(questions);
        Ok((answer, waiting))
    }
}

impl Backend {
    /// Counts the leading run, and pins it if asked, as far as the breaker lets the tier work.
    pub(in crate::manager) async fn contains(
        self: &Arc<Self>,
        keys: &[ChunkKey],
        pinning: Pinning,
        deadline: Instant,
    ) -> Result<usize, TierError> {
        if self.control.is_left_behind() {
            self.metrics.error(Operation::Contains, TierError::Forked.kind());
            return Err(TierError::Forked);
        }
        if pinning == Pinning::None {
            return self.count_together(keys, deadline).await;
        }
        let permit = self.admit(Direction::Reading, keys.iter().copied()).ok_or(TierError::BreakerOpen)?;
        let outcome = self.count_and_pin(keys, deadline).await;
        self.settle(permit, Verdict::of(&outcome));
        outcome
    }

    /// Counts the leading run of `keys`, with all others who ask for the same at the time.
    async fn count_together(
        self: &Arc<Self>,
        keys: &[ChunkKey],
        deadline: Instant,
    ) -> Result<usize, TierError> {
        let started = Instant::now();
        let (answer, waiting) = self.questions.find_or_ask(keys, || self.ask(keys))?;
        match self.control.until(deadline, answer).await {
            Ok(answer) => answer.map(|n_run| n_run.min(keys.len())),
            Err(_elapsed) => {
                let error = TierError::Timeout(deadline.saturating_duration_since(started));
                if waiting.is_alone() {
                    self.metrics.error(Operation::Contains, error.kind());
                    let permit = lock(&waiting.0.permit).take();
                    self.settle_owned(permit, Verdict::of_error(&error));
                }
                Err(error)
            }
        }
    }

    /// Begins a lookup, which gets on when its answer is waited for.
    fn ask(self: &Arc<Self>, keys: &[ChunkKey]) -> Result<(Answer, Arc<Asked>), TierError> {
        let permit = self.admit(Direction::Reading, keys.iter().copied()).ok_or(TierError::BreakerOpen)?;
        let permit = OwnedPermit::new(&self.breakers, Direction::Reading, permit);
        let asked = Arc::new(Asked { n_waiting: AtomicUsize::new(0), permit: Mutex::new(Some(permit)) });
        let (backend, asking, keys) = (Arc::clone(self), Arc::clone(&asked), Arc::<[ChunkKey]>::from(keys));
        let answer = async move {
            let (tier, deadline) = (backend.tier(), backend.call_deadline(0));
            let call =
                async { within(tier.contains(Arc::clone(&keys), Pinning::None, deadline).await?, &keys) };
            let outcome = backend.counted(Operation::Contains, call).await;
            let permit = lock(&asking.permit).take();
            backend.settle_owned(permit, Verdict::of(&outcome));
            outcome
        };
        Ok((answer.boxed().shared(), asked))
    }
}
