//! What the calls of an instance need to wait for each other. Use the feature `inter-task-wakeup` with it: without it a
//! call cannot wake another one.

mod key_locks;
mod semaphore;

pub use key_locks::{KeyGuard, KeyLocks};
pub use semaphore::{Acquire, Permit, Semaphore};
