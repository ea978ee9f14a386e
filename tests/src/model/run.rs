//! The chain and what the model knows about it, step by step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kvtier::tier::{Sealer, Tier};
use kvtier::{
    BackendConfig, Chunk, ChunkKey, Clock, CompileCache, Compiler, Config, Dtype, Engine, EngineBuilder,
    EngineMetadata, HotCache, KvShape, Lookup, Miss, Missing, Namespace, OnLoadError, RecreateError,
    Retrieved, Secret, StorageManager, block_on,
};

use super::end::eventually;
use super::{CHAOS, CHUNK_SIZE, Chaos, Choice, Misbehaving, N_KEYS, N_SLOTS, Op, Options, Report, Run};
use super::{STEADY, Sabotage, Setup, Steady, Step, spec};

const CPU_PLACE: usize = 0;
const CHAOS_PLACE: usize = 1;
const STEADY_PLACE: usize = 2;

/// The most chunks that a caller holds; beyond that the oldest is released.
const HELD_MAX: usize = 6;

/// Longer than a script lasts on the moved clock.
const PIN_TIMEOUT: Duration = Duration::from_hours(24);

/// How far each step moves the clock: longer than a breaker's pause, so that a backend that failed is tried again and
/// can misbehave again.
const STEP_TIME: Duration = Duration::from_mins(2);

/// The pins that one lookup id holds in the CPU tier.
#[derive(Default)]
pub(super) struct Pins {
    keys: Vec<ChunkKey>,
    /// Whether its caller left, so that it may hold more.
    unsure: bool,
}

/// The chain and the model.
pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) storage: StorageManager,
    pub(super) steady: Arc<Steady>,
    /// The misbehaving backend, if it is native.
    pub(super) chaos: Option<Arc<Chaos>>,
    pub(super) clock: Clock,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) held: VecDeque<Chunk>,
    pub(super) report: Report,
    plans: [Option<(Run, Lookup)>; N_SLOTS],
    pub(super) pins: [Pins; N_SLOTS],
    /// Keys whose bytes have been given to the chain at some time.
    written: BTreeSet<ChunkKey>,
    /// Keys that were removed and not stored again.
    gone: BTreeSet<ChunkKey>,
    /// Whether a backend is bypassed, by its place.
    bypassed: [bool; 3],
    /// Removals that must reach the steady backend.
    n_removals: u64,
    pub(super) patience: Duration,
}

impl World {
    pub(super) fn new(setup: &Setup, options: &Options) -> Result<Self> {
        let metadata = EngineMetadata {
            model_name: "model".into(),
            world_size: 1,
            worker_id: 0,
            kv_dtype: Dtype::BFloat16,
            kv_shape: KvShape::new([2, 2, CHUNK_SIZE as u32, 2, 8])?,
        };
        let namespace = Namespace::new(&metadata);
        let keyed = setup.keyed && options.sabotage != Some(Sabotage::Forge);
        let mut config = Config {
            chunk_size: CHUNK_SIZE,
            pool_size_bytes: setup.n_pages as u64 * 4096,
            cache_policy: setup.policy,
            local_cpu: setup.hot_cache,
            on_full: setup.on_full,
            on_load_error: OnLoadError::Fail,
            integrity_key: keyed.then(|| Secret::new(*b"a key of the model's")),
            // Nothing here should take this long, but the machine may be busy.
            lookup_timeout: Duration::from_mins(1),
            blocking_timeout: Duration::from_mins(1),
            close_timeout: Duration::from_mins(1),
            pin_timeout: PIN_TIMEOUT,
            ..Config::default()
        };
        let mut chaos = None;
        match &options.misbehaving {
            Misbehaving::Native => {
                let mut forgers = vec![Sealer::mac(namespace, b"a guess at the key")];
                if keyed || options.sabotage == Some(Sabotage::Forge) {
                    forgers.insert(0, Sealer::checksum(namespace));
                }
                chaos = Some(Arc::new(Chaos::new(setup.seed, setup.rate_percent, forgers)));
            }
            Misbehaving::Component { module_path, cache, compiler } => {
                config.compile_cache = CompileCache::Directory(cache.clone());
                config.compiler = Compiler::Program(compiler.clone());
                config.backends.push(chaos_component(setup, module_path));
            }
        }
        let steady = Arc::new(Steady::new(options.sabotage));
        let clock = Clock::manual();
        let mut builder = EngineBuilder::new(config, metadata).clock(clock.clone());
        if let Some(chaos) = &chaos {
            builder = builder.tier(CHAOS, Arc::clone(chaos) as Arc<dyn Tier>);
        }
        let engine = builder.tier(STEADY, Arc::clone(&steady) as Arc<dyn Tier>).build_blocking()?;
        Ok(Self {
            storage: engine.storage().clone(),
            engine,
            steady,
            chaos,
            clock,
            sabotage: options.sabotage,
            held: VecDeque::new(),
            report: Report::default(),
            plans: Default::default(),
            pins: Default::default(),
            written: BTreeSet::new(),
            gone: BTreeSet::new(),
            bypassed: [false; 3],
            n_removals: 0,
            patience: options.patience,
        })
    }

