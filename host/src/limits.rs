//! Every fixed limit of kvtier, by name and with its unit. The limits that an operator can set are in the tables of
//! [`config`](crate::config), with default and range. `docs/configuration.md` describes what happens at a limit.

use std::time::Duration;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const DAY_MS: u64 = DAY_SECS * 1_000;
pub(crate) const DAY_SECS: u64 = 86_400;

// Fixed: the configuration itself.

/// Largest configuration file or `LMCACHE_EXTRA_CONFIG` text, in bytes.
pub const CONFIG_BYTES_MAX: u64 = MIB;
/// Largest configuration after YAML aliases are expanded, in bytes of text plus [`NODE_COST_BYTES`] for each value. An
/// alias may repeat an anchor of any size, so the size of the file is not a bound.
pub const EXPANDED_BYTES_MAX: u64 = 8 * MIB;
/// Cost of one value towards [`EXPANDED_BYTES_MAX`] in addition to its text, in bytes.
pub const NODE_COST_BYTES: u64 = 16;
/// Longest key of a configuration text, in bytes, including the keys that it is nested in. Many keys with a long prefix
/// would take unbounded memory.
pub const KEY_BYTES_MAX: usize = 512;
/// Messages of one kind about a configuration; the rest is counted.
pub const MESSAGES_OF_A_KIND_MAX: usize = 16;
/// Longest replacement of `{model}` or `{namespace}`, in bytes.
pub const PATH_COMPONENT_BYTES_MAX: usize = 128;
/// Largest file of certificates in `tls.ca_file`, in bytes. All authorities that browsers trust take some 250 KB.
pub const CA_FILE_BYTES_MAX: u64 = 4 * MIB;
/// Pause between two log messages of a kind that each chunk or key can cause. The second one contains the number of
/// omitted ones.
pub const REPEATED_LOG_PAUSE: Duration = Duration::from_mins(1);
/// Deepest nesting of lists and mappings in a configuration text.
pub const NESTING_DEPTH_MAX: usize = 64;
/// Most opening brackets times bytes of a YAML text, which bounds its scanning to about one second. A text
/// of 16 KiB can never reach it, one of 1 MiB may have 256 brackets.
pub const SCAN_COST_MAX: u64 = 1 << 28;
/// Most lines of a YAML text that begin with `%`, as directives do. Reading them takes time in proportion to the square
/// of their number.
pub const DIRECTIVES_MAX: usize = 16;
/// Longest backend name, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Longest class name, in characters.
pub const CLASS_NAME_CHARS_MAX: usize = 256;
/// Most backends in one chain.
pub const BACKENDS_MAX: usize = 64;
/// Largest secret, in bytes.
pub const SECRET_BYTES_MAX: u64 = 64 * KIB;
/// Shortest `kvtier.integrity_key`, in bytes. A shorter key could be guessed by trying.
pub const INTEGRITY_KEY_BYTES_MIN: usize = 16;
/// Largest size that any setting accepts, in bytes (64 TiB).
pub const SIZE_BYTES_MAX: u64 = 1 << 46;
/// Largest component file that `limits.component_bytes` can allow, in bytes.
pub const COMPONENT_BYTES_MAX: u64 = 4 * GIB;

// Fixed: the chain.

