//! What a chunk's life is made of: `tests/loom` puts a model checker's primitives here.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
