//! What calls and their chunks show about a tier.

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
        assert_eq!(CallOutcome::of_error(error), CallOutcome::Failed(error.to_string()));
    }
    for error in [TierError::NoSpace, TierError::InvalidArgument(text()), TierError::Unsupported] {
        assert_eq!(CallOutcome::of_error(&error), CallOutcome::Declined, "{error}");
    }
    for error in [TierError::Busy, TierError::BreakerOpen, TierError::Timeout(Duration::ZERO)] {
        assert_eq!(CallOutcome::of_error(&error), CallOutcome::Unknown, "{error}");
    }
    assert_eq!(CallOutcome::of(&Ok(())), CallOutcome::Worked);
}

#[test]
fn a_call_fails_if_it_moved_no_chunk_and_failed_at_one() {
    use CallOutcome::{Declined, Unknown, Worked};
    let fails = || CallOutcome::Failed("text".into());
    assert_eq!(CallOutcome::of_chunks([fails(), Worked, fails()]), Worked);
    assert_eq!(CallOutcome::of_chunks([Unknown, fails(), Unknown]), fails());
    for order in [[Declined, fails(), Unknown], [fails(), Unknown, Declined], [Unknown, Declined, fails()]] {
        assert_eq!(CallOutcome::of_chunks(order), fails(), "a miss among failures hides none");
    }
    assert_eq!(CallOutcome::of_chunks([Unknown, Declined]), Declined);
    assert_eq!(CallOutcome::of_chunks([]), Unknown);
}
