//! Every bound of the native side that is not configured, by name and with its unit. Configurable
//! bounds and their defaults stand in [`crate::config::limits`].

use std::time::Duration;

/// Separate pieces in which one buffer may be filled by one call.
pub const SINK_RANGES_MAX: usize = 64;
/// The share of the pool that puts in flight may hold, as its divisor: a quarter. One chunk is always
/// allowed.
pub const PUT_POOL_DIVISOR: u64 = 4;
/// Batches of puts in flight per backend.
pub const PUT_BATCHES_IN_FLIGHT: usize = 4;
/// Bytes per batch of puts or gets, beyond the first chunk.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Above this many bytes, sealing and verifying leave the calling thread.
pub const INLINE_CHECK_BYTES_MAX: usize = 256 << 10;
/// Lookup ids whose pins are held at a time; the oldest goes first.
pub const LOOKUP_IDS_MAX: usize = 1 << 16;
/// First pause before a backend that could not be started is tried again; it doubles up to
/// [`RESTART_PAUSE_MAX`].
pub const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before a backend that could not be started is tried again.
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// The slice of time after which a computing guest lets others run.
pub const EPOCH_TICK: Duration = Duration::from_millis(1);
/// Bytes of one `sources.read`.
pub const READ_BYTES_MAX: u64 = 16 << 20;
/// Bytes of one log message; longer ones are cut.
pub const LOG_BYTES_MAX: usize = 8 << 10;
/// Bytes that one call may hand to one host function.
pub const HOSTCALL_BYTES_MAX: usize = 128 << 20;
/// Handles that one instance may hold at a time, of each kind.
pub const HANDLES_MAX: usize = 4096;
/// Random bytes that one call may ask for.
pub const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a component file.
pub const COMPONENT_BYTES_MAX: u64 = 256 << 20;
/// Bytes of standard error that are kept of a guest, for the cause of a trap.
pub const STDERR_BYTES_MAX: usize = 16 << 10;
/// Elements of one table of a guest.
pub const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Bytes that a stream out of a chunk moves at a time when the receiver names no amount.
pub const STREAM_STEP_BYTES: usize = 256 << 10;
/// Threads for splices and other blocking work of guests.
pub const SPLICE_THREADS_MAX: usize = 32;
/// How often pins are looked over for expiry.
pub const PIN_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How long a backend that has stored a chunk is believed to have it still. Then the chunk is offered again,
/// which stores it anew if it was evicted, and counts as a use if not.
pub const HOLDER_TRUST_MAX: Duration = Duration::from_secs(30);
/// Splices of one lane that run at a time, so that one slow disk does not take all threads.
pub const SPLICES_PER_LANE_MAX: usize = 16;
