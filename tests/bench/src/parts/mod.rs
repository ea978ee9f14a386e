//! The parts of the bench, one module each.

pub(crate) mod breaker;
pub(crate) mod bytes;
pub(crate) mod calls;
pub(crate) mod chain;
pub(crate) mod compare;
pub(crate) mod copies;
pub(crate) mod cpu;
pub(crate) mod growth;
pub(crate) mod integrity;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod pool;
pub(crate) mod replay;
pub(crate) mod sharing;
pub(crate) mod stores;
pub(crate) mod threads;