/// Largest chunk that a layout can describe, in bytes (1 TiB).
pub const CHUNK_BYTES_MAX: u64 = 1 << 40;
/// Longest tag of an opaque layout, in bytes.
pub const LAYOUT_BYTES_MAX: usize = 256;
/// Bytes of all put queues together in an engine without a CPU tier, unless `kvtier.put_queue_bytes` is set.
pub const PUT_QUEUE_BYTES_WITHOUT_POOL: u64 = GIB;
/// Most receipts that wait for the outcome of one queued chunk. A further put of the chunk with a receipt is dropped as
/// if the queue were full.
pub const RECEIPTS_OF_A_CHUNK_MAX: usize = 64;
/// Most lookups with which the chain asks a backend for the presence of single keys, if the backend does not have the
/// method `present`. Each lookup ends at a gap, so keys behind as many gaps count as absent.
pub const PRESENCE_CALLS_MAX: usize = 64;
/// The share of the pool that puts in flight may hold, as its divisor: a quarter. One chunk is always allowed.
pub const PUT_POOL_DIVISOR: u64 = 4;
/// Batches of puts in flight per backend.
pub const PUT_BATCHES_IN_FLIGHT: usize = 4;
/// Batches of one retrieval in flight in one backend.
pub const GET_BATCHES_IN_FLIGHT: usize = 4;
/// Bytes of one retrieval in flight in one backend, beyond the first batch.
pub const GET_BYTES_IN_FLIGHT_MAX: usize = 128 << 20;
/// Bytes per batch of puts or gets, beyond the first chunk. A part of the bytes in flight, so that batches overlap.
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// Above this many bytes that were not hashed on arrival, verifying leaves the calling thread.
pub const INLINE_CHECK_BYTES_MAX: usize = 256 << 10;
/// Lookup ids whose pins are held at a time; the oldest is dropped first.
pub const LOOKUP_IDS_MAX: usize = 1 << 16;
/// Most keys of chunks that a backend still has to remove, because it could not be called.
pub const REMOVALS_OWED_MAX: usize = 1 << 14;
/// How often a backend that can be called again is asked to remove them before they are given up.
pub const REMOVAL_TRIES_MAX: u32 = 8;
/// How long a backend is expected to deliver chunks that its own lookup counted. Afterwards only pinned chunks are
/// expected, since stores evict.
pub const PROMISE_AGE_MAX: Duration = Duration::from_secs(1);
/// How long a backend that has stored a chunk is assumed to have it. Then the chunk is offered again: it is stored
/// again if it was evicted, and otherwise counts as a use.
pub const PRESENCE_AGE_MAX: Duration = Duration::from_secs(30);

// Fixed: what one instance may have.

/// Uses of chunks that the CPU tier collects before the next use makes it count them.
pub const TOUCHES_MAX: usize = 256;

