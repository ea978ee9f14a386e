//! Time until a backend is open.

use anyhow::{Context, Result};
use kvtier::{CompileCache, Config, block_on};

use crate::bench::{About, Bench, candidate};
use crate::engines::{config, engine, log};
use crate::sample::{Effort, once};

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let cache = tempfile::tempdir_in(&bench.setting.scratch).context("cannot make a folder")?;
    let config = Config {
        compile_cache: CompileCache::Directory(cache.path().join("kept")),
        ..config(&bench.setting, vec![log(&bench.setting, "log")?], 1 << 20)
    };
    // An error here has a message; a sample could only panic.
    block_on(engine(config.clone())?.close())?;
    let open = |config: &Config| {
        let mut opened = None;
        let seconds = once(|| opened = engine(config.clone()).ok());
        let engine = opened.expect("it was opened before");
        block_on(engine.close()).expect("it was closed before");
        seconds
    };
    let mut n_compiled = 0;
    bench.row(
        About::time("engine with log.wasm until open, code from the cache").effort(Effort::LONG),
        vec![
            candidate("kvtier", || open(&config)),
            candidate("compiled", || {
                n_compiled += 1;
                let empty = CompileCache::Directory(cache.path().join(n_compiled.to_string()));
                open(&Config { compile_cache: empty, ..config.clone() })
            }),
        ],
    );
    Ok(())
}
