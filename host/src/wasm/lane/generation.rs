//! One generation of a lane, and the place of each of its calls.
//!
//! The task of a retired generation may run on until it next yields. Its counts and answers then go here, where they
//! are no longer read, and never to its successor.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot};

use super::call::{Answer, Call};
use crate::sync::lock;
use crate::tier::TierError;
use crate::wasm::cpu_time::CpuTime;

pub(super) type Reply = oneshot::Sender<Result<Answer, TierError>>;

/// A call on its way to the lane's task.
pub(super) struct Job {
    pub(super) call: Call,
    pub(super) reply: Reply,
    pub(super) ticket: Arc<Ticket>,
}

/// One store's life.
#[derive(Default)]
pub(super) struct Generation {
    /// Calls inside the guest.
    in_flight: AtomicUsize,
    /// The calls among them whose callers have left.
    abandoned: AtomicUsize,
    /// Whether its instance is open.
    open: AtomicBool,
    /// Whether it ever took a call.
    used: AtomicBool,
    /// Changes whenever the lane's task runs.
    progress: AtomicU64,
    /// Wakes the lane's task, which then advances `progress`.
    pub(super) ping: Notify,
    pub(super) guest_memory_bytes: Arc<AtomicU64>,
    /// The processor time of making, constructing and opening its instance.
    pub(super) start: CpuTime,
    replies: Mutex<Replies>,
    retirement: Mutex<Option<String>>,
}

