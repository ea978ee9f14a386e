//! In the place of `host/src/chunk/sync.rs`.

pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
