//! Behaviours of calls: those that end badly, late or never.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

use kvtier_guest::bindings::wit_stream;
use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::wasip3::random::random;
use kvtier_guest::{ChunkKey, Error, debug, info};

use crate::class::Behaviour;
use crate::settings::{Op, Settings};

pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// Reports whether `op` is the one that misbehaves.
pub(crate) fn is_wrong(settings: &Settings, op: Op, by_default: Op) -> bool {
    settings.wrong_in.unwrap_or(by_default) == op
}

pub(crate) async fn wait(duration: Duration) {
    monotonic_clock::wait_for(duration.as_nanos() as u64).await;
}

/// A behaviour that happens at once, in any method, the constructor included.
macro_rules! at_once {
    ($(#[$doc:meta])* $name:ident, $op:ident => $what:expr) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(crate) struct $name;

        impl Behaviour for $name {
            fn in_constructor(&self, settings: &Settings) -> Result<(), Error> {
                let $op = Op::Constructor;
                if is_wrong(settings, $op, Op::Get) { $what } else { Ok(()) }
            }

            async fn first(
                &self,
                settings: &Settings,
                $op: Op,
                _keys: &[ChunkKey],
            ) -> Result<(), Error> {
                if is_wrong(settings, $op, Op::Get) { $what } else { Ok(()) }
            }
        }
    };
}

at_once! {
    /// Reads a file of the first directory a hundred times by Rust's standard library, which blocks the instance.
    StdFs, _op => {
        for _ in 0..100 {
            std::fs::read("/data/note").map_err(|error| Error::Other(error.to_string()))?;
        }
        Ok(())
    }
}

at_once! {
    /// Traps.
    Trap, _op => std::process::abort()
}

at_once! {
    /// Panics.
    Panic, op => panic!("panicked on purpose in {op}")
}

at_once! {
    /// Ends the process, as it thinks.
    Exit, _op => std::process::exit(0)
}

at_once! {
    /// Writes to its standard error for ever.
    StderrFlood, op => loop {
        eprintln!("a line of {op}, {}", "x".repeat(1000));
    }
}

at_once! {
    /// Takes handles and drops none.
    Leak, _op => loop {
        std::mem::forget(wit_stream::new::<u8>());
    }
}

at_once! {
    /// Calls itself until there is no stack.
    Overflow, _op => {
        fn dive(depth: u64) -> u64 {
            if depth == u64::MAX { 0 } else { black_box(dive(black_box(depth + 1))) + 1 }
        }
        Err(Error::other(dive(0).to_string()))
    }
}

at_once! {
    /// Asks the host for random bytes for ever, a page at a time.
    RandomFlood, _op => loop {
        black_box(random::get_random_bytes(4096));
    }
}

at_once! {
    /// Computes for ever.
    Spin, _op => {
        let mut n = 0_u64;
        loop {
            n = black_box(n.wrapping_add(1));
        }
    }
}

at_once! {
    /// Blocks the instance for an hour, as `std` does it.
    Block, _op => {
        std::thread::sleep(HOUR);
        Ok(())
    }
}

at_once! {
    /// Answers an error.
    Fail, op => Err(Error::other(format!("failed on purpose in {op}")))
}

/// Awaits what does not come.
#[derive(Default)]
pub(crate) struct Hang;

impl Behaviour for Hang {
    fn in_constructor(&self, settings: &Settings) -> Result<(), Error> {
        if is_wrong(settings, Op::Constructor, Op::Get) {
            return Err(Error::invalid_config("in", "a constructor cannot await"));
        }
        Ok(())
    }

    async fn first(&self, settings: &Settings, op: Op, _keys: &[ChunkKey]) -> Result<(), Error> {
        while is_wrong(settings, op, Op::Get) {
            wait(24 * HOUR).await;
        }
        Ok(())
    }
}

/// Answers every call after `ms`, or only those of the method `in`.
#[derive(Default)]
pub(crate) struct Late;

impl Behaviour for Late {
    async fn first(&self, settings: &Settings, op: Op, _keys: &[ChunkKey]) -> Result<(), Error> {
        if is_wrong(settings, op, op) {
            wait(Duration::from_millis(settings.wait_ms)).await;
        }
        Ok(())
    }
}

/// Waits `ms` before each put, get and contains, and otherwise works.
#[derive(Default)]
pub(crate) struct Slow;

impl Behaviour for Slow {
    async fn first(&self, settings: &Settings, op: Op, _keys: &[ChunkKey]) -> Result<(), Error> {
        if matches!(op, Op::Put | Op::Get | Op::Contains) {
            wait(Duration::from_millis(settings.wait_ms)).await;
        }
        Ok(())
    }
}

/// Allocates until there is no more memory, and keeps it.
#[derive(Default)]
pub(crate) struct Greedy {
    hoard: RefCell<Vec<Vec<u8>>>,
}

impl Behaviour for Greedy {
    async fn first(&self, settings: &Settings, op: Op, _keys: &[ChunkKey]) -> Result<(), Error> {
        const PIECE_BYTES: usize = 1 << 20;
        if !is_wrong(settings, op, Op::Put) {
            return Ok(());
        }
        loop {
            let mut piece = Vec::new();
            piece.try_reserve_exact(PIECE_BYTES).map_err(|_| Error::NoSpace)?;
            // Touched, so that it counts.
            piece.resize(PIECE_BYTES, 1);
            self.hoard.borrow_mut().push(black_box(piece));
        }
    }
}

/// Logs without end.
#[derive(Default)]
pub(crate) struct LogFlood;

impl Behaviour for LogFlood {
    async fn first(&self, settings: &Settings, op: Op, _keys: &[ChunkKey]) -> Result<(), Error> {
        if is_wrong(settings, op, Op::Contains) {
            let filling = "x".repeat(10_000);
            for n in 0..settings.n_lines {
                info!("line {n} of the flood\u{1b}[31m\n{filling}");
            }
        }
        Ok(())
    }
}

/// Behaves, and writes down every call: `put <key> <key>`.
#[derive(Default)]
pub(crate) struct Good;

impl Behaviour for Good {
    async fn first(&self, _settings: &Settings, op: Op, keys: &[ChunkKey]) -> Result<(), Error> {
        let words: Vec<String> =
            std::iter::once(op.to_string()).chain(keys.iter().map(ChunkKey::to_hex)).collect();
        debug!("{}", words.join(" "));
        Ok(())
    }
}
