//! A class that takes exactly as much of one thing as a test asks for, to stand at a limit and to go one beyond.

use std::io::Write;
use std::mem;

use kvtier_guest::prelude::*;
use kvtier_guest::wasip2::clocks::monotonic_clock;
use kvtier_guest::wasip2::random::random as random_0_2;
use kvtier_guest::wasip3::random::random as random_0_3;
use kvtier_guest::{Level, info, log};

/// Takes `config.takes`, in `get` and for `read` in `put`; how much is the lower half of the key. What works is a
/// miss.
pub struct GreedyBackend {
    takes: String,
}

impl GreedyBackend {
    /// Takes `n` of it, and says whether it got them.
    fn take(&self, n: usize) -> Result<(), Error> {
        match self.takes.as_str() {
            // Pages of 64 KiB.
            "memory" if !grow_memory(n) => return Err(Error::NoSpace),
            "memory" => {}
            "pollables" => {
                (0..n).for_each(|_| mem::forget(monotonic_clock::subscribe_duration(u64::MAX)));
            }
            "streams" => {
                (0..n).for_each(|_| mem::forget(kvtier_guest::wasip3::wit_stream::new::<u8>()));
            }
            "random-0.2" => got(random_0_2::get_random_bytes(n as u64).len(), n)?,
            "random-0.3" => got(random_0_3::get_random_bytes(n as u64).len(), n)?,
            "lines" => (0..n).for_each(|number| info!("line {number}")),
            "line" => log(Level::Info, format_args!("{}", "x".repeat(n))),
            "lines-then-abort" => {
                (0..n).for_each(|number| info!("line {number}"));
                std::process::abort();
            }
            "stderr-then-abort" => {
                let mut stderr = std::io::stderr();
                for number in 0..n {
                    // Nothing, 1000 bytes, and a line to where nobody reads.
                    written(stderr.write_all(b""))?;
                    written(writeln!(stderr, "{number:>1000}"))?;
                    println!("swallowed");
                }
                std::process::abort();
            }
            "answer" => return Err(Error::other("x".repeat(n))),
            other => return Err(Error::invalid_config("takes", other)),
        }
        Ok(())
    }
}

#[cfg(target_arch = "wasm32")]
fn grow_memory(n_pages: usize) -> bool {
    std::arch::wasm32::memory_grow::<0>(n_pages) != usize::MAX
}

/// Guests run nowhere else, but are checked with the rest of the workspace.
#[cfg(not(target_arch = "wasm32"))]
fn grow_memory(_n_pages: usize) -> bool {
    false
}

fn got(found: usize, wanted: usize) -> Result<(), Error> {
    if found == wanted { Ok(()) } else { Err(Error::other(format!("{found} of {wanted} bytes"))) }
}

fn written(outcome: std::io::Result<()>) -> Result<(), Error> {
    outcome.map_err(|error| Error::other(error.to_string()))
}

impl StorageBackend for GreedyBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&["takes"])?;
        Ok(Self { takes: init.get("takes").unwrap_or_default().to_owned() })
    }

    async fn contains(&self, _keys: &[ChunkKey], _pin: bool) -> Result<u32, Error> {
        Ok(0)
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let read = |(key, index): (&ChunkKey, u32)| {
            if self.takes == "read" { data.read(index, 0, key.lo).map(drop) } else { Ok(()) }
        };
        keys.iter().zip(0..).map(read).collect()
    }

    async fn get(&self, keys: &[ChunkKey], _into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        keys.iter().map(|key| self.take(key.lo as usize).map(|()| None)).collect()
    }
}

kvtier_guest::export!(GreedyBackend);
