//! The position of an entry in its order, and a check of the lists.

use crate::chunk::{Slot, record};

/// The position of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Position {
    Absent,
    /// In a list.
    Linked,
    /// Set aside while it is held.
    Parked,
    /// No longer held, and back in an order by rank.
    Returned,
}

pub(super) fn position(slot: Slot) -> Position {
    match record(slot).residency.position() {
        1 => Position::Linked,
        2 => Position::Parked,
        3 => Position::Returned,
        _ => Position::Absent,
    }
}

pub(super) fn set_position(slot: Slot, position: Position) {
    record(slot).residency.set_position(position as u32);
}

/// Fails with `what` unless `holds`.
pub(super) fn unless(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}
