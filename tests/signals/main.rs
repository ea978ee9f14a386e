//! A process in which other code installs signal handlers while an engine runs, as Python's `faulthandler.enable()`
//! does. Then a guest traps.
//!
//! `kvtier-signals on|off`: whether kvtier uses signal handlers. This is a separate process, because handlers belong to
//! the process, and because a trap ends it if kvtier's handler has been replaced.
#![expect(unsafe_code, reason = "installs signal handlers")]

use anyhow::{Result, bail};
use kvtier::{CompileCache, Config, EngineBuilder, Tiers, block_on};
use kvtier_tests::support::{config, keys, metadata, misbehaving, promise, specs};

fn main() -> Result<()> {
    let are_used = match std::env::args().nth(1).as_deref() {
        Some("on") => true,
        Some("off") => false,
        _ => bail!("usage: kvtier-signals on|off"),
    };
    let backends = vec![misbehaving("trap", "TrapBackend", &[])];
    // Code of the other kind must not come from the cache that the tests share, nor go there unnoticed.
    let cache = tempfile::tempdir()?;
    let config = Config { compile_cache: CompileCache::Directory(cache.path().into()), ..config(backends) };
    let engine = EngineBuilder::new(config, metadata()).signal_handlers(are_used).build_blocking()?;
    for signal in [libc::SIGILL, libc::SIGSEGV, libc::SIGFPE, libc::SIGBUS] {
        // SAFETY: the default action needs nothing of this process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // A process that dies on purpose leaves no core behind.
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads one structure.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    let storage = engine.storage();
    for _ in 0..3 {
        let found = block_on(storage.get(&specs(&keys(1)), &Tiers::All, Some(&promise(1, 1))));
        let reasons: Vec<_> = found.misses.iter().map(|missed| missed.miss.reason()).collect();
        println!("get: {} chunks, misses {reasons:?}", found.chunks.len());
    }
    engine.blocking().close()?;
    println!("closed");
    Ok(())
}
