//! Backends that misbehave, one behaviour each, and one that does not. All are the same working store with one thing
//! spoilt; `config.in` names the method where that applies.

mod answers;
mod between;
mod calls;
mod class;
mod keep;
mod settings;
mod store;

use class::Class;

/// Traps in the method `in` (default `get`).
pub(crate) type TrapBackend = Class<calls::Trap>;
/// Panics in the method `in` (default `get`).
pub(crate) type PanicBackend = Class<calls::Panic>;
/// Exits in the method `in` (default `get`).
pub(crate) type ExitBackend = Class<calls::Exit>;
/// Writes to its standard error for ever in the method `in` (default `get`).
pub(crate) type StderrFloodBackend = Class<calls::StderrFlood>;
/// Answers the method `in` (default `contains`), and then computes for ever.
pub(crate) type HogBackend = Class<between::Hog>;
/// Answers the method `in` (default `put`), and then blocks for an hour.
pub(crate) type DozeBackend = Class<between::Doze>;
/// Answers the method `in` (default `contains`), and then computes for `ms` and awaits for a moment, for ever.
pub(crate) type DrudgeBackend = Class<between::Drudge>;
/// Answers the method `in` (default `contains`), and then computes for a moment and yields, for ever.
pub(crate) type FidgetBackend = Class<between::Fidget>;
/// Answers the method `in` (default `contains`), and then awaits for a moment and has the host work for `ms`, for ever.
pub(crate) type NagBackend = Class<between::Nag>;
/// Answers the method `in` (default `contains`), and then computes for `ms` and rests as long, `lines` times.
pub(crate) type ScanBackend = Class<between::Scan>;
/// Answers the method `in` (default `contains`), and then hands a file to standard output.
pub(crate) type PipeBackend = Class<between::Pipe>;
/// Computes for a moment and yields, for ever, in the method `in` (default `get`).
pub(crate) type StraggleBackend = Class<between::Straggle>;
/// Takes handles until there are no more in the method `in` (default `get`).
pub(crate) type LeakBackend = Class<calls::Leak>;
/// Calls itself without end in the method `in` (default `get`).
pub(crate) type OverflowBackend = Class<calls::Overflow>;
/// Asks for random bytes for ever in the method `in` (default `get`).
pub(crate) type RandomFloodBackend = Class<calls::RandomFlood>;
/// Computes for ever in the method `in` (default `get`).
pub(crate) type SpinBackend = Class<calls::Spin>;
/// Awaits for ever in the method `in` (default `get`).
pub(crate) type HangBackend = Class<calls::Hang>;
/// Blocks for an hour in the method `in` (default `get`).
pub(crate) type BlockBackend = Class<calls::Block>;
/// Answers `other("failed on purpose in …")` in the method `in` (default `get`).
pub(crate) type FailBackend = Class<calls::Fail>;
/// Returns one result too few, with `results: long` one too many, with `results: empty` none, or with `results: flood`
/// very many, from `put` and `get`.
pub(crate) type WrongCountBackend = Class<answers::WrongCount>;
/// Claims to contain `u32::MAX` keys and to have filled buffers that it has not touched.
pub(crate) type OverclaimBackend = Class<answers::Overclaim>;
/// Finds what was put, and delivers none of it.
pub(crate) type PhantomBackend = Class<answers::Phantom>;
/// Returns chunks with one bit flipped.
pub(crate) type WrongBytesBackend = Class<answers::WrongBytes>;
/// Returns bytes that it made up.
pub(crate) type GarbageBackend = Class<answers::Garbage>;
/// Returns chunks with one bit flipped and a checksum that fits.
pub(crate) type ForgeBackend = Class<answers::Forge>;
/// Returns half of each chunk and claims the whole.
pub(crate) type HalfBackend = Class<answers::Half>;
/// Writes past the end of each buffer.
pub(crate) type PastEndBackend = Class<answers::PastEnd>;
/// Returns another chunk than the one asked for.
pub(crate) type SwappedBackend = Class<answers::Swapped>;
/// Returns chunks without their last byte.
pub(crate) type ShortBackend = Class<answers::Short>;
/// Allocates all the memory it can get in the method `in` (default `put`).
pub(crate) type GreedyBackend = Class<calls::Greedy>;
/// Writes twice into one buffer at the same time.
pub(crate) type ReentrantWrites = Class<answers::Reentrant>;
/// Logs `lines` long lines in the method `in` (default `contains`).
pub(crate) type LogFloodBackend = Class<calls::LogFlood>;
/// Works, and reads `/data/note` a hundred times by `std::fs` in the method `in` (default `get`).
pub(crate) type StdFsBackend = Class<calls::StdFs>;
/// Answers after `ms`, in the method `in` or in all.
pub(crate) type LateBackend = Class<calls::Late>;
/// Works, after waiting `ms` in `put`, `get` and `contains`.
pub(crate) type SlowMemory = Class<calls::Slow>;
/// Works, and moves all bytes by stream.
pub(crate) type StreamBackend = Class<answers::Streams>;
/// Works, and logs every call at debug: `put <key> <key>`.
pub(crate) type GoodBackend = Class<calls::Good>;

kvtier_guest::export!(
    TrapBackend,
    PanicBackend,
    ExitBackend,
    StderrFloodBackend,
    HogBackend,
    DozeBackend,
    DrudgeBackend,
    FidgetBackend,
    NagBackend,
    ScanBackend,
    PipeBackend,
    StraggleBackend,
    LeakBackend,
    OverflowBackend,
    RandomFloodBackend,
    SpinBackend,
    HangBackend,
    BlockBackend,
    FailBackend,
    WrongCountBackend,
    OverclaimBackend,
    PhantomBackend,
    WrongBytesBackend,
    GarbageBackend,
    ForgeBackend,
    HalfBackend,
    PastEndBackend,
    SwappedBackend,
    ShortBackend,
    GreedyBackend,
    ReentrantWrites,
    LogFloodBackend,
    StdFsBackend,
    LateBackend,
    SlowMemory,
    StreamBackend,
    GoodBackend,
);
