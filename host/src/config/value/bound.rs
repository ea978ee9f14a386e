//! The bound of a whole-number setting.

use std::ops::RangeInclusive;

/// States the default and the range of a whole-number setting. Both ends of the range are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Bound {
    pub(in crate::config) default: u64,
    pub(in crate::config) min: u64,
    pub(in crate::config) max: u64,
    /// Whether 0 is accepted beside the range.
    pub(in crate::config) or_zero: bool,
}

impl Bound {
    pub(in crate::config) const fn new(default: u64, range: &RangeInclusive<u64>) -> Self {
        let (min, max) = (*range.start(), *range.end());
        assert!(min <= default && default <= max);
        Self { default, min, max, or_zero: false }
    }

    /// Reports whether `value` is accepted.
    pub(in crate::config) const fn accepts(&self, value: u64) -> bool {
        (self.min <= value && value <= self.max) || (self.or_zero && value == 0)
    }
}
