//! The real servers that the tests and benches run against, and a proxy to put in front of them.

pub mod proxy;
pub mod redis;
pub mod s3;
pub mod tls;