/// Core instances that a component may consist of.
pub const CORE_INSTANCES_MAX: usize = 128;
/// Component instances that a component may consist of, including itself, counted after multiplication. One in Rust has
/// one more than it exports classes, at most 32 among ours. One in Python has 3, in JavaScript 5, in C 2.
pub const COMPONENT_INSTANCES_MAX: u64 = 128;
/// Exports of a component, including those of exported instances. Each takes some 1.7 KB of the host's memory, once for
/// each backend. One in Rust with 31 classes has 500.
pub const EXPORTS_MAX: u64 = 32 << 10;
/// Functions, globals and other items that all instances of a component may have together, including imported ones.
/// `wasm/component/weight.rs` lists the weights. Components in Python and JavaScript have some 32,000.
pub const INSTANCE_ITEMS_MAX: u64 = 512 << 10;
/// The most memory of the host that one item takes, in bytes, so that all items take 16 MiB for each lane.
pub const INSTANCE_ITEM_BYTES: u64 = 32;
/// Linear memories that a component may have. Each reserves address space of the host.
pub const MEMORIES_MAX: usize = 16;
/// Tables that a component may have.
pub const TABLES_MAX: usize = 64;
/// Handles of each kind that a call in flight may take in addition to `limits.handles_max`, such as its task.
pub const HANDLES_PER_CALL: usize = 8;
/// Bytes of one `sources.read`, if `limits.hostcall_bytes` allows them.
pub const READ_BYTES_MAX: u64 = 16 << 20;
/// Bytes of one log line; longer ones are cut.
pub const LOG_BYTES_MAX: usize = 8 << 10;
/// Longest host name that a backend may ask for, in bytes; DNS has no longer names.
pub const HOST_NAME_BYTES_MAX: usize = 255;
/// Bytes of the text of a guest's error; longer texts are cut.
pub const ERROR_BYTES_MAX: usize = 2 << 10;
/// Last bytes of a guest's standard error that are kept for the cause of a trap.
pub const STDERR_BYTES_MAX: usize = 16 << 10;
/// Bytes that a guest may write to a standard stream at a time.
pub const STDIO_WRITE_BYTES_MAX: usize = 64 << 10;
/// Bytes per second that the host moves from its own streams, such as a file's, to the standard output and error of one
/// instance together. No guest needs this, and no program reads the output.
pub const STDIO_PIPED_BYTES_PER_S: u64 = MIB;
/// Bytes of a chunk that are moved at a time, so that they are still in the processor's cache when they are hashed.
pub const PIECE_BYTES: usize = 256 << 10;
/// Bytes that direct I/O moves at a time: many blocks, so that the disk is kept busy.
pub const DIRECT_PIECE_BYTES: usize = 4 << 20;
/// Positions of chunks that the selections of one instance may hold together, each 4 bytes of the host's memory: 16
/// selections of all 64 chunks for each of 256 calls.
pub const SELECTED_CHUNKS_MAX: usize = 1 << 18;
/// Separate pieces in which one buffer may be filled by one call.
pub const SINK_RANGES_MAX: usize = 64;
/// Bytes that a host function copies or hashes without a pause on a thread that runs guests. Larger work goes to
/// another thread, and a stream yields after this many bytes. The SDK copies chunks in pieces of this size.
pub const LANE_BYTES_MAX: usize = 1 << 20;
/// Bytes that a stream moves at a time: out of a chunk if the receiver names no amount, and into a buffer at most.
pub const STREAM_STEP_BYTES: usize = 256 << 10;
/// Splices of one backend that run at a time; fewer than its threads, so that its other file work continues.
pub const SPLICES_MAX: usize = 16;
/// Estimated host memory of a pending operation on files without the names, in bytes.
pub const FILE_OPERATION_BYTES: u64 = 512;
/// Bytes that one step of a stream from or to a file of WASI 0.3 moves at most.
pub const FILE_PIECE_BYTES: usize = 64 << 10;
/// Bytes that one `write` to a file of WASI 0.2 moves at most; the rest is left to the next call.
pub const FILE_WRITE_BYTES_MAX: usize = 1 << 20;
/// Longest path that a guest may name, in bytes, as in the operating system.
pub const PATH_BYTES_MAX: usize = 4096;
/// Entries of a directory that are read at a time, for a stream of them.
pub const LISTED_AT_ONCE: usize = 256;
/// Bytes of a small file that `directory.read` returns, or `directory.write` writes.
pub const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;
/// Entries that one `directory.list` returns.
pub const LISTED_ENTRIES_MAX: usize = 4096;
/// Temporary names that are tried for one small file. They are random, so two are hardly ever the same.
pub const TEMPORARY_NAMES_MAX: usize = 8;
/// Granted directories that an error about a path lists; the rest is counted.
pub const GRANTS_NAMED_MAX: usize = 8;
/// Directories that one instance may keep to a capacity, each an open descriptor.
pub const OWNED_DIRECTORIES_MAX: usize = 16;
/// Bytes that are read of the system's table of locks, to name the process that holds one.
pub const LOCK_TABLE_BYTES_MAX: u64 = 1 << 20;

// Fixed: compiling.

/// Bytes of one component's compiled code.
pub const CODE_BYTES_MAX: usize = 1 << 30;
/// Components that are compiled at a time. Each may take `kvtier.compile_memory`.
pub const COMPILERS_MAX: usize = 4;
/// Threads of one compiler.
pub const COMPILER_THREADS_MAX: u32 = 4;
/// Last bytes that are kept of a compiler's standard error.
pub const COMPILER_STDERR_BYTES_MAX: usize = 4 << 10;
/// Characters of one message about a component that quotes foreign text.
pub const FOREIGN_TEXT_CHARS_MAX: usize = 1_000;
/// Age from which on a temporary file in the compile cache is considered abandoned by its writer.
pub const CACHE_TEMPORARY_AGE_MAX: Duration = Duration::from_hours(1);

// Fixed: HTTP.

