//! The same requests for every cache: what is drawn, how it is driven, how it is timed.
//!
//! A cache takes part by implementing [`Contender`]. [`Course`] drives it through four operations and times them;
//! [`serve`] lets another process ask for the samples, so that caches whose dependencies do not go together are
//! measured in turns all the same.

mod chats;
mod contender;
mod course;
mod serve;

pub use chats::{Block, Chats};
pub use contender::{Contender, UniformHasher};
pub use course::{CAPACITY_CHUNKS, CHUNK_BYTES, Course, Operation, REQUEST_CHUNKS, Run, Sample};
pub use serve::{Entry, READY, serve};
