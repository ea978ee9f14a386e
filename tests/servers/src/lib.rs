//! The real servers that the tests and benches run against.

pub mod s3;
pub mod tls;