/// The replies of calls that are inside the guest, with their methods: kept here to report why their generation ended.
struct Replies(Result<Vec<Option<(Reply, &'static str)>>, TierError>);

impl Default for Replies {
    fn default() -> Self {
        Self(Ok(Vec::new()))
    }
}

/// A call's slot among the replies.
pub(super) struct CallSlot(usize);

impl Generation {
    /// Admits a call. Returns `None` if its caller has left, or if the generation has ended; the caller then gets the
    /// cause.
    pub(super) fn enter(
        self: &Arc<Self>,
        ticket: &Ticket,
        reply: Reply,
        method: &'static str,
    ) -> Option<CallSlot> {
        let mut place = ticket.lock();
        if !matches!(*place, CallPlace::Queued) {
            return None;
        }
        let mut replies = lock(&self.replies);
        let replies = match &mut replies.0 {
            Ok(replies) => replies,
            Err(error) => {
                // The caller may have left.
                drop(reply.send(Err(error.clone())));
                return None;
            }
        };
        let free = replies.iter().position(Option::is_none).unwrap_or(replies.len());
        if free == replies.len() {
            replies.push(None);
        }
        replies[free] = Some((reply, method));
        *place = CallPlace::Inside(Arc::clone(self));
        self.used.store(true, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        Some(CallSlot(free))
    }

    /// Sends the answer of a call that has returned from the guest.
    pub(super) fn leave(&self, ticket: &Ticket, entry: &CallSlot, answer: Result<Answer, TierError>) {
        let mut place = ticket.lock();
        if matches!(std::mem::replace(&mut *place, CallPlace::Out), CallPlace::Left) {
            self.abandoned.fetch_sub(1, Ordering::AcqRel);
        }
        drop(place);
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        let reply = lock(&self.replies).0.as_mut().ok().and_then(|replies| replies[entry.0].take());
        if let Some((reply, _)) = reply {
            // The caller may have left.
            drop(reply.send(answer));
        }
    }

    /// Ends the generation for its callers: the calls inside, and those that its task still admits, fail with
    /// `error`.
    pub(super) fn fail(&self, error: &TierError) {
        let ended = std::mem::replace(&mut lock(&self.replies).0, Err(error.clone()));
        for (reply, _) in ended.into_iter().flatten().flatten() {
            // The caller may have left.
            drop(reply.send(Err(error.clone())));
        }
    }

    /// Returns which methods are inside, as " in `get`" or " in `get` or `put`"; nothing if none is. One of them is why
    /// the guest traps or stalls.
    pub(super) fn methods_inside(&self) -> String {
        let replies = lock(&self.replies);
        let inside: BTreeSet<_> = replies.0.iter().flatten().flatten().map(|(_, method)| *method).collect();
        let named: Vec<_> = inside.into_iter().map(|method| format!("`{method}`")).collect();
        if named.is_empty() { String::new() } else { format!(" in {}", named.join(" or ")) }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Reports whether a caller waits for a call inside.
    pub(super) fn has_callers(&self) -> bool {
        self.in_flight() > self.abandoned()
    }

    pub(super) fn abandoned(&self) -> usize {
        self.abandoned.load(Ordering::Acquire)
    }

    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Acquire)
    }

    pub(super) fn advance(&self) {
        self.progress.fetch_add(1, Ordering::AcqRel);
    }

    /// Requests the end of the generation; the first reason is kept.
    pub(super) fn retire(&self, reason: String) {
        lock(&self.retirement).get_or_insert(reason);
    }

    pub(super) fn retirement(&self) -> Option<String> {
        lock(&self.retirement).clone()
    }
}

/// Where a call is: shared by its caller and the lane.
#[derive(Default)]
pub(super) struct Ticket(Mutex<CallPlace>);

#[derive(Default)]
enum CallPlace {
    #[default]
    Queued,
    Inside(Arc<Generation>),
    /// Returned from the guest, or never let in.
    Out,
    /// Its caller left first.
    Left,
}

impl Ticket {
    fn lock(&self) -> MutexGuard<'_, CallPlace> {
        lock(&self.0)
    }

    /// Records that the caller is gone. If the call is inside, returns its generation and how many such calls the
    /// generation has now.
    pub(super) fn abandon(&self) -> Option<(Arc<Generation>, usize)> {
        let mut place = self.lock();
        match std::mem::replace(&mut *place, CallPlace::Left) {
            // Counted under the ticket's lock, so that `leave` never subtracts what was not yet added.
            CallPlace::Inside(generation) => {
                let n_abandoned = generation.abandoned.fetch_add(1, Ordering::AcqRel) + 1;
                Some((generation, n_abandoned))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> (Ticket, Reply, oneshot::Receiver<Result<Answer, TierError>>) {
        let (reply, answer) = oneshot::channel();
        (Ticket::default(), reply, answer)
    }

    fn count(answer: Result<Result<Answer, TierError>, oneshot::error::TryRecvError>) -> u32 {
        match answer {
            Ok(Ok(Answer::Count(count))) => count,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_call_gets_its_own_answer_in_any_order_of_return() {
        let generation = Arc::new(Generation::default());
        let calls: Vec<_> = (0..3)
            .map(|_| {
                let (ticket, reply, answer) = call();
                let entry = generation.enter(&ticket, reply, "get").unwrap();
                (ticket, entry, answer)
            })
            .collect();
        assert_eq!(generation.in_flight(), 3);
        for (number, (ticket, entry, mut answer)) in (0..3).zip(calls).rev() {
            generation.leave(&ticket, &entry, Ok(Answer::Count(number)));
            assert_eq!(count(answer.try_recv()), number);
        }
        assert_eq!(generation.in_flight(), 0);
        assert!(generation.was_used());
    }

    #[test]
    fn a_call_that_comes_out_of_a_retired_generation_answers_nobody_in_the_next() {
        let (old, new) = (Arc::new(Generation::default()), Arc::new(Generation::default()));
        let (old_ticket, reply, mut old_answer) = call();
        let old_entry = old.enter(&old_ticket, reply, "get").unwrap();
        old.fail(&TierError::Lost("retired".into()));
        let (new_ticket, reply, mut new_answer) = call();
        let new_entry = new.enter(&new_ticket, reply, "get").unwrap();
        old.leave(&old_ticket, &old_entry, Ok(Answer::Count(1)));
        assert!(matches!(old_answer.try_recv(), Ok(Err(TierError::Lost(_)))));
        assert!(new_answer.try_recv().is_err(), "not answered by another call");
        new.leave(&new_ticket, &new_entry, Ok(Answer::Count(2)));
        assert_eq!(count(new_answer.try_recv()), 2);
        assert_eq!(new.in_flight(), 0);
    }

    #[test]
    fn the_methods_inside_are_named_once() {
        let generation = Arc::new(Generation::default());
        assert_eq!(generation.methods_inside(), "");
        let enter = |method| {
            let (ticket, reply, answer) = call();
            let entry = generation.enter(&ticket, reply, method).unwrap();
            (ticket, entry, answer)
        };
        let _put = enter("put");
        let (ticket, entry, _answer) = enter("get");
        let _get = enter("get");
        assert_eq!(generation.methods_inside(), " in `get` or `put`");
        generation.leave(&ticket, &entry, Ok(Answer::Done));
        assert_eq!(generation.methods_inside(), " in `get` or `put`");
        generation.fail(&TierError::Lost("retired".into()));
        assert_eq!(generation.methods_inside(), "");
    }

    #[test]
    fn a_call_taken_by_a_generation_that_has_ended_hears_why() {
        let generation = Arc::new(Generation::default());
        generation.fail(&TierError::Trap("gone".into()));
        let (ticket, reply, mut answer) = call();
        assert!(generation.enter(&ticket, reply, "get").is_none());
        assert!(matches!(answer.try_recv(), Ok(Err(TierError::Trap(_)))));
        assert_eq!(generation.in_flight(), 0);
    }

    #[test]
    fn abandoned_calls_are_counted_from_when_their_callers_leave_until_they_come_out() {
        let generation = Arc::new(Generation::default());
        let (ticket, reply, _answer) = call();
        let entry = generation.enter(&ticket, reply, "get").unwrap();
        assert_eq!(ticket.abandon().map(|(_, n_abandoned)| n_abandoned), Some(1));
        generation.leave(&ticket, &entry, Ok(Answer::Done));
        assert_eq!(generation.abandoned(), 0);

        let (ticket, reply, _answer) = call();
        let entry = generation.enter(&ticket, reply, "get").unwrap();
        generation.leave(&ticket, &entry, Ok(Answer::Done));
        assert!(ticket.abandon().is_none(), "answered before the caller left");
        assert_eq!(generation.abandoned(), 0);

        let (ticket, reply, _answer) = call();
        assert!(ticket.abandon().is_none());
        assert!(generation.enter(&ticket, reply, "get").is_none(), "left while queued: not run at all");
    }
}
