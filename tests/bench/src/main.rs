//! Measures kvtier, each figure beside its reference in the same run: `cargo xtask bench`.
//!
//! A part measures candidates in turns and adds rows and series to the report, which is printed as tables and written
//! as JSON and SVG.

mod bench;
mod contender;
mod engines;
mod native;
mod output;
mod parts;
mod report;
mod sample;
mod tier;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::bench::{Bench, Setting};
use crate::output::{json, svg, table};
use crate::parts::{
    breaker, bytes, calls, chain, compare, copies, cpu, growth, integrity, keys, load, pool, replay, sharing,
    stores, threads,
};

/// A part's name, what it measures, and its function.
type Part = (&'static str, &'static str, fn(&mut Bench) -> Result<()>);

const PARTS: [Part; 17] = [
    ("cpu", "operations of the CPU tier", cpu::run),
    ("growth", "the CPU tier over keys of a call, entries, pinned share", growth::run),
    ("threads", "the CPU tier over threads", threads::run),
    ("compare", "the CPU tier beside foyer, quick_cache, moka and kvbm-logical", compare::run),
    ("pool", "start-up of the buffer pool", pool::run),
    ("copies", "chunks copied into the CPU tier, beside memcpy", copies::run),
    ("keys", "chunk keys from tokens", keys::run),
    ("integrity", "sealing, beside memcpy", integrity::run),
    ("calls", "one call into a sandboxed backend", calls::run),
    ("chain", "lookups over the number of backends", chain::run),
    ("breaker", "a backend with an open breaker, beside none", breaker::run),
    ("bytes", "chunks through `memory` and `fs`, beside memcpy and native code", bytes::run),
    ("stores", "chunks through `redis` and `s3`, beside native clients of the same servers", stores::run),
    ("redis", "the small chunks of `stores`: 64 KiB through `redis`, 1 and 64 at once", stores::run_small),
    ("sharing", "one prefix for several requests at once, through `fs` and `redis`", sharing::run),
    ("load", "time until a backend is open", load::run),
    ("replay", "a trace through the `kvtier` command", replay::run),
];

/// Measures kvtier, each figure beside its reference in the same run.
#[derive(Parser)]
#[command(name = "kvtier-bench", after_help = parts_help())]
struct Arguments {
    /// The parts to run; all if none is named.
    parts: Vec<String>,
    /// Run everything once with little data, to see that it works. The figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// The trace to replay instead of a generated one.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The folder for the report, and for files that are written and read.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// The folder of the components that `cargo xtask guests` builds.
    #[arg(long, value_name = "DIR", default_value = "target/kvtier-guests")]
    guests: PathBuf,
    /// The program that has the other caches in it.
    #[arg(long, value_name = "FILE")]
    peers: Option<PathBuf>,
}

fn parts_help() -> String {
    let lines = PARTS.map(|(name, what, _)| format!("  {name:<10} {what}\n"));
    format!("Parts:\n{}", lines.concat())
}

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == replay::AS_KVTIER) {
        let cli = kvtier_cli::args::Cli::parse_from(&words[1..]);
        return kvtier_cli::run(cli, "kvtier replay", &|_| {});
    }
    if words.get(1).is_some_and(|word| word == stores::AS_S3_SERVER) {
        return kvtier_servers::s3::serve_forever(std::env::args().skip(2));
    }
    let arguments = Arguments::parse();
    for name in &arguments.parts {
        if !PARTS.iter().any(|(part, ..)| part == name) {
            bail!("there is no part `{name}`\n\n{}", parts_help());
        }
    }
    let scratch = arguments.out.join("scratch");
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let mut bench = Bench::new(Setting {
        is_quick: arguments.quick,
        guests: arguments.guests,
        scratch,
        trace: arguments.trace,
        peers: arguments.peers,
    });
    bench.report.facts = output::machine();
    for (name, _, run) in PARTS {
        if arguments.parts.is_empty() || arguments.parts.iter().any(|part| part == name) {
            bench.part(name, run)?;
        }
    }
    bench.progress("");
    print!("{}", table::render(&bench.report));
    for (name, text) in
        [("report.json", json::render(&bench.report)?), ("report.svg", svg::render(&bench.report))]
    {
        let path = arguments.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
