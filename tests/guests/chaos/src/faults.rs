//! What goes wrong, and when.

use std::cell::Cell;

/// A way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Fails,
    FailsForOne,
    OneTooMany,
    OneTooFew,
    SaysAll,
    SaysNone,
    /// Says that bytes were moved which were not.
    ClaimsOnly,
    CutsShort,
    FlipsBit,
    /// Moves the bytes of another key, whole and sound.
    SwapsKeys,
    WritesBeyond,
    /// Keeps a stream out of a chunk after the call.
    KeepsStream,
    Late,
    Hangs,
    Spins,
    Traps,
}

use Fault::{
    ClaimsOnly, CutsShort, Fails, FailsForOne, FlipsBit, Hangs, KeepsStream, Late, OneTooFew, OneTooMany,
    SaysAll, SaysNone, Spins, SwapsKeys, Traps, WritesBeyond,
};

/// What goes wrong in calls that answer a count. What takes time is rare everywhere.
pub(crate) const IN_COUNTS: [Fault; 6] = [Fails, OneTooMany, SaysAll, SaysAll, SaysNone, Late];

/// What goes wrong in puts.
pub(crate) const IN_PUTS: [Fault; 22] = [
    Fails,
    FailsForOne,
    FailsForOne,
    OneTooMany,
    OneTooFew,
    ClaimsOnly,
    ClaimsOnly,
    ClaimsOnly,
    CutsShort,
    CutsShort,
    FlipsBit,
    FlipsBit,
    FlipsBit,
    SwapsKeys,
    SwapsKeys,
    SwapsKeys,
    KeepsStream,
    KeepsStream,
    Late,
    Hangs,
    Spins,
    Traps,
];

/// What goes wrong in gets.
pub(crate) const IN_GETS: [Fault; 22] = [
    Fails,
    FailsForOne,
    FailsForOne,
    OneTooMany,
    OneTooFew,
    SaysNone,
    SaysNone,
    ClaimsOnly,
    ClaimsOnly,
    CutsShort,
    CutsShort,
    FlipsBit,
    FlipsBit,
    SwapsKeys,
    SwapsKeys,
    SwapsKeys,
    WritesBeyond,
    WritesBeyond,
    Late,
    Hangs,
    Spins,
    Traps,
];

/// Says what goes wrong, by a seed.
pub(crate) struct Dice {
    state: Cell<u64>,
    rate_percent: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64, rate_percent: u64) -> Self {
        Self { state: Cell::new(seed), rate_percent }
    }

    /// Decides whether something goes wrong, and what; the number is for the details.
    pub(crate) fn roll<F: Copy>(&self, faults: &[F]) -> (Option<F>, u64) {
        // SplitMix64.
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let x = x ^ (x >> 31);
        let fault = (x % 100 < self.rate_percent).then(|| faults[(x >> 8) as usize % faults.len()]);
        (fault, x >> 32)
    }
}
