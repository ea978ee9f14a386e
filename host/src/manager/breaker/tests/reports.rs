//! Reports of a tier that is not running, was replaced, or starts again.

use super::*;

#[test]
fn while_the_tier_is_not_running_nothing_is_let_through_however_late() {
    let rig = Rig::new(2, 4);
    let tier = rig.breakers.attach();
    tier.up();
    assert_eq!(rig.opened(), 0);
    tier.down("no such file", Duration::from_secs(1));
    tier.down("no such secret", Duration::from_secs(2));
    let status = rig.breaker().status();
    assert_eq!((status.state, status.opened), (BreakerState::Open, 1));
    assert_eq!(status.last_cause.as_deref(), Some("no such secret"));
    assert_eq!(status.retry_in, Some(Duration::from_secs(2)));
    assert_eq!(rig.breakers.down_cause().as_deref(), Some("no such secret"));
    rig.clock.advance(Duration::from_hours(1));
    assert!(!rig.breaker().is_ready() && !rig.call(true));
    tier.up();
    assert_eq!((rig.state(), rig.breakers.down_cause()), (BreakerState::Closed, None));
    assert!(rig.call(true));
}

#[test]
fn a_tier_that_stops_during_the_probe_does_not_leave_it_half_open_for_ever() {
    let rig = Rig::new(2, 4);
    let tier = rig.breakers.attach();
    rig.open();
    rig.wait();
    let probe = rig.breaker().admit().unwrap();
    tier.down("stopped", PAUSE);
    tier.up();
    probe.report(CallOutcome::Worked);
    assert_eq!(rig.state(), BreakerState::HalfOpen);
    assert!(rig.call(true));
    assert_eq!(rig.state(), BreakerState::Closed);
}

#[test]
fn a_tier_that_was_replaced_is_not_heard_any_more_and_the_new_one_starts_clean() {
    let rig = Rig::new(2, 4);
    let old = rig.breakers.attach();
    let calls = [0, 1].map(|_| rig.breaker().admit().unwrap());
    let new = rig.breakers.attach();
    for call in calls {
        call.report(CallOutcome::Failed("lost with the old one".into()));
    }
    assert_eq!(rig.breaker().status().failures, 0);
    rig.open();
    drop(new);
    let new = rig.breakers.attach();
    assert_eq!((rig.state(), rig.breaker().status().failures), (BreakerState::Closed, 0));
    old.down("late", PAUSE);
    assert_eq!(rig.state(), BreakerState::Closed);
    new.down("really", PAUSE);
    old.up();
    assert_eq!(rig.breakers.down_cause().as_deref(), Some("really"));
}

#[test]
fn a_tier_that_starts_anew_is_let_work_at_once_and_calls_from_before_say_nothing_of_it() {
    let rig = Rig::new(2, 4);
    let tier = rig.breakers.attach();
    let call = rig.breaker().admit().unwrap();
    rig.open();
    tier.renewed();
    call.report(CallOutcome::Failed("lost with the old instance".into()));
    assert_eq!((rig.state(), rig.breaker().status().failures), (BreakerState::Closed, 0));
    tier.down("stopped", PAUSE);
    tier.renewed();
    assert_eq!(rig.state(), BreakerState::Open, "it is not running yet");
    tier.up();
    assert!(rig.call(true));
}

#[test]
fn each_direction_fails_alone_and_a_tier_that_is_not_running_opens_both() {
    let rig = Rig::new(2, 4);
    let tier = rig.breakers.attach();
    let both = [&rig.breakers.reading, &rig.breakers.writing];
    let states = || both.map(|breaker| breaker.status().state);
    let fail = |direction| {
        for _ in 0..2 {
            rig.breakers.of(direction).admit().unwrap().report(CallOutcome::Failed("on purpose".into()));
        }
    };
    fail(Direction::Writing);
    assert_eq!(states(), [BreakerState::Closed, BreakerState::Open]);
    assert!(rig.call(true) && rig.breakers.writing.admit().is_none());
    fail(Direction::Reading);
    assert_eq!(states(), [BreakerState::Open; 2]);
    // After both pauses, which differ.
    rig.clock.advance(PAUSE);
    rig.breakers.writing.admit().unwrap().report(CallOutcome::Worked);
    assert_eq!(states(), [BreakerState::HalfOpen, BreakerState::Closed], "one probe for each");
    assert!(rig.call(true));
    tier.down("stopped", PAUSE);
    for breaker in both {
        let found = breaker.status();
        assert_eq!((found.state, found.last_cause.as_deref()), (BreakerState::Open, Some("stopped")));
        assert!(breaker.admit().is_none());
    }
    assert_eq!(rig.breakers.down_cause().as_deref(), Some("stopped"));
    tier.up();
    assert_eq!((states(), rig.breakers.down_cause()), ([BreakerState::Closed; 2], None));
}
