//! The breaker's states, by a clock that the tests move.

mod outcome;
mod reports;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Barrier};

use super::*;
use crate::tier::TierError;

const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(4);

struct Rig {
    breakers: Arc<Breakers>,
    clock: Clock,
}

impl Rig {
    fn new(failures: usize, window: usize) -> Self {
        let config = BreakerConfig { failures, window, pause: PAUSE, pause_max: PAUSE_MAX };
        let clock = Clock::manual();
        Self { breakers: Arc::new(Breakers::new("rig", config, &clock)), clock }
    }

    fn breaker(&self) -> &Breaker {
        &self.breakers.reading
    }

    /// Makes a call if it is admitted, and reports whether it was.
    fn call(&self, works: bool) -> bool {
        let permit = self.breaker().admit();
        let outcome = if works { CallOutcome::Worked } else { CallOutcome::Failed("on purpose".into()) };
        permit.map(|permit| permit.report(outcome)).is_some()
    }

    fn state(&self) -> BreakerState {
        self.breaker().status().state
    }

    fn opened(&self) -> u64 {
        self.breaker().status().opened
    }

    /// Makes failing calls until it opens.
    fn open(&self) {
        while self.state() == BreakerState::Closed {
            assert!(self.call(false));
        }
    }

    /// Waits for the end of the pause, and returns its length.
    fn wait(&self) -> Duration {
        let pause = self.breaker().status().retry_in.expect("a pause");
        self.clock.advance(pause + Duration::from_millis(1));
        pause
    }
}

#[test]
fn it_opens_at_the_last_failure_too_many_and_not_before() {
    let rig = Rig::new(5, 20);
    for n_failures in 1..=5 {
        assert_eq!(rig.state(), BreakerState::Closed, "after {} failures", n_failures - 1);
        assert!(rig.call(true) && rig.call(false));
        assert_eq!(rig.breaker().status().failures, n_failures);
    }
    let status = rig.breaker().status();
    assert_eq!((status.state, status.opened, status.skipped), (BreakerState::Open, 1, 0));
    assert_eq!(status.last_cause.as_deref(), Some("on purpose"));
    assert!(!rig.call(true) && !rig.call(true));
    assert_eq!(rig.breaker().status().skipped, 2);
}

#[test]
fn one_rule_puts_out_every_third_failure_and_bears_every_fifth() {
    let (third, fifth) = (Rig::new(5, 20), Rig::new(5, 20));
    let n_until_open = (1..100).find(|n| !third.call(n % 3 != 0));
    assert_eq!(n_until_open, Some(16), "the call after the fifth failure");
    assert!((1..500).all(|n| fifth.call(n % 5 != 0)));
    assert_eq!(fifth.opened(), 0);
}

#[test]
fn without_a_number_of_failures_it_never_opens_for_them() {
    let rig = Rig::new(0, 20);
    assert!((0..200).all(|_| rig.call(false)));
    assert_eq!((rig.opened(), rig.breaker().status().failures), (0, 20));
}

#[test]
fn failures_that_have_left_the_window_do_not_count() {
    let rig = Rig::new(2, 4);
    for _ in 0..50 {
        assert!(rig.call(false) && rig.call(true) && rig.call(true) && rig.call(true));
    }
    assert_eq!(rig.opened(), 0);
    let widest = Rig::new(64, 64);
    assert!((0..64).all(|_| widest.call(false)));
    assert_eq!(widest.state(), BreakerState::Open);
}

#[test]
fn after_the_pause_one_call_decides() {
    let rig = Rig::new(3, 6);
    rig.open();
    let pause = rig.breaker().status().retry_in.unwrap();
    rig.clock.advance(pause.saturating_sub(Duration::from_millis(1)));
    assert!(!rig.breaker().is_ready() && !rig.call(true), "a moment too early");
    rig.clock.advance(Duration::from_millis(2));
    assert!(rig.breaker().is_ready());
    assert_eq!(rig.state(), BreakerState::HalfOpen);
    let probe = rig.breaker().admit().unwrap();
    assert!(!rig.breaker().is_ready() && !rig.call(true), "one only");
    assert_eq!(rig.state(), BreakerState::HalfOpen);
    probe.report(CallOutcome::Failed("still".into()));
    assert_eq!((rig.state(), rig.opened()), (BreakerState::Open, 2));
    rig.wait();
    assert!(rig.call(true));
    assert_eq!((rig.state(), rig.opened()), (BreakerState::Closed, 2));
    assert!(rig.breaker().is_closed());
}

#[test]
fn one_that_has_just_come_back_is_put_out_by_its_next_failure_until_its_calls_are_clean_again() {
    let rig = Rig::new(3, 6);
    rig.open();
    rig.wait();
    assert!(rig.call(true));
    assert!(rig.call(false));
    assert_eq!(rig.state(), BreakerState::Open, "three failures in the last five calls");
    rig.wait();
    assert!((0..6).all(|_| rig.call(true)));
    assert_eq!(rig.breaker().status().failures, 0);
    assert!(rig.call(false) && rig.call(false));
    assert_eq!(rig.state(), BreakerState::Closed);
}