    /// Does one step, and checks its result.
    pub(super) fn step(&mut self, step: &Step) -> Result<()> {
        self.clock.advance(STEP_TIME);
        let polls = step.polls;
        match &step.op {
            Op::Put { run, tiers } => self.put(*run, *tiers, polls),
            Op::PutHeld { tiers } => {
                let chunks: Vec<Chunk> = self.held.iter().cloned().collect();
                self.gone.retain(|key| chunks.iter().all(|chunk| chunk.key() != *key));
                let storage = self.storage.clone();
                self.drive(storage.put_chunks(&chunks, &tiers.tiers()), polls);
                Ok(())
            }
            Op::Allocate { run } => {
                let storage = self.storage.clone();
                let allocation = self.drive(storage.allocate(&run.specs()), polls).transpose()?;
                drop(allocation);
                Ok(())
            }
            Op::Get { run, tiers, plan, keep } => self.get(*run, *tiers, *plan, *keep, polls),
            Op::Lookup { run, tiers, slot, pin } => self.lookup(*run, *tiers, *slot, *pin, polls),
            Op::Unpin { slot } => {
                let storage = self.storage.clone();
                self.drive(storage.unpin(&lookup_id(*slot)), polls);
                if polls != Some(0) {
                    self.pins[*slot] = Pins::default();
                }
                Ok(())
            }
            Op::Expire => {
                self.expire();
                Ok(())
            }
            Op::Remove { run, tiers } => self.remove(*run, *tiers, polls),
            Op::Clear { tiers } => self.clear(*tiers, polls),
            Op::Flush => {
                let storage = self.storage.clone();
                self.drive(storage.flush(), polls).transpose()?;
                Ok(())
            }
            Op::Recreate => {
                let storage = self.storage.clone();
                match (self.drive(storage.recreate(CHAOS), polls), &self.chaos) {
                    // A component may fail to start, or may still be busy with a call whose caller left.
                    (None, _)
                    | (Some(Err(RecreateError::NotConfigured)), Some(_))
                    | (Some(Ok(()) | Err(RecreateError::NotStarted(_) | RecreateError::Busy)), None) => {
                        Ok(())
                    }
                    (Some(outcome), _) => anyhow::bail!("recreate answered {outcome:?}"),
                }
            }
            Op::Bypass { tier, on } => {
                if *on {
                    self.storage.bypass(tier)?;
                } else {
                    self.storage.restore(tier)?;
                }
                self.bypassed[if *tier == CHAOS { CHAOS_PLACE } else { STEADY_PLACE }] = *on;
                Ok(())
            }
            Op::HotCache { on } => {
                self.storage.set_hot_cache(if *on { HotCache::On } else { HotCache::Off });
                Ok(())
            }
            Op::Release => {
                self.held.clear();
                self.release_kept();
                Ok(())
            }
            Op::UseKept => {
                // Handles are revoked once their calls have ended.
                block_on(self.storage.flush())?;
                self.chaos.as_ref().map_or(Ok(()), |chaos| chaos.use_kept())
            }
        }
    }

