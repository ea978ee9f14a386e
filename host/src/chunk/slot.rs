//! Numbers that name records and indexes.

/// Names a record, and the chunk that an index keeps in it.
pub(crate) type Slot = u32;
/// No slot.
pub(crate) const NO_SLOT: Slot = u32::MAX;

/// Names an index of this process. 0 names none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexId(pub(super) u32);