#[test]
fn pauses_double_with_every_failed_probe_up_to_the_maximum_and_start_small_after_a_clean_window() {
    let rig = Rig::new(1, 4);
    assert!(rig.call(false));
    let mut range = PAUSE;
    for _ in 0..6 {
        let pause = rig.wait();
        assert!(pause >= range / 2 && pause <= range, "{pause:?} of {range:?}");
        assert!(rig.call(false));
        range = (range * 2).min(PAUSE_MAX);
    }
    // Closed, but with a history: the next pause is not the shortest.
    rig.wait();
    assert!((0..3).all(|_| rig.call(true)));
    assert!(rig.call(false));
    assert!(rig.wait() >= PAUSE_MAX / 2);
    assert!((0..4).all(|_| rig.call(true)));
    assert!(rig.call(false));
    assert!(rig.wait() <= PAUSE);
}

#[test]
fn of_many_callers_at_the_same_time_one_is_the_probe() {
    const CALLERS: usize = 16;
    let rig = Rig::new(1, 8);
    for _ in 0..100 {
        rig.open();
        rig.wait();
        let (barrier, n_probes) = (Barrier::new(CALLERS), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    barrier.wait();
                    let permit = rig.breaker().admit();
                    // All ask before the first reports.
                    barrier.wait();
                    if let Some(permit) = permit {
                        n_probes.fetch_add(1, Ordering::SeqCst);
                        permit.report(CallOutcome::Worked);
                    }
                });
            }
        });
        assert_eq!(n_probes.into_inner(), 1);
        assert_eq!(rig.state(), BreakerState::Closed);
    }
}

#[test]
fn a_call_that_its_caller_dropped_says_nothing_and_a_dropped_probe_gives_its_place_back() {
    let rig = Rig::new(2, 4);
    for _ in 0..10 {
        drop(rig.breaker().admit().unwrap());
        rig.breaker().admit().unwrap().report(CallOutcome::Unknown);
    }
    assert_eq!((rig.breaker().status().failures, rig.opened()), (0, 0));
    rig.open();
    rig.wait();
    let failures = rig.breaker().status().failures;
    drop(rig.breaker().admit().unwrap());
    rig.breaker().admit().unwrap().report(CallOutcome::Unknown);
    assert_eq!((rig.breaker().status().failures, rig.opened()), (failures, 1));
    assert!(rig.call(true), "immediately, without another pause");
    assert_eq!(rig.state(), BreakerState::Closed);
}

#[test]
fn a_probe_that_never_ends_is_replaced_and_not_heard_any_more() {
    let rig = Rig::new(2, 4);
    rig.open();
    rig.wait();
    let stuck = rig.breaker().admit().unwrap();
    rig.clock.advance(PAUSE_MAX.saturating_sub(Duration::from_millis(1)));
    assert!(!rig.call(true));
    rig.clock.advance(Duration::from_millis(1));
    let probe = rig.breaker().admit().unwrap();
    assert!(!rig.call(true), "one only");
    stuck.report(CallOutcome::Failed("late".into()));
    assert_eq!((rig.state(), rig.opened()), (BreakerState::HalfOpen, 1));
    probe.report(CallOutcome::Worked);
    assert_eq!(rig.state(), BreakerState::Closed);
}

#[test]
fn outcomes_of_calls_from_before_the_opening_change_nothing() {
    let rig = Rig::new(2, 4);
    let [early, late, later] = [0, 1, 2].map(|_| rig.breaker().admit().unwrap());
    rig.open();
    early.report(CallOutcome::Worked);
    assert_eq!(rig.state(), BreakerState::Open);
    rig.wait();
    let probe = rig.breaker().admit().unwrap();
    late.report(CallOutcome::Failed("late".into()));
    assert_eq!((rig.state(), rig.opened()), (BreakerState::HalfOpen, 1));
    probe.report(CallOutcome::Worked);
    later.report(CallOutcome::Failed("later".into()));
    assert_eq!((rig.state(), rig.opened()), (BreakerState::Closed, 1));
    assert_eq!(rig.breaker().status().last_cause.as_deref(), Some("on purpose"));
}

/// Any sequence of events: never two probes, and never stuck.
#[test]
fn whatever_happens_at_most_one_probe_is_out_and_it_always_comes_back() {
    for seed in 0..300_u64 {
        let rig = Rig::new(2, 6);
        let tier = rig.breakers.attach();
        let mut out: Vec<Permit<'_>> = Vec::new();
        let mut random = seed;
        let mut draw = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        for _ in 0..200 {
            match draw(8) {
                0..=2 => out.extend(rig.breaker().admit()),
                3 | 4 if !out.is_empty() => {
                    let permit = out.swap_remove(draw(out.len() as u64) as usize);
                    permit.report(if draw(2) == 0 {
                        CallOutcome::Worked
                    } else {
                        CallOutcome::Failed("no".into())
                    });
                }
                5 if !out.is_empty() => drop(out.swap_remove(draw(out.len() as u64) as usize)),
                6 => rig.clock.advance(Duration::from_millis(draw(3000))),
                7 if draw(3) == 0 => tier.down("down", PAUSE),
                7 => tier.up(),
                _ => {}
            }
            let epoch = rig.breaker().epoch.load(Ordering::SeqCst);
            let n_probes = out.iter().filter(|permit| permit.is_probe && permit.epoch == epoch).count();
            assert!(n_probes <= 1, "seed {seed}");
            let state = rig.breaker().status().state;
            assert!(n_probes == 0 || state == BreakerState::HalfOpen, "seed {seed}: {state:?}");
        }
        out.clear();
        tier.up();
        rig.clock.advance(PAUSE_MAX);
        assert!(rig.call(true) && rig.call(true), "seed {seed}: stuck");
        assert_eq!(rig.state(), BreakerState::Closed, "seed {seed}");
    }
}
