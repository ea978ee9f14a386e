//! Every bound of a check.

use std::time::Duration;

/// Bytes of the pool that chunks and buffers are taken from. Reserved, and committed as far as it is used.
pub(crate) const POOL_BYTES: usize = 512 << 20;

/// How many tests may end because an answer, or a start, did not come. Then the backend is taken for dead, and the rest
/// is not tried.
pub(crate) const SILENT_TESTS_MAX: usize = 3;

/// The size of a chunk where the size does not matter.
pub(crate) const CHUNK_BYTES: usize = 4096;

/// Chunks of one call while a store is filled.
pub(crate) const FILL_CHUNKS: usize = 16;

/// The size of the chunks that fill a store, and of those after [`FILL_SMALL_BYTES`].
pub(crate) const FILL_CHUNK_BYTES: [usize; 2] = [32 << 10, 256 << 10];

/// How many bytes are filled with the smaller chunks.
pub(crate) const FILL_SMALL_BYTES: usize = 4 << 20;

/// How many bytes a store gets until it is taken for one that is never full: this many times its `limits.memory`, and
/// not more than the second number.
pub(crate) const FILL_MEMORIES_MAX: u64 = 2;
pub(crate) const FILL_BYTES_MAX: usize = 160 << 20;

/// How many chunks a store must have room for, to be judged when it is full.
pub(crate) const CHUNKS_MIN: usize = 8;

/// The largest capacity for which a put of twice the capacity is made.
pub(crate) const TWICE_CAPACITY_BYTES_MAX: usize = 96 << 20;

/// The size of the chunk that is larger than one transfer, in the second filling.
pub(crate) const LARGE_FILL_CHUNK_BYTES: usize = (1 << 20) + 1;

/// Keys of the longest list that does not move chunks.
pub(crate) const LONG_LIST_KEYS: usize = 4096;

/// Calls of each method in the search for leaks, and how many of them lie between two looks at the memory.
pub(crate) const LEAK_CALLS: usize = 20_000;
pub(crate) const LEAK_LOOK_CALLS: usize = 5_000;

/// How long the calls of one method, and the puts of the search for growth, may take. Then what was seen so far counts.
pub(crate) const LEAK_TIME_MAX: Duration = Duration::from_mins(1);

/// Keys of each of these calls, and the payload of their chunks.
pub(crate) const LEAK_KEYS: usize = 32;
pub(crate) const LEAK_CHUNK_BYTES: usize = 224;

/// Chunks that are put, fetched and removed in the search for growth.
pub(crate) const GROWTH_CHUNKS: usize = 100_000;

/// Growth of memory that is not called a leak.
pub(crate) const GROWTH_BYTES_MAX: u64 = 256 << 10;

/// Calls that are in flight at a time.
pub(crate) const OVERLAPPING_CALLS: usize = 256;

/// How often a put is abandoned, and how often an instance is ended within one.
pub(crate) const ABANDONED_CALLS: u32 = 32;
pub(crate) const DEATHS: u32 = 16;

/// Longest text of a backend in a report, in characters.
pub(crate) const FOUND_CHARS_MAX: usize = 600;
