//! kvtier's integration tests: real components, built by `cargo xtask guests`, in a real engine.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod answers;
mod anywhere;
mod between_calls;
mod breaker;
mod chain;
mod cli;
mod compile;
mod compile_cache;
mod configuration;
mod contract;
mod copies;
mod crash;
mod directory;
mod disk;
mod embed;
mod faults;
mod first_chunk;
mod fork;
mod fuzz_inputs;
mod grants;
mod host_memory;
mod http;
mod http_objects;
mod in_flight;
mod lanes;
mod lifecycle;
mod limits;
mod load_errors;
mod load_memory;
mod model;
mod open_files;
mod phantom;
mod pins;
mod prefix;
mod put_queue;
mod redis;
mod s3;
mod sandbox;
mod scripted;
mod sharing;
mod single;
mod stores;
mod transfers;

use kvtier_tests::support;