    fn put(&mut self, run: Run, tiers: Choice, polls: Option<u32>) -> Result<()> {
        let storage = self.storage.clone();
        let Some(allocation) = self.drive(storage.allocate(&run.specs()), polls).transpose()? else {
            return Ok(());
        };
        let mut allocation = allocation;
        for Missing { key, bytes, .. } in allocation.missing() {
            kvtier_cli::content::fill(key, bytes);
            self.written.insert(key);
        }
        let keys = run.keys();
        self.gone.retain(|key| !keys.contains(key));
        let n_covered = allocation.n_covered();
        let stored = self.drive(storage.put(allocation, &tiers.tiers()), polls);
        if stored.is_some() && tiers.has(CPU_PLACE) && storage.cpu().is_hot() {
            let n_run = storage.cpu().contains_run(&keys);
            ensure!(n_run >= n_covered, "{n_covered} chunks were put, the CPU tier has {n_run}");
        }
        Ok(())
    }

    fn get(
        &mut self,
        run: Run,
        tiers: Choice,
        plan: Option<usize>,
        keep: bool,
        polls: Option<u32>,
    ) -> Result<()> {
        let (run, plan) = match plan.and_then(|slot| self.plans[slot].clone()) {
            Some((run, lookup)) => (run, Some(lookup)),
            None => (run, None),
        };
        let keys = run.keys();
        let planned = plan.as_ref().map_or(keys.len(), |plan| plan.n_chunks);
        let n_sure = self.n_sure(&keys, tiers).min(planned.max(self.n_in_cpu(&keys, tiers)));
        let storage = self.storage.clone();
        let Some(retrieved) = self.drive(storage.get(&run.specs(), &tiers.tiers(), plan.as_ref()), polls)
        else {
            return Ok(());
        };
        self.check_retrieved(&retrieved, &keys, tiers)?;
        // With the hot cache off, a chunk held only by a put in flight leaves when that put ends, at any moment.
        let n_sure = if self.storage.cpu().is_hot() { n_sure } else { n_sure.min(self.n_sure(&keys, tiers)) };
        let out_of_memory = retrieved.misses.iter().any(|missed| missed.miss == Miss::NoMemory);
        let n_run = retrieved.chunks.len();
        ensure!(
            out_of_memory || n_run >= n_sure,
            "{n_run} chunks came back, {n_sure} were present; misses: {:?}",
            retrieved.misses
        );
        if keep {
            self.held.extend(retrieved.chunks);
            let n_over = self.held.len().saturating_sub(HELD_MAX);
            self.held.drain(..n_over);
        }
        Ok(())
    }

    fn check_retrieved(&mut self, retrieved: &Retrieved, keys: &[ChunkKey], tiers: Choice) -> Result<()> {
        let Retrieved { chunks, tiers: served, .. } = retrieved;
        ensure!(chunks.len() == served.len(), "{} chunks, {} tiers", chunks.len(), served.len());
        ensure!(chunks.len() <= keys.len(), "{} chunks for {} keys", chunks.len(), keys.len());
        for ((chunk, tier), key) in chunks.iter().zip(served).zip(keys) {
            let place = tier.0;
            ensure!(tiers.has(place), "tier {place} served but was not asked");
            ensure!(!self.bypassed[place], "tier {place} served but is bypassed");
            ensure!(chunk.key() == *key, "chunk {} came back for {key}", chunk.key());
            check_bytes(chunk)?;
            ensure!(self.written.contains(key), "{key} was never stored");
            if place == CHAOS_PLACE {
                // The backend did not remove it, and now the CPU tier may have it again.
                self.gone.remove(key);
            }
            ensure!(!self.gone.contains(key), "{key} was removed and came back from tier {place}");
            self.report.served[place] += 1;
        }
        Ok(())
    }

