//! The tick after which a computing guest lets others run: advances the engine's epoch while guests run.
//!
//! Invariant: guests run only between [`Guests::run`] and the drop of the value that it returns, and the epoch advances
//! one tick after a guest began to run, even after a long rest. When no guest has run for a while, the thread sleeps
//! until one does.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::limits::{EPOCH_IDLE_TICKS_MAX, EPOCH_TICK};
use crate::runtime::OwnerProcess;

/// Owns the thread that ticks.
pub(in crate::wasm) struct Ticker {
    guests: Guests,
    thread: Option<JoinHandle<()>>,
    owner: OwnerProcess,
}

/// Notifies the ticker when guests run. Cloning shares it.
#[derive(Clone)]
pub(in crate::wasm) struct Guests(Arc<Shared>);

struct Shared {
    n_running: AtomicUsize,
    /// The thread sleeps, or is about to.
    is_asleep: AtomicBool,
    is_stopped: AtomicBool,
    thread: std::sync::OnceLock<thread::Thread>,
}

/// Marks a guest as running until it is dropped.
pub(in crate::wasm) struct RunningGuest<'a>(&'a Shared);

impl Drop for RunningGuest<'_> {
    fn drop(&mut self) {
        self.0.n_running.fetch_sub(1, Ordering::Release);
    }
}

impl Ticker {
    /// Starts the thread, which calls `tick`.
    ///
    /// # Errors
    /// The system's, if it grants no more threads.
    pub(in crate::wasm) fn start(tick: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        Self::start_with(EPOCH_TICK, EPOCH_IDLE_TICKS_MAX, tick)
    }

    fn start_with(
        every: Duration,
        n_idle_max: u32,
        tick: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            n_running: AtomicUsize::new(0),
            is_asleep: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            let run = move || shared.run(every, n_idle_max, tick);
            thread::Builder::new().name("kvtier-epoch".into()).spawn(run)?
        };
        // Before any guest can run.
        shared.thread.get_or_init(|| thread.thread().clone());
        Ok(Self { guests: Guests(shared), thread: Some(thread), owner: OwnerProcess::current() })
    }

    pub(in crate::wasm) fn guests(&self) -> &Guests {
        &self.guests
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.guests.0.is_stopped.store(true, Ordering::SeqCst);
        self.guests.0.wake();
        // In a forked process the thread does not exist, and so never ends.
        if let Some(thread) = self.thread.take()
            && !self.owner.is_parent()
        {
            // It ends within a tick. Its panic, if any, has no receiver left.
            drop(thread.join());
        }
    }
}

impl Guests {
    /// Makes the epoch advance until the returned value is dropped.
    pub(in crate::wasm) fn run(&self) -> RunningGuest<'_> {
        // Counted before `is_asleep` is read, because the thread looks for guests after it sets that: one of the two
        // sees the other.
        self.0.n_running.fetch_add(1, Ordering::SeqCst);
        if self.0.is_asleep.load(Ordering::SeqCst) {
            self.0.wake();
        }
        RunningGuest(&self.0)
    }

    /// Drives a future in which guests run.
    pub(in crate::wasm) async fn drive<F: Future>(self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let _running = self.run();
            future.as_mut().poll(cx)
        })
        .await
    }
}

impl Shared {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn run(&self, every: Duration, n_idle_max: u32, tick: impl Fn()) {
        let mut n_idle = 0;
        while !self.is_stopped.load(Ordering::SeqCst) {
            n_idle = if self.n_running.load(Ordering::SeqCst) > 0 { 0 } else { n_idle + 1 };
            // Not immediately, or it would be woken between any two calls.
            if n_idle > n_idle_max {
                self.is_asleep.store(true, Ordering::SeqCst);
                if self.n_running.load(Ordering::SeqCst) == 0 && !self.is_stopped.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.is_asleep.store(false, Ordering::SeqCst);
                n_idle = 0;
            }
            thread::sleep(every);
            tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Instant;

    use super::*;

    fn ticker(n_idle_max: u32) -> (Ticker, Arc<AtomicU64>) {
        let n_ticks = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&n_ticks);
        let tick = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        (Ticker::start_with(Duration::from_micros(10), n_idle_max, tick).unwrap(), n_ticks)
    }

    fn eventually(what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while !done() {
            assert!(Instant::now() < deadline, "without effect: {what}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_guest_that_starts_gets_its_tick_whenever_the_thread_falls_asleep() {
        for n_idle_max in [0, 1, 3] {
            let (ticker, n_ticks) = ticker(n_idle_max);
            for round in 0_u32..1_000 {
                let running = ticker.guests().run();
                let before = n_ticks.load(Ordering::SeqCst);
                eventually("a tick", || n_ticks.load(Ordering::SeqCst) > before);
                drop(running);
                // Until the next one starts at some other moment of falling asleep.
                (0..round % 300).for_each(|_| std::hint::spin_loop());
            }
        }
    }

    #[test]
    fn nothing_ticks_while_no_guest_runs() {
        let (ticker, n_ticks) = ticker(3);
        let shared = &ticker.guests().0;
        eventually("it sleeps", || shared.is_asleep.load(Ordering::SeqCst));
        // At most the one tick of which it has just come back.
        let asleep = n_ticks.load(Ordering::SeqCst);
        (0..1_000).for_each(|_| thread::yield_now());
        assert!(shared.is_asleep.load(Ordering::SeqCst), "nobody has woken it");
        assert_eq!(n_ticks.load(Ordering::SeqCst), asleep);
        drop(ticker.guests().run());
        eventually("it ticks again", || n_ticks.load(Ordering::SeqCst) > asleep);
        eventually("it sleeps again", || shared.is_asleep.load(Ordering::SeqCst));
    }

    #[test]
    fn two_guests_tick_until_both_are_done() {
        let (ticker, n_ticks) = ticker(0);
        let guests = ticker.guests().clone();
        let (first, second) = (guests.run(), guests.run());
        drop(first);
        let before = n_ticks.load(Ordering::SeqCst);
        eventually("ticks for the second", || n_ticks.load(Ordering::SeqCst) > before + 10);
        drop(second);
        eventually("it sleeps", || guests.0.is_asleep.load(Ordering::SeqCst));
    }
}
