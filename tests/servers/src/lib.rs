//! The real servers that the tests and benches run against.