    fn lookup(&mut self, run: Run, tiers: Choice, slot: usize, pin: bool, polls: Option<u32>) -> Result<()> {
        let keys = run.keys();
        let n_before = self.n_sure(&keys, tiers);
        let (storage, chosen, id) = (self.storage.clone(), tiers.tiers(), lookup_id(slot));
        let lookup = if pin {
            self.drive(storage.contains_pinned(&keys, &chosen, &id), polls)
        } else {
            self.drive(storage.contains(&keys, &chosen), polls)
        };
        let Some(lookup) = lookup else {
            self.pins[slot].unsure |= pin && polls != Some(0);
            return Ok(());
        };
        let n_after = self.n_sure(&keys, tiers);
        let n = lookup.n_chunks;
        ensure!(n_before <= n && n <= keys.len(), "{n} of {} found, {n_before} are there", keys.len());
        if !tiers.has(CHAOS_PLACE) || self.bypassed[CHAOS_PLACE] {
            ensure!(n <= n_after, "{n} found, {n_after} are there");
        }
        let mut end = 0;
        for served in &lookup.served {
            let place = served.tier.0;
            ensure!(served.range.start == end && !served.range.is_empty(), "ranges {:?}", lookup.served);
            ensure!(tiers.has(place) && !self.bypassed[place], "tier {place} was not asked");
            end = served.range.end;
            if pin && place == CPU_PLACE {
                self.pins[slot].keys.extend(&keys[served.range.clone()]);
            }
        }
        ensure!(end == n, "ranges end at {end} of {n}");
        self.plans[slot] = Some((run, lookup));
        Ok(())
    }

    fn remove(&mut self, run: Run, tiers: Choice, polls: Option<u32>) -> Result<()> {
        let (storage, keys) = (self.storage.clone(), run.keys());
        let outcome = self.drive(storage.remove(&keys, &tiers.tiers()), polls);
        if tiers.has(CPU_PLACE) && polls != Some(0) {
            self.pins.iter_mut().for_each(|pins| pins.keys.retain(|key| !keys.contains(key)));
            ensure!(self.n_in_cpu(&keys[..1], tiers) == 0, "the CPU tier has what was removed");
        }
        if tiers.has(STEADY_PLACE) && polls != Some(0) {
            // A removal continues without its caller. Until it ends, nothing is certain about these keys.
            self.n_removals += 1;
            let (steady, n) = (Arc::clone(&self.steady), self.n_removals);
            eventually(self.patience, || {
                ensure!(steady.n_removals() >= n, "a removal did not reach the backend");
                Ok(())
            })?;
        }
        match outcome {
            None => return Ok(()),
            Some(Err(error)) => ensure!(error.tier == CHAOS, "{error}"),
            Some(Ok(_)) => {}
        }
        if tiers.has(STEADY_PLACE) {
            let left = keys.iter().find(|key| self.steady.has(**key));
            ensure!(left.is_none(), "{left:?} was removed but is present");
        }
        if tiers == Choice::ALL {
            self.gone.extend(keys);
        }
        Ok(())
    }

    fn clear(&mut self, tiers: Choice, polls: Option<u32>) -> Result<()> {
        let storage = self.storage.clone();
        if self.drive(storage.clear(&tiers.tiers()), polls).is_some() && tiers == Choice::ALL {
            let n_kept = self.chaos.as_ref().map_or(0, |chaos| chaos.n_kept()) + self.held.len();
            let stats = storage.cpu().stats();
            ensure!(stats.entries <= stats.pinned_entries + n_kept, "{stats:?} with {n_kept} held");
        }
        Ok(())
    }

    pub(super) fn expire(&mut self) {
        self.clock.advance(PIN_TIMEOUT + Duration::from_secs(1));
        block_on(self.storage.expire_pins());
        self.pins = Default::default();
    }

