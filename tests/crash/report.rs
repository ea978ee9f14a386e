//! The report of a run.

use std::fmt;
use std::time::Duration;

/// Figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) kills: u32,
    pub(crate) kills_before_open: u32,
    pub(crate) kills_in_a_write: u32,
    pub(crate) restarts: u32,
    pub(crate) operations: usize,
    pub(crate) files_checked: usize,
    pub(crate) bytes_checked: u64,
    pub(crate) hits: usize,
    pub(crate) misses: usize,
    pub(crate) kept: usize,
    pub(crate) removed: usize,
    pub(crate) unfinished_found: u64,
    pub(crate) unfinished_bytes: u64,
    pub(crate) fills: u32,
    pub(crate) torn: usize,
    pub(crate) took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, kills_before_open, kills_in_a_write, restarts, operations, .. } = self;
        let mib = |bytes: u64| bytes >> 20;
        writeln!(f, "kills survived: {kills}")?;
        writeln!(f, "  before the backend was open: {kills_before_open}")?;
        writeln!(f, "  in the middle of a write: {kills_in_a_write}")?;
        writeln!(f, "operations before the kills: {operations}")?;
        writeln!(f, "restarts that read everything: {restarts}")?;
        writeln!(f, "files checked: {}, {} MiB", self.files_checked, mib(self.bytes_checked))?;
        writeln!(f, "reads after restarts: {} hits, all bytes right, and {} misses", self.hits, self.misses)?;
        writeln!(f, "stored chunks that had to be there and were: {}", self.kept)?;
        writeln!(f, "chunks that had to be absent and were: {}", self.removed)?;
        writeln!(
            f,
            "unfinished files found and cleaned: {}, {} MiB",
            self.unfinished_found,
            mib(self.unfinished_bytes)
        )?;
        writeln!(f, "directories filled to the capacity: {}", self.fills)?;
        writeln!(f, "torn files: {}", self.torn)?;
        write!(f, "time: {:.0} s", self.took.as_secs_f64())
    }
}
