//! The real servers that the tests and benches run against, and what stands between them and a client.

pub mod proxy;
pub mod redis;
pub mod s3;
pub mod tls;
