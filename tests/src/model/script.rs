//! The script of a run: a setup and steps, decoded from bytes. Any bytes are a script, so that a fuzzer and a seeded
//! generator make scripts in the same way.

use kvtier::{ChunkKey, ChunkSpec, EvictionPolicy, OnFull};

use super::{CHAOS, STEADY, mix};

/// Keys that scripts use.
pub const N_KEYS: usize = 12;

/// Lookup ids, and plans that are kept.
pub const N_SLOTS: usize = 4;

/// Steps beyond this number are not decoded, so that one input takes a bounded time.
pub const STEPS_MAX: usize = 400;

const HEADER_BYTES: usize = 8;
const STEP_BYTES: usize = 4;
const RUN_CHUNKS_MAX: usize = 7;

/// A setup and its operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The chain.
    pub setup: Setup,
    /// The operations, one after the other.
    pub steps: Vec<Step>,
}

/// The setup of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The seed of the misbehaving backend.
    pub seed: u64,
    /// How many of its calls go wrong.
    pub rate_percent: u64,
    /// The pool's size in pages of 4 KiB: less than all chunks take, so that chunks are evicted.
    pub n_pages: usize,
    /// Which chunks are evicted first.
    pub policy: EvictionPolicy,
    /// Whether the CPU tier keeps chunks at the start.
    pub hot_cache: bool,
    /// Whether a put waits for room in a queue.
    pub on_full: OnFull,
    /// Whether chunks are sealed under a key.
    pub keyed: bool,
}

/// An operation, and when its caller leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The operation.
    pub op: Op,
    /// The number of polls after which the future is dropped; `None` waits for its end.
    pub polls: Option<u32>,
}

/// A run of keys, `start..start + len` modulo [`N_KEYS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    start: usize,
    len: usize,
}

/// An operation of the chain, or an act of its caller or its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the operations are the storage manager's")]
pub enum Op {
    Put {
        run: Run,
        tiers: Choice,
    },
    /// Puts chunks that the caller holds.
    PutHeld {
        tiers: Choice,
    },
    /// Takes buffers and gives them back.
    Allocate {
        run: Run,
    },
    /// With `plan`, gets the keys of that slot's last lookup. `keep` holds the chunks.
    Get {
        run: Run,
        tiers: Choice,
        plan: Option<usize>,
        keep: bool,
    },
    /// With `pin`, under the lookup id of that slot.
    Lookup {
        run: Run,
        tiers: Choice,
        slot: usize,
        pin: bool,
    },
    Unpin {
        slot: usize,
    },
    /// Lets all pins expire.
    Expire,
    Remove {
        run: Run,
        tiers: Choice,
    },
    Clear {
        tiers: Choice,
    },
    Flush,
    Recreate,
    Bypass {
        tier: &'static str,
        on: bool,
    },
    HotCache {
        on: bool,
    },
    /// The caller releases its chunks, and the backend the memory that it keeps.
    Release,
    /// The backend uses handles kept from earlier calls.
    UseKept,
}

/// The tiers that an operation names: a bit for each, in the chain's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice(u8);

impl Choice {
    /// Every tier.
    pub const ALL: Self = Self(0b111);

    fn decode(byte: u8) -> Self {
        // Mostly all, as in engines.
        if byte.is_multiple_of(2) { Self::ALL } else { Self(byte >> 1 & 0b111) }
    }

    /// Reports whether the tier at a place of the chain is named.
    pub fn has(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }

    /// Returns the choice as operations take it.
    pub fn tiers(self) -> kvtier::Tiers {
        if self == Self::ALL {
            return kvtier::Tiers::All;
        }
        let names = [kvtier::CPU_TIER, CHAOS, STEADY].into_iter().enumerate();
        kvtier::Tiers::only(names.filter(|(place, _)| self.has(*place)).map(|(_, name)| name))
    }
}

