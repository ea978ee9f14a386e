//! What goes wrong, and when.

use std::cell::RefCell;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

/// A way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Fails,
    FailsForOne,
    OneTooMany,
    OneTooFew,
    SaysAll,
    SaysNone,
    /// Counts bytes that were not moved.
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

/// Chooses the fault, by a seed.
pub(crate) struct Dice {
    random: RefCell<SplitMix64>,
    rate_percent: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64, rate_percent: u64) -> Self {
        Self { random: RefCell::new(SplitMix64::seed_from_u64(seed)), rate_percent }
    }

    /// Decides whether something goes wrong, and what; the number is for the details.
    pub(crate) fn roll<F: Copy>(&self, faults: &[F]) -> (Option<F>, u64) {
        let x = self.random.borrow_mut().next_u64();
        let fault = (x % 100 < self.rate_percent).then(|| faults[(x >> 8) as usize % faults.len()]);
        (fault, x >> 32)
    }
}