/// HTTP objects (fields, requests, responses, bodies, options) that an instance may hold without a grant for HTTP:
/// libraries make some before they find out that they may not send them.
pub const HTTP_OBJECTS_UNGRANTED_MAX: usize = 16;
/// HTTP objects that an instance may hold for each of `limits.http_requests_max`, including sent requests.
pub const HTTP_OBJECTS_PER_REQUEST: usize = 16;
/// Bytes of the fields (headers or trailers) of one object that a guest makes, in the host's memory.
pub const HTTP_FIELDS_BYTES_MAX: usize = 16 << 10;
/// The same without a grant for HTTP: for all objects together.
pub const HTTP_FIELDS_UNGRANTED_BYTES_MAX: usize = HTTP_FIELDS_BYTES_MAX / HTTP_OBJECTS_UNGRANTED_MAX;
/// Bytes of a request's method or scheme that is not a well-known one.
pub const HTTP_WORD_BYTES_MAX: usize = 64;
/// Bytes of a request's authority, and of its path with the query. Signed URLs of object stores have some 2 KiB.
pub const HTTP_URL_PART_BYTES_MAX: usize = 8 << 10;
/// Bytes of a request's body that are taken out of a guest at a time. Two such pieces may wait to be sent.
pub const HTTP_BODY_PIECE_BYTES: usize = 64 << 10;
/// Bytes of the fields of one response, and of its trailers.
pub const HTTP_ANSWER_FIELDS_BYTES_MAX: usize = 32 << 10;
/// How long an idle HTTP connection is kept.
pub const HTTP_IDLE_MAX: Duration = Duration::from_mins(1);

// Fixed: threads and pauses.

/// Threads of one backend for blocking work: loading it, splices, other file work. One more handles its HTTP
/// connections, its sockets of WASI 0.2 and its timers.
pub const BLOCKING_THREADS_MAX: usize = 32;
/// How long after the end of a store the allocator returns free memory. Stores that end at about the same time share
/// one call.
pub const TRIM_PAUSE: Duration = Duration::from_secs(1);
/// How long closing a backend waits at least for its own threads to end. Idle ones end immediately.
pub const THREADS_END_MAX: Duration = Duration::from_secs(2);
/// The slice of time after which a computing guest lets others run.
pub const EPOCH_TICK: Duration = Duration::from_millis(1);
/// Consecutive ticks without a running guest after which the ticks stop; the next guest that runs starts them.
pub const EPOCH_IDLE_TICKS_MAX: u32 = 100;
/// First pause before a failed start of a backend is repeated. It doubles up to [`RESTART_PAUSE_MAX`]. Each pause is
/// drawn from the upper half of its range.
pub const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before a failed start of a backend is repeated.
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// The pause before the next start is at least this many times the processor time of the failed one.
pub const RESTART_CPU_TIME_FACTOR: u32 = 10;
/// Longest pause because of processor time.
pub const RESTART_CPU_TIME_PAUSE_MAX: Duration = Duration::from_mins(10);
/// Processor time of a start without such a pause when an instance that has served is replaced.
pub const RESTART_CPU_TIME_FREE: Duration = Duration::from_secs(1);
/// How long an instance must have served so that the pause after its successor fails to start is short again.
pub const RESTART_HEALTHY: Duration = Duration::from_secs(10);

// Fixed: what is shown of a backend.

/// Different denials of one kind that a backend logs. Of further ones, one is logged per [`REPEATED_LOG_PAUSE`], with
/// their number.
pub const DENIALS_LOGGED_MAX: usize = 8;
/// Denials that one error names: the latest different ones.
pub const DENIALS_PER_ERROR_MAX: usize = 4;
/// Characters of a denied path or name that are shown.
pub const DENIED_TEXT_CHARS_MAX: usize = 200;
/// Bytes of one message about a configuration, which quotes its keys and values; a longer one loses its middle.
pub const CONFIG_MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Bytes of the names of classes, or of the flaws of one, that an error lists; the rest is counted.
pub const CLASS_LIST_BYTES_MAX: usize = 2 << 10;
/// Bytes from which on a secret is replaced in its backend's output; shorter ones could be any word.
pub const SECRET_HIDDEN_BYTES_MIN: usize = 4;
/// Bytes of a method's signature that are printed; types may repeat each other without end.
pub const SIGNATURE_BYTES_MAX: usize = 8 << 10;
