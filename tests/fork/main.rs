//! Forks while an engine runs, and prints what the child can and cannot do. This is a separate process, because a child
//! inherits the locks that other threads hold, and other tests could hold any.
//!
//! Prints one line for each operation of each child, then what still works in the parent. An alarm ends a child that
//! hangs, and its end is a line too.
#![expect(unsafe_code, reason = "forks")]

use std::io::Write;
use std::ptr::NonNull;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvtier::memory::{BufferMut, ChunkWriter};
use kvtier::{ChunkKey, Config, Engine, EngineBuilder, Receipt, Tiers, block_on};
use kvtier_tests::support::{
    CHUNK_BYTES, backend, config, eventually, in_tier, key, keys, metadata, misbehaving, promise, put,
    put_in, specs,
};

/// After this many seconds a child counts as hung. None of its operations waits for anything.
const ALARM_S: u32 = 60;

fn main() -> Result<()> {
    let keys = keys(4);
    let engine = build(vec![
        backend("memory", "memory", "MemoryBackend"),
        misbehaving("stuck", "HangBackend", &[("in", "put")]),
    ])?;
    let storage = engine.storage();
    put(storage, &keys[..2], &Tiers::only(["cpu"]));
    put_in(storage, &keys, "memory");
    block_on(storage.contains_pinned(&keys, &Tiers::only(["memory"]), "of the parent"));
    // A put that is in flight while the process forks, and holds memory.
    put(storage, &[key(9)], &Tiers::only(["stuck"]));
    let lent = [lend(key(10)).freeze()];
    let (_, receipt) = block_on(storage.put_chunks_with_receipt(&lent, &Tiers::only(["stuck"])));
    drop(lent);
    wait_until_idle();

    // The parent keeps what a child drops.
    let mut engine = Some(engine);
    fork("asks", || ask(engine.take().context("an engine")?, &receipt))?;
    fork("drops", || {
        drop(engine.take());
        say("drop", "returned")
    })?;
    fork("abandons and builds", || {
        engine.take().context("an engine")?.abandon();
        build_another()
    })?;

    let engine = engine.context("an engine")?;
    let storage = engine.storage();
    say("parent: in the backend", in_tier(storage, &keys, "memory"))?;
    let found = block_on(storage.get(&specs(&keys), &Tiers::only(["memory"]), None));
    say("parent: served", found.chunks.len())?;
    drop(found);
    block_on(storage.unpin("of the parent"));
    say("parent: pinned", storage.status().backends[0].pinned_keys)
}

fn build(backends: Vec<kvtier::BackendConfig>) -> Result<Engine> {
    // Deadlines later than the alarm: none of them may end a call.
    let long = Duration::from_hours(1);
    let mut config =
        Config { lookup_timeout: long, blocking_timeout: long, close_timeout: long, ..config(backends) };
    for backend in &mut config.backends {
        backend.limits.call_timeout = long;
    }
    Ok(EngineBuilder::new(config, metadata()).build_blocking()?)
}

/// Calls every operation of an engine, in a child of the process that built it.
fn ask(engine: Engine, receipt: &Receipt) -> Result<()> {
    let (storage, keys) = (engine.storage(), keys(4));
    let all = &Tiers::All;
    say("contains", block_on(storage.contains(&keys, all)).n_chunks)?;
    say("contains_pinned", block_on(storage.contains_pinned(&keys, all, "of the child")).n_chunks)?;
    block_on(storage.unpin("of the child"));
    say("unpin", storage.status().cpu.pinned_entries)?;
    let found = block_on(storage.get(&specs(&keys), all, Some(&promise(1, 4))));
    let reasons: Vec<_> = found.misses.iter().map(|missed| missed.miss.reason()).collect();
    say("get", format_args!("{} chunks, misses {reasons:?}", found.chunks.len()))?;
    say("contains_each", format_args!("{:?}", block_on(storage.contains_each(&[keys[3], keys[0]], all))))?;
    let fetched = block_on(storage.fetch_into(vec![lend(keys[3]), lend(keys[0])], all));
    let fetched: Vec<_> = fetched
        .iter()
        .map(|result| result.as_ref().map_or_else(|not| not.miss.reason(), |_| "found"))
        .collect();
    say("fetch_into", fetched.join(", "))?;
    say("receipt", format_args!("{:?}", block_on(receipt.outcomes())[0].outcomes))?;
    storage.spawn(async { unreachable!("nothing runs it") });
    let stored = put(storage, &[key(5)], all);
    let dropped: Vec<_> = stored.backends.iter().map(|offer| offer.n_dropped).collect();
    say("put", format_args!("{} in the CPU tier, dropped {dropped:?}", stored.n_new))?;
    let many: Vec<_> = (100..200).map(key).collect();
    let allocation = block_on(storage.allocate(&specs(&many)))?;
    ensure!((1..100).contains(&allocation.n_covered()), "{} covered", allocation.n_covered());
    say("allocate", "no more than there is room for")?;
    drop(allocation);
    say("flush", outcome(block_on(storage.flush())))?;
    say("remove", outcome(block_on(storage.remove(&keys, all))))?;
    say("clear", block_on(storage.clear(all)).skipped.join(" "))?;
    say("recreate", outcome(block_on(storage.recreate("memory"))))?;
    let counts = storage.counts();
    let errors = counts[1].errors.iter();
    let errors: Vec<_> = errors.map(|error| (error.operation.name(), error.kind, error.n)).collect();
    say("errors", format_args!("{errors:?}"))?;
    say("close", outcome(block_on(storage.close())))?;
    engine.abandon();
    say("abandon", "returned")
}

