//! kvtier for programs in C, and for bindings of other languages: the functions of `include/kvtier.h`.
//!
//! A thin layer over the crate `kvtier`. Nothing is decided here: a function checks what it was given, calls one
//! operation of the library, and turns its result into C. What each function does, owns and refuses is in the comments
//! that the header is made of.
//!
//! Invariants: no panic and no exception crosses the boundary; each argument is checked before anything is done; memory
//! that the caller lends is released once, by its own callback.

#![expect(clippy::doc_markdown, reason = "the comments become those of a header in C")]

mod arguments;
mod engine;
mod error;
mod find;
mod lent;
mod receipt;
mod store;

pub use arguments::{Key, Tiers};
pub use engine::*;
pub use error::*;
pub use find::*;
pub use lent::*;
pub use receipt::*;
pub use store::*;
