//! A server that speaks S3: the program that is one, and a handle on a process of it.
//!
//! It keeps objects as files, `ROOT/BUCKET/OBJECT`, and checks signatures.

mod process;
mod refusing;
mod serve;

pub use process::{ACCESS_KEY, S3Options, S3Server, SECRET_KEY};
pub use serve::serve_forever;
