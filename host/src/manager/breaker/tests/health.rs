//! The health that calls and their chunks show.

use super::*;

#[test]
fn misses_and_refusals_work_failures_fail_and_what_did_not_arrive_is_silent() {
    let text = || "text".to_owned();
    let second = Duration::from_secs(1);
    let fails = [
        TierError::Timeout(second),
        TierError::Lost(text()),
        TierError::Trap(text()),
        TierError::Down(text()),
        TierError::BadAnswer(text()),
        TierError::Unavailable(text()),
        TierError::InvalidConfig(text()),
        TierError::Corrupt(text()),
        TierError::Other(text()),
    ];
    for error in &fails {
        assert_eq!(Health::of_error(error), Health::Fails(error.to_string()));
    }
    for error in [TierError::NoSpace, TierError::InvalidArgument(text()), TierError::Unsupported] {
        assert_eq!(Health::of_error(&error), Health::Declines, "{error}");
    }
    for error in [TierError::Busy, TierError::BreakerOpen, TierError::Timeout(Duration::ZERO)] {
        assert_eq!(Health::of_error(&error), Health::Unknown, "{error}");
    }
    assert_eq!(Health::of(&Ok(())), Health::Works);
}

#[test]
fn a_call_fails_if_it_moved_no_chunk_and_failed_at_one() {
    use Health::{Declines, Unknown, Works};
    let fails = || Health::Fails("text".into());
    assert_eq!(Health::of_chunks([fails(), Works, fails()]), Works);
    assert_eq!(Health::of_chunks([Unknown, fails(), Unknown]), fails());
    for order in [[Declines, fails(), Unknown], [fails(), Unknown, Declines], [Unknown, Declines, fails()]] {
        assert_eq!(Health::of_chunks(order), fails(), "a miss among failures hides none");
    }
    assert_eq!(Health::of_chunks([Unknown, Declines]), Declines);
    assert_eq!(Health::of_chunks([]), Unknown);
}
