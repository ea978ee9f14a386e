//! The fault table: what a backend can do wrong, and what that costs.
//!
//! Each [`Fault`] is one behaviour of a real component in one method. [`run`] provokes it in an engine that has a
//! second backend of the same component behind the faulty one, and checks what every fault has in common: the caller is
//! answered, nothing wrong is exposed or promoted, the neighbour serves, and nothing leaks. The suite runs every row
//! once; `cargo xtask bench faults` runs each many times and prints the times.
//!
//! Faults with special needs are elsewhere in the suite: a directory or a server that is denied (`grants`) or
//! interrupted (`transfers`), a limit (`limits`, `open_files`), a history (`breaker`), a file that is not a component
//! (`load_errors`), a compiler (`compile`).

mod run;
mod table;

use std::time::Duration;

pub use run::{Observed, run};
pub use table::table;

use kvtier::BackendConfig;

/// A row of the table.
pub struct Fault {
    /// The fault.
    pub what: &'static str,
    /// The method that it occurs in.
    pub method: Method,
    /// The caller's result, and when it comes.
    pub caller: Caller,
    /// The state of the backend afterwards.
    pub after: After,
    /// Whether chunks are sealed with a key.
    pub keyed: bool,
    /// Makes the backend, without its time limits.
    pub backend: Box<dyn Fn(&Times) -> BackendConfig + Send + Sync>,
}

/// The time limits of a run.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The limit of a call that is not expected to be answered.
    pub deadline: Duration,
    /// The time after which a lane counts as stuck.
    pub stall: Duration,
}

/// The methods of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the contract's names")]
pub enum Method {
    Constructor,
    Open,
    Contains,
    Put,
    Get,
    Pin,
    Unpin,
    Remove,
    Close,
}

impl Method {
    /// The methods that the chain calls while a backend is open.
    pub const SERVING: [Self; 6] =
        [Self::Contains, Self::Put, Self::Get, Self::Pin, Self::Unpin, Self::Remove];

    /// Its name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constructor => "constructor",
            Self::Open => "open",
            Self::Contains => "contains",
            Self::Put => "put",
            Self::Get => "get",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Remove => "remove",
            Self::Close => "close",
        }
    }
}

/// The caller's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// An error or miss of this kind, long before any deadline.
    Told(&'static str),
    /// An error of kind `timeout`, at the deadline, while the guest is still inside.
    Expires,
    /// The requested result.
    Served,
}

/// The state of the backend after the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The same instance serves.
    Serves,
    /// A new instance serves, and the status has a reason that contains this.
    Replaced(&'static str),
    /// It is not running, and the status has a cause that contains this.
    Down(&'static str),
    /// The engine is closed.
    Closed,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.what, self.method.name())
    }
}
