//! Which sentence is broken.

use kvtier_guest::{Error, Init};

/// All faults, by the names of the sentences that they break.
const FAULTS: &[&str] = &[
    "starts",
    "unknown-setting",
    "missing-grant",
    "put-then-get",
    "one-result-per-key",
    "get-length",
    "get-absent",
    "get-order",
    "contains-run",
    "present-each",
    "keeps-bytes",
    "empty-lists",
    "repeated-contains",
    "repeated-put",
    "repeated-get",
    "long-lists",
    "sizes",
    "size-64-mib",
    "shorter-than-buffer",
    "larger-than-buffer",
    "others-not-affected",
    "remove-gone",
    "remove-counts",
    "repeated-remove",
    "put-after-remove",
    "remove-pinned",
    "pins-alike",
    "pin-run",
    "unpin-counts",
    "pin-twice",
    "repeated-pin",
    "contains-pins",
    "near-memory-limit",
    "refused-is-absent",
    "ok-when-full",
    "pins-protect",
    "contains-protects",
    "unpin-frees",
    "close",
    "restart",
    "removed-stays-removed",
    "dropped",
    "dies-within-put",
    "overlapping-calls",
    "many-calls",
    "abandoned-calls",
    "whole-or-nothing",
    "no-leaks",
    "steady-memory",
];

/// The sentence that an instance breaks; none if it is empty.
#[derive(Clone, Copy)]
pub(crate) struct Fault(&'static str);

impl Fault {
    pub(crate) fn from_init(init: &Init) -> Result<Self, Error> {
        let Some(name) = init.get("fault") else { return Ok(Self("")) };
        let known = FAULTS.iter().find(|fault| **fault == name);
        let unknown = || Error::invalid_config("fault", "must name a sentence that this class can break");
        known.map(|name| Self(name)).ok_or_else(unknown)
    }

    pub(crate) fn is(self, name: &str) -> bool {
        debug_assert!(FAULTS.contains(&name), "{name} is not a fault");
        self.0 == name
    }

    /// Reports whether the fault needs chunks that outlive the instance.
    pub(crate) fn shows_after_restart(self) -> bool {
        ["restart", "removed-stays-removed", "dropped", "dies-within-put"].contains(&self.0)
    }
}