impl Run {
    /// Returns the chunks of the run. Their sizes differ, from less than a page to more than a page.
    pub fn specs(self) -> Vec<ChunkSpec> {
        (self.start..self.start + self.len).map(|n| spec(n % N_KEYS)).collect()
    }

    /// Returns the keys of the run.
    pub fn keys(self) -> Vec<ChunkKey> {
        self.specs().iter().map(|spec| spec.key).collect()
    }
}

/// Returns one of the chunks that scripts use.
pub fn spec(n: usize) -> ChunkSpec {
    let key = ChunkKey { hi: mix(n as u64), lo: n as u64 };
    ChunkSpec { key, size_bytes: [2048, 64, 5000, 4096][n % 4] }
}

impl Script {
    /// Reads a script. Missing bytes count as 0, and an unfinished step is left out.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut header = [0; HEADER_BYTES];
        let n_header = bytes.len().min(HEADER_BYTES);
        header[..n_header].copy_from_slice(&bytes[..n_header]);
        let (steps, _) = bytes[n_header..].as_chunks::<STEP_BYTES>();
        let steps = steps.iter().take(STEPS_MAX).copied().map(Step::decode).collect();
        Self { setup: Setup::decode(header), steps }
    }

    /// Makes a script of `n_steps` from a seed.
    pub fn generate(seed: u64, n_steps: usize) -> Self {
        let n_words = (HEADER_BYTES + n_steps * STEP_BYTES).div_ceil(8) as u64;
        let bytes: Vec<u8> = (0..n_words).flat_map(|n| mix(mix(seed) ^ n).to_le_bytes()).collect();
        let mut script = Self::decode(&bytes);
        script.steps.truncate(n_steps);
        script
    }
}

impl Setup {
    fn decode(header: [u8; HEADER_BYTES]) -> Self {
        let [a, b, c, d, rate, pages, policy, flags] = header;
        let policies = [EvictionPolicy::Lru, EvictionPolicy::Fifo, EvictionPolicy::Lfu, EvictionPolicy::Mru];
        Self {
            seed: u32::from_le_bytes([a, b, c, d]).into(),
            rate_percent: u64::from(rate % 101),
            n_pages: 4 + usize::from(pages % 16),
            policy: policies[usize::from(policy) % policies.len()],
            hot_cache: flags & 1 == 0,
            on_full: if flags & 2 == 0 { OnFull::Drop } else { OnFull::Wait },
            keyed: flags & 4 != 0,
        }
    }
}

impl Step {
    fn decode([op, run, tiers, rest]: [u8; STEP_BYTES]) -> Self {
        let run =
            Run { start: usize::from(run >> 4) % N_KEYS, len: 1 + usize::from(run & 15) % RUN_CHUNKS_MAX };
        let slot = usize::from(tiers >> 4) % N_SLOTS;
        let (tiers, on) = (Choice::decode(tiers), tiers & 1 == 1);
        let polls = (rest >= 192).then(|| u32::from(rest - 192) / 8);
        let op = match op % 32 {
            0..=6 => Op::Put { run, tiers },
            7..=12 => Op::Get { run, tiers, plan: None, keep: rest.is_multiple_of(4) },
            13..=15 => Op::Get { run, tiers, plan: Some(slot), keep: rest.is_multiple_of(4) },
            16..=17 => Op::Lookup { run, tiers, slot, pin: false },
            18..=20 => Op::Lookup { run, tiers, slot, pin: true },
            21 => Op::Unpin { slot },
            22 => Op::Remove { run, tiers },
            23 => Op::Clear { tiers },
            24 => Op::Flush,
            25 => Op::Recreate,
            26 => Op::Bypass { tier: if slot == 0 { STEADY } else { CHAOS }, on },
            27 => Op::HotCache { on },
            28 => Op::Release,
            29 => Op::UseKept,
            30 => Op::PutHeld { tiers },
            _ if on => Op::Expire,
            _ => Op::Allocate { run },
        };
        Self { op, polls }
    }
}
