//! The host memory that attacks take, and what remains when their instance is gone. Each attack runs in a separate
//! process, whose memory nothing else uses: this test, started again.
//!
//! `cargo test --workspace --test suite -- --exact host_memory::attacks_take_no_more_than_is_documented --nocapture`
//! prints the figures.

use std::process::Command;

use kvtier::__internal::limits::{HTTP_OBJECTS_PER_REQUEST, HTTP_OBJECTS_UNGRANTED_MAX};
use kvtier::__internal::wasm::hold_threads;
use kvtier::{BackendConfig, HttpScheme, NetGrant, NetHost};

use crate::lanes::engine;
use crate::limits::{greedy, take};
use crate::open_files::Folder;
use crate::support;

/// Names the attack to the process that is started for it.
const ATTACK: &str = "KVTIER_TEST_ATTACK";
const MIB: u64 = 1 << 20;
/// The most threads that run guests by default.
const LANE_THREADS_MAX: u64 = 4;

/// A resource that a guest takes as often as it can.
struct Attack {
    takes: &'static str,
    /// The number in each call.
    n: u64,
    calls: usize,
    /// The grants, and whether all threads for files are blocked.
    with: With,
    /// The most host memory beside linear memory.
    bytes_max: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum With {
    Nothing,
    Http,
    Files,
    HungFiles,
}

impl Attack {
    /// The memory that may remain when all instances have ended: objects made once, and, for each thread that
    /// runs guests, a piece as large as the largest that it carried. The allocator keeps that piece at the end of the
    /// thread's arena and does not trim it.
    fn left_bytes_max(&self) -> u64 {
        let kept = if self.n > MIB { self.n * LANE_THREADS_MAX } else { 0 };
        20 * MIB + kept
    }
}

const fn attack(takes: &'static str, n: u64, calls: usize, with: With, bytes_max: u64) -> Attack {
    Attack { takes, n, calls, with, bytes_max }
}

/// The attacks under default limits. The bounds are those of the table in `docs/security.md`, with room for the
/// allocator's overhead.
const ATTACKS: [Attack; 13] = [
    attack("large-requests-0.2", 100, 40, With::Nothing, 16 * MIB),
    attack("large-requests-0.3", 100, 40, With::Nothing, 16 * MIB),
    attack("bodies-0.2", 50, 40, With::Nothing, 16 * MIB),
    attack("requests-0.2", HTTP_OBJECTS_UNGRANTED_MAX as u64 - 1, 40, With::Nothing, 16 * MIB),
    attack("full-requests-0.2", 64 * HTTP_OBJECTS_PER_REQUEST as u64 - 1, 40, With::Http, 64 * MIB),
    attack("requests-0.3", 64 * HTTP_OBJECTS_PER_REQUEST as u64 - 1, 40, With::Http, 64 * MIB),
    attack("bodies-0.2", 32 * HTTP_OBJECTS_PER_REQUEST as u64, 40, With::Http, 96 * MIB),
    attack("stats-given-up", 20_000, 20, With::HungFiles, 32 * MIB),
    attack("opens-given-up", 20_000, 20, With::HungFiles, 32 * MIB),
    attack("direct-names", 12 << 20, 40, With::HungFiles, 64 * MIB),
    attack("file-streams-0.2", 256, 40, With::Files, 16 * MIB),
    attack("pollables", 8_000, 2, With::Nothing, 32 * MIB),
    attack("streams", 5_000, 1, With::Nothing, 32 * MIB),
];

/// Returns a figure of this process from `/proc/self/status`, in bytes.
fn figure(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() << 10
}

/// Makes an attack, and prints the most host memory that it took, the figure in the status, and what remains.
fn in_this_process(attack: &Attack) {
    let folder = Folder::new();
    let mut backend: BackendConfig = match attack.with {
        With::Files | With::HungFiles => folder.granted("attack", attack.takes),
        With::Nothing | With::Http => greedy("attack", attack.takes),
    };
    if attack.with == With::Http {
        let host = NetHost::Address("127.0.0.1".parse().unwrap());
        backend.allow.net.push(NetGrant::Http { scheme: HttpScheme::Http, host, port: 1 });
    }
    let engine = engine(backend);
    let storage = engine.storage();
    let health = || support::health(storage, "attack");
    take(storage, "attack", 0);
    let held_up = (attack.with == With::HungFiles).then(|| hold_threads("attack").unwrap());
    let before = figure("VmRSS:");
    // Without the pages of the program's file, which are not held for anybody.
    let before_anonymous = figure("RssAnon:");
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (mut told, mut guest) = (0, 0);
    for _ in 0..attack.calls {
        let outcome = take(storage, "attack", attack.n);
        let health = health();
        told = health.host_memory_bytes.max(told);
        guest = health.guest_memory_bytes.max(guest);
        if outcome == Some("trap") {
            break;
        }
    }
    let peak = figure("VmHWM:").saturating_sub(before + guest);
    drop(held_up);
    // Until nothing of it is left.
    engine.blocking().close().unwrap();
    support::eventually("all instances end", || health().instances == 0);
    // The allocator is trimmed a moment later.
    let left = || figure("RssAnon:").saturating_sub(before_anonymous);
    support::eventually("their memory returns to the system", || left() <= attack.left_bytes_max());
    let left = left();
    println!("figures {peak} {told} {left}");
}

#[test]
fn attacks_take_no_more_than_is_documented() {
    if let Ok(number) = std::env::var(ATTACK) {
        return in_this_process(&ATTACKS[number.parse::<usize>().unwrap()]);
    }
    for (number, attack) in ATTACKS.iter().enumerate() {
        let name = "host_memory::attacks_take_no_more_than_is_documented";
        let made = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ATTACK, number.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&made.stdout).into_owned();
        let words = String::from_utf8_lossy(&made.stderr);
        let line = text.lines().find_map(|line| line.split_once("figures ")).map(|(_, figures)| figures);
        let line = line.unwrap_or_else(|| panic!("{}: {text}\n{words}", attack.takes));
        let figures: Vec<u64> = line.split(' ').map(|figure| figure.parse().unwrap()).collect();
        let [peak, told, left] = figures[..] else { panic!("{line}") };
        println!(
            "{:>20} {:>6} times {:>2} calls: peak {:>4} MiB, status() {:>4} MiB, left {:>4} MiB",
            attack.takes,
            attack.n,
            attack.calls,
            peak >> 20,
            told >> 20,
            left >> 20
        );
        assert!(peak <= attack.bytes_max, "{}: {peak} bytes", attack.takes);
    }
}
