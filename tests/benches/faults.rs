//! What faults of backends cost: `cargo xtask bench faults` (it builds the components first). Prints every row of the
//! fault table with its times, the CPU tier's operations beside a backend that misbehaves as fast as it can, and the
//! host's memory after many faults. `cargo xtask bench faults table 50` runs one part, here with 50 runs per row.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::unwrap_used, reason = "any failure ends this program")]

use std::hint::black_box;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvtier::{BackendConfig, BreakerConfig, Config, OnFull, Tiers, block_on};
use kvtier_tests::faults::{Caller, Times, run, table};
use kvtier_tests::support::{
    config, counted, engine, health, keys, misbehaving, promise, put, put_in, specs,
};

const TIMES: Times = Times { deadline: Duration::from_millis(25), stall: Duration::from_millis(50) };

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let part = arguments.first().map(String::as_str);
    let n: Option<usize> = arguments.get(1).map(|n| n.parse().expect("a number"));
    let is_wanted = |name| part.is_none_or(|part| part == name);
    if is_wanted("table") {
        times_of_faults(n.unwrap_or(20));
    }
    if is_wanted("neighbours") {
        neighbours(n.unwrap_or(100_000));
    }
    if is_wanted("memory") {
        memory(n.unwrap_or(100_000));
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Deadline set and answer received, for every row.
fn times_of_faults(n_runs: usize) {
    let faults = table();
    println!("{} faults, {n_runs} runs each; times in ms", faults.len());
    println!(
        "{:<48} {:<17} {:>9} {:>9} {:>9} {:>10} {:>10}",
        "fault", "the caller gets", "deadline", "answered", "at most", "recovered", "at most"
    );
    let mut latest = Duration::ZERO;
    for fault in &faults {
        let mut answered = Vec::new();
        let mut recovered = Vec::new();
        let mut deadline = Duration::ZERO;
        for n_run in 0..n_runs {
            progress(&format!("{fault}: {n_run}"));
            let observed = run(fault, TIMES);
            deadline = observed.deadline;
            answered.push(observed.answered);
            recovered.extend(observed.recovered);
        }
        progress("");
        answered.sort();
        recovered.sort();
        let gets = match fault.caller {
            Caller::Told(kind) => kind,
            Caller::Expires => "timeout",
            Caller::Served => "its chunks",
        };
        let of = |times: &[Duration], index: usize| match times.get(index) {
            Some(time) => format!("{:.3}", ms(*time)),
            None => "-".into(),
        };
        let last = n_runs - 1;
        if fault.caller == Caller::Expires {
            latest = latest.max(answered[last].saturating_sub(deadline));
        }
        // A caller that gets an error gets it at once; its deadline is far away.
        let shown =
            if deadline > Duration::from_secs(1) { "far".into() } else { format!("{:.0}", ms(deadline)) };
        println!(
            "{:<48} {gets:<17} {shown:>9} {:>9} {:>9} {:>10} {:>10}",
            fault.to_string(),
            of(&answered, last / 2),
            of(&answered, last),
            of(&recovered, recovered.len() / 2),
            of(&recovered, recovered.len().wrapping_sub(1)),
        );
    }
    println!("latest answer after its deadline: {:.3} ms", ms(latest));
}

fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // A progress line that cannot be drawn does no harm.
        drop(write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush()));
    }
}

/// A backend whose breaker is off, so that it is always called.
fn relentless(class: &str, settings: &[(&str, &str)]) -> BackendConfig {
    let mut backend = misbehaving("faulty", class, settings);
    backend.limits.call_timeout = Duration::from_millis(10);
    backend.limits.lane_stall = Duration::from_millis(20);
    backend.breaker.failures = 0;
    backend
}

