//! The compiler: a separate process, started for one component.

pub(super) mod child;
mod command;
mod compilation;
pub(super) mod protocol;

pub use command::{compile_one, limit_process};
pub use compilation::{CodeOrigin, Compilation};
pub use protocol::COMPILER_COMMAND;
