//! The same requests for every cache: how they are drawn, driven and timed.
//!
//! A cache takes part by implementing [`Contender`]. [`Course`] drives it through four operations and times them;
//! [`serve`] lets another process request the samples, so that caches with incompatible dependencies can still be
//! measured in turns.

mod chats;
mod contender;
mod course;
mod serve;

pub use chats::{Block, Chats};
pub use contender::{Contender, UniformHasher};
pub use course::{CAPACITY_CHUNKS, CHUNK_BYTES, Course, Operation, REQUEST_CHUNKS, Run, Sample};
pub use serve::{Entry, READY, serve};
