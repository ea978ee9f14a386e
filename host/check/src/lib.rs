//! Checks whether a storage backend keeps the contract `kvtier:storage`: one test for each sentence, against the real
//! sandbox and the real lanes of the host.
//!
//! [`check`] runs the tests and returns a [`Report`]; [`sentences`] lists what is tested. A [`Sentence`] has its text
//! in the contract, the usual cause if it is broken, and the way to keep it. What the contract allows and an author may
//! want to know is a [`Note`], not a breach.
//!
//! The tests know a backend only through the public API of the `kvtier` library. Every call has a deadline. A backend
//! that traps or hangs breaks the sentence that is tested, and the next test gets a new instance.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod bench;
mod calls;
mod content;
mod full;
mod judgement;
mod kit;
mod limits;
mod promises;
mod report;
mod run;
mod sentence;

pub use bench::{CallFigures, Figures};
pub use judgement::Breach;
pub use kit::Subject;
pub use report::{Note, Outcome, Report, Verdict};
pub use run::{CheckError, Depth, Options, Step, check};
pub use sentence::{Part, Sentence, sentence, sentences};