/// Waits until the other threads of this process have slept for a while. One that runs may hold a lock, which would
/// stay locked in a child.
fn wait_until_idle() {
    let mut last = String::new();
    let mut n_same = 0;
    eventually("the engine's threads sleep", || {
        let now = threads();
        n_same = if now == last && !now.contains("(running)") { n_same + 1 } else { 0 };
        last = now;
        n_same == 20
    });
}

/// Returns, for each other thread of this process, its state and how often it has given up its processor.
fn threads() -> String {
    let this = std::process::id().to_string();
    let threads = std::fs::read_dir("/proc/self/task").expect("a list of threads");
    let others = threads.flatten().filter(|thread| *thread.file_name() != *this);
    // A thread may end at any time.
    let texts = others.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    let mut states = String::new();
    for text in texts {
        let is_told = |line: &&str| line.starts_with("State:") || line.contains("ctxt_switches:");
        states.extend(text.lines().filter(is_told).flat_map(|line| [line, "\n"]));
    }
    states
}

/// Lends memory for a chunk.
fn lend(key: ChunkKey) -> ChunkWriter {
    let mut bytes = vec![0; CHUNK_BYTES].into_boxed_slice();
    let start = NonNull::from(&mut *bytes).cast();
    // SAFETY: the owner has the memory on the heap, and nothing else uses it.
    ChunkWriter::new(key, unsafe { BufferMut::lend(start, CHUNK_BYTES, bytes) })
}

/// Builds and uses a separate engine in the child.
fn build_another() -> Result<()> {
    let engine = build(vec![backend("memory", "memory", "MemoryBackend")])?;
    let (storage, keys) = (engine.storage(), keys(3));
    put_in(storage, &keys, "memory");
    say("own engine: in the backend", in_tier(storage, &keys, "memory"))?;
    engine.blocking().close()?;
    say("own engine: close", "returned")
}

/// Runs a child, and waits for its end.
fn fork(name: &str, child: impl FnOnce() -> Result<()>) -> Result<()> {
    say("child", name)?;
    // SAFETY: the child takes no lock that another thread of this process may have held: only the engine runs here, and
    // `wait_until_idle` has waited until it did not.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: sets a timer of this process.
            unsafe { libc::alarm(ALARM_S) };
            let status = match child() {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("{error:#}");
                    1
                }
            };
            // SAFETY: ends the process without the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        process => {
            let mut status = 0;
            // SAFETY: `process` is a child of this process, and `status` is writable.
            ensure!(unsafe { libc::waitpid(process, &raw mut status, 0) } == process, "no child to wait for");
            say("ended", if status == 0 { "well".to_owned() } else { format!("with status {status:#x}") })
        }
    }
}

fn outcome<T: std::fmt::Debug, E: std::fmt::Display>(outcome: std::result::Result<T, E>) -> String {
    match outcome {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("error: {error}"),
    }
}

fn say(what: &str, answer: impl std::fmt::Display) -> Result<()> {
    // Unbuffered: the child would inherit a buffer.
    std::io::stderr().flush()?;
    Ok(std::io::stdout().write_all(format!("{what}: {answer}\n").as_bytes())?)
}
