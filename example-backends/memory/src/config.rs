//! What the operator can set.

use kvtier_guest::{Error, Init};

/// Enough to try it. In production the operator sets the capacity and grants as much guest memory.
const CAPACITY_BYTES_DEFAULT: u64 = 64 << 20;

/// The settings of both classes.
pub(crate) struct Config {
    /// `config.capacity`: bytes of chunks that are kept.
    pub(crate) capacity_bytes: u64,
}

impl Config {
    pub(crate) fn from_init(init: &Init) -> Result<Self, Error> {
        init.only(&["capacity"])?;
        let capacity_bytes = init.bytes_in("capacity", 1..)?.unwrap_or(CAPACITY_BYTES_DEFAULT);
        Ok(Self { capacity_bytes })
    }
}
