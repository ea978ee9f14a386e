//! Turns to compile: a few components at a time, each once, and none again that is known not to compile.

use std::collections::{HashMap, HashSet};
use std::io::PipeReader;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::{CompileLimit, ComponentError};
use crate::config::Sha256Digest;
use crate::limits::COMPILERS_MAX;
use crate::sync::{lock, wait};

/// Why a component need not be compiled again.
#[derive(Clone)]
pub(super) enum Unservable {
    Refused(String),
    Limit(CompileLimit),
    /// The component made the compiler crash or write without end.
    Died {
        compiler: PathBuf,
        cause: String,
    },
}

impl Unservable {
    pub(super) fn error(self, path: &Path) -> ComponentError {
        let path = path.into();
        match self {
            Self::Refused(cause) => ComponentError::Invalid { path, cause },
            Self::Limit(limit) => ComponentError::CompileLimit { path, limit },
            Self::Died { compiler, cause } => ComponentError::Compiler { path, compiler, cause },
        }
    }
}

/// Why there is no turn.
pub(super) enum NoTurn {
    Unservable(Unservable),
    /// Its backend is closed.
    Cancelled,
}

/// The turns to compile. A component is identified by its digest.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<TurnsState>,
    /// A turn has ended.
    over: Condvar,
}

#[derive(Default)]
struct TurnsState {
    /// Being compiled.
    under_way: HashSet<Sha256Digest>,
    /// The components that never compile, so that a backend that is retried does not use a compiler each time.
    unservable: HashMap<Sha256Digest, Unservable>,
}

/// The right to compile one component. Dropping it passes the turn on.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    component: Sha256Digest,
}

impl Turns {
    /// Waits until this component is not being compiled elsewhere, and fewer than [`COMPILERS_MAX`] others are. Blocks
    /// the thread.
    ///
    /// # Errors
    /// Why the component need not be compiled, if that is known already or becomes known; or that the other end of
    /// `cancel` was closed.
    pub(super) fn wait(
        &self,
        component: Sha256Digest,
        cancel: Option<&PipeReader>,
    ) -> Result<Turn<'_>, NoTurn> {
        let mut state = lock(&self.state);
        loop {
            if let Some(unservable) = state.unservable.get(&component) {
                return Err(NoTurn::Unservable(unservable.clone()));
            }
            if cancel.is_some_and(is_closed) {
                return Err(NoTurn::Cancelled);
            }
            if state.under_way.len() < COMPILERS_MAX && state.under_way.insert(component) {
                return Ok(Turn { turns: self, component });
            }
            state = wait(&self.over, state);
        }
    }

    /// Makes the waiting threads check whether they were cancelled.
    pub(super) fn wake(&self) {
        // Under the lock, so that a thread that has checked before is waiting now.
        let _state = lock(&self.state);
        self.over.notify_all();
    }
}

/// Reports whether the other end of a pipe is closed. Nothing is written to it.
fn is_closed(pipe: &PipeReader) -> bool {
    let mut pipe = [PollFd::new(pipe, PollFlags::IN)];
    poll(&mut pipe, Some(&Timespec::default())).is_ok_and(|n| n > 0)
}

impl Turn<'_> {
    /// Records that the component never compiles.
    pub(super) fn give_up(&self, cause: Unservable) -> Unservable {
        lock(&self.turns.state).unservable.insert(self.component, cause.clone());
        cause
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.turns.state).under_way.remove(&self.component);
        self.turns.over.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// For events that come immediately or never.
    const LONG: Duration = Duration::from_mins(1);

    fn digest(n: usize) -> Sha256Digest {
        Sha256Digest([n as u8; 32])
    }

    fn refused() -> Unservable {
        Unservable::Refused("no good".into())
    }

    #[test]
    fn a_component_that_never_finishes_does_not_hold_up_others() {
        let turns = Turns::default();
        let _for_ever = turns.wait(digest(0), None).ok().unwrap();
        for n in 1..4 * COMPILERS_MAX {
            drop(turns.wait(digest(n), None).ok().unwrap());
        }
    }

    #[test]
    fn so_many_are_compiled_at_a_time_and_the_next_when_one_is_done() {
        let turns = Turns::default();
        let mut held: Vec<_> =
            (0..COMPILERS_MAX).map(|n| turns.wait(digest(n), None).ok().unwrap()).collect();
        std::thread::scope(|threads| {
            let (sender, done) = mpsc::channel();
            threads.spawn({
                let turns = &turns;
                move || {
                    let turn = turns.wait(digest(COMPILERS_MAX), None);
                    // At most as many as there may be, this one among them.
                    sender.send(lock(&turns.state).under_way.len()).unwrap();
                    drop(turn);
                }
            });
            drop(held.pop());
            assert!(done.recv_timeout(LONG).unwrap() <= COMPILERS_MAX);
        });
    }

    #[test]
    fn whoever_waits_for_the_same_component_hears_that_it_never_compiles() {
        let turns = Turns::default();
        let turn = turns.wait(digest(0), None).ok().unwrap();
        std::thread::scope(|threads| {
            let second = threads.spawn(|| turns.wait(digest(0), None).is_err());
            let _told = turn.give_up(refused());
            drop(turn);
            assert!(second.join().unwrap());
        });
        assert!(turns.wait(digest(0), None).is_err(), "nor is it tried again");
    }

    #[test]
    fn a_cancelled_wait_ends() {
        let turns = Turns::default();
        let _for_ever = turns.wait(digest(0), None).ok().unwrap();
        let (cancel, other_end) = std::io::pipe().unwrap();
        std::thread::scope(|threads| {
            let waiting =
                threads.spawn(|| matches!(turns.wait(digest(0), Some(&cancel)), Err(NoTurn::Cancelled)));
            drop(other_end);
            turns.wake();
            assert!(waiting.join().unwrap());
        });
    }
}