/// Lookups and gets of the CPU tier alone, and while a backend misbehaves without a pause.
fn neighbours(n_samples: usize) {
    println!();
    println!(
        "CPU tier, 32 chunks a call, {n_samples} calls each, beside a backend under full load (p99, µs)"
    );
    println!(
        "{:<8} {:<8} {:>10} {:>10} {:>7} {:>10} {:>10} {:>7} {:>14}",
        "backend", "breaker", "lookup", "alone", "ratio", "get", "alone", "ratio", "its calls/s"
    );
    let flood = vec![("in", "contains"), ("lines", "1000")];
    for (what, class, settings, spared) in [
        ("works", "GoodBackend", vec![], false),
        ("loops", "SpinBackend", vec![("in", "contains")], false),
        ("loops", "SpinBackend", vec![("in", "contains")], true),
        ("traps", "TrapBackend", vec![("in", "contains")], false),
        ("traps", "TrapBackend", vec![("in", "contains")], true),
        ("floods", "LogFloodBackend", flood, false),
    ] {
        let mut backend = relentless(class, &settings);
        if spared {
            backend.breaker = BreakerConfig::default();
        }
        let engine = engine(Config { on_full: OnFull::Drop, ..config(vec![backend]) });
        let storage = engine.storage();
        let keys = keys(32);
        put(storage, &keys, &Tiers::only(["cpu"]));
        let (loaded, stop, n_calls) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        let mut samples: [Vec<Vec<u64>>; 2] = [vec![Vec::new(); 2], vec![Vec::new(); 2]];
        let mut busy = Duration::ZERO;
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let tiers = Tiers::only(["faulty"]);
                while !stop.load(Ordering::Relaxed) {
                    if loaded.load(Ordering::Acquire) {
                        black_box(block_on(storage.contains(&keys, &tiers)));
                        n_calls.fetch_add(1, Ordering::Relaxed);
                    } else {
                        std::thread::park();
                    }
                }
            });
            let specs = specs(&keys);
            let cpu = Tiers::only(["cpu"]);
            // In turns, so that both see the same machine.
            for round in 0..10 {
                let with_load = round % 2 == 1;
                loaded.store(with_load, Ordering::Release);
                load.thread().unpark();
                // Until the last call of the previous round has ended.
                std::thread::sleep(Duration::from_millis(30));
                let started = Instant::now();
                let [lookups, gets] = &mut samples[usize::from(with_load)][..] else { unreachable!() };
                for _ in 0..n_samples / 5 {
                    let begun = Instant::now();
                    black_box(block_on(storage.contains(&keys, &cpu)));
                    let looked_up = Instant::now();
                    black_box(block_on(storage.get(&specs, &cpu, None)));
                    lookups.push((looked_up - begun).as_nanos() as u64);
                    gets.push(looked_up.elapsed().as_nanos() as u64);
                }
                busy += if with_load { started.elapsed() } else { Duration::ZERO };
            }
            stop.store(true, Ordering::Relaxed);
            load.thread().unpark();
        });
        let p99 = |with_load: usize, operation: usize| {
            let mut sorted = samples[with_load][operation].clone();
            sorted.sort_unstable();
            sorted[sorted.len() * 99 / 100] as f64 / 1e3
        };
        let (lookup, lookup_alone, get, get_alone) = (p99(1, 0), p99(0, 0), p99(1, 1), p99(0, 1));
        println!(
            "{what:<8} {:<8} {lookup:>10.2} {lookup_alone:>10.2} {:>7.2} {get:>10.2} {get_alone:>10.2} {:>7.2} {:>14.0}",
            if spared { "on" } else { "off" },
            lookup / lookup_alone,
            get / get_alone,
            n_calls.load(Ordering::Relaxed) as f64 / busy.as_secs_f64(),
        );
        engine.blocking().close().unwrap();
    }
}

/// The memory that the process holds after many faults.
fn memory(n_faults: usize) {
    println!();
    println!("memory of the host (resident, MiB), after {n_faults} faults");
    println!("{:<24} {:>10} {:>10} {:>12} {:>12}", "fault", "before", "after", "restarts", "seconds");
    for (what, class) in
        [("trap", "TrapBackend"), ("wrong bytes", "WrongBytesBackend"), ("error", "FailBackend")]
    {
        let mut backend = relentless(class, &[("in", "get")]);
        backend.limits.call_timeout = Duration::from_secs(30);
        let engine = engine(Config { local_cpu: false, ..config(vec![backend]) });
        let storage = engine.storage();
        let (keys, tiers) = (keys(1), Tiers::only(["faulty"]));
        let specs = specs(&keys);
        let plan = promise(1, 1);
        let fault = || {
            if class == "WrongBytesBackend" {
                put_in(storage, &keys, "faulty");
            }
            let found = block_on(storage.get(&specs, &tiers, Some(&plan)));
            assert!(found.chunks.is_empty());
        };
        // Until everything that is reused has been allocated once.
        (0..n_faults / 100).for_each(|_| fault());
        let (before, started) = (resident_mib(), Instant::now());
        for n_fault in 0..n_faults {
            if n_fault % 1000 == 0 {
                progress(&format!("{what}: {n_fault}"));
            }
            fault();
        }
        progress("");
        let counts = counted(storage, "faulty");
        println!(
            "{what:<24} {before:>10.1} {:>10.1} {:>12} {:>12.1}",
            resident_mib(),
            health(storage, "faulty").lane_restarts,
            started.elapsed().as_secs_f64(),
        );
        assert!(counts.misses.values().sum::<u64>() >= n_faults as u64, "{counts:?}");
        engine.blocking().close().unwrap();
    }
}

/// Memory of this process that is in RAM.
fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / f64::from(1 << 20)
}