    pub(super) fn release_kept(&self) {
        if self.sabotage != Some(Sabotage::KeepMemory)
            && let Some(chaos) = &self.chaos
        {
            chaos.release();
        }
    }

    /// Checks what holds at all times.
    pub(super) fn check(&self) -> Result<()> {
        let cpu = self.storage.cpu();
        cpu.check()?;
        let status = self.storage.status();
        ensure!(status.cpu.allocated_bytes <= status.cpu.capacity_bytes, "{:?}", status.cpu);
        // A quarter of the pool for all backends together, but at least one chunk.
        let budget = (status.cpu.capacity_bytes / 4 / 2).max(2 * 4096);
        for backend in &status.backends {
            ensure!(backend.put_bytes_pending <= budget, "{} bytes wait", backend.put_bytes_pending);
        }
        self.held.iter().try_for_each(check_bytes).context("a chunk that a caller holds")?;
        if self.pins.iter().any(|pins| pins.unsure) {
            return Ok(());
        }
        let mut pinned: BTreeMap<ChunkKey, u32> = BTreeMap::new();
        self.pins.iter().flat_map(|pins| &pins.keys).for_each(|key| *pinned.entry(*key).or_default() += 1);
        for key in (0..N_KEYS).map(|n| spec(n).key) {
            let expected = pinned.get(&key).copied().unwrap_or(0);
            let found = cpu.n_pins(key).unwrap_or(0);
            ensure!(found == expected, "{found} pins on {key} instead of {expected}");
        }
        Ok(())
    }

    /// Returns the length of the run that must be found: chunks in the CPU tier or in the steady one.
    fn n_sure(&self, keys: &[ChunkKey], tiers: Choice) -> usize {
        let steady = tiers.has(STEADY_PLACE) && !self.bypassed[STEADY_PLACE];
        let cpu = self.storage.cpu();
        let has = |key: &&ChunkKey| {
            (tiers.has(CPU_PLACE) && cpu.contains_run(&[**key]) == 1) || (steady && self.steady.has(**key))
        };
        keys.iter().take_while(has).count()
    }

    fn n_in_cpu(&self, keys: &[ChunkKey], tiers: Choice) -> usize {
        if tiers.has(CPU_PLACE) { self.storage.cpu().contains_run(keys) } else { 0 }
    }

    /// Drives an operation to its end, or drops it after a number of polls.
    fn drive<T>(&mut self, future: impl Future<Output = T>, polls: Option<u32>) -> Option<T> {
        let Some(polls) = polls else {
            return Some(block_on(future));
        };
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
                return Some(answer);
            }
        }
        self.report.n_cancelled += 1;
        None
    }
}

fn check_bytes(chunk: &Chunk) -> Result<()> {
    let specs = (0..N_KEYS).map(spec);
    let spec = specs.into_iter().find(|spec| spec.key == chunk.key()).context("a key that no script uses")?;
    ensure!(chunk.len() == spec.size_bytes, "{} bytes instead of {}", chunk.len(), spec.size_bytes);
    kvtier_cli::content::verify(spec.key, chunk).with_context(|| format!("wrong bytes of {}", spec.key))
}

pub(super) fn lookup_id(slot: usize) -> String {
    format!("lookup {slot}")
}

fn chaos_component(setup: &Setup, module_path: &std::path::Path) -> BackendConfig {
    let mut backend = BackendConfig::new(CHAOS, module_path, "ChaosBackend");
    let (seed, rate) = (setup.seed.to_string(), setup.rate_percent.to_string());
    backend.config = vec![("seed".into(), seed), ("rate".into(), rate)];
    // A call that hangs takes as long as its limit.
    backend.limits.call_timeout = Duration::from_millis(200);
    backend.limits.lane_stall = Duration::from_millis(200);
    backend.limits.abandoned_calls_max = 4;
    backend.limits.batch_chunks_max = 3;
    backend
}
