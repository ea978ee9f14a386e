//! An S3 server: the program, and a handle on a process that runs it.
//!
//! It keeps objects as files, `ROOT/BUCKET/OBJECT`, and checks signatures.

mod process;
mod refusing;
mod serve;

pub use process::{ACCESS_KEY, S3Options, S3Server, SECRET_KEY};
pub use serve::serve_forever;
