//! A native tier whose answers a test decides: it can lose or damage chunks that it claims to have, and hold puts and
//! gets back until the test releases them. It records every call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvtier::tier::{Pinning, Sinks, Sources, Tier, TierError, TierFuture};
use kvtier::{ChunkKey, Config, Engine, EngineBuilder, EngineMetadata, block_on};
use tokio::sync::Semaphore;

/// A call that the tier has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Contains(Vec<ChunkKey>, Pinning),
    Put(Vec<ChunkKey>),
    Get(Vec<ChunkKey>),
    Pin(Vec<ChunkKey>),
    Unpin(Vec<ChunkKey>),
    Remove(Vec<ChunkKey>),
    Close,
}

#[derive(Default)]
struct Store {
    chunks: BTreeMap<ChunkKey, Vec<u8>>,
    lost: BTreeSet<ChunkKey>,
    broken: BTreeSet<ChunkKey>,
    held: BTreeSet<ChunkKey>,
    expiring: BTreeSet<ChunkKey>,
    unremovable: BTreeSet<ChunkKey>,
    heard: Vec<Heard>,
    /// For each get, the thread that it ran on and its time limit.
    gets: Vec<(Option<String>, Duration)>,
}

/// The capacity that the tier states.
#[derive(Clone, Copy)]
pub(crate) struct Takes {
    pub(crate) batch_chunks: usize,
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

impl Default for Takes {
    fn default() -> Self {
        Self { batch_chunks: 64, calls: usize::MAX, bytes: usize::MAX }
    }
}

/// The gets that are running.
#[derive(Default)]
struct Inside {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct IsInside<'a>(&'a Inside);

impl Inside {
    fn enter(&self) -> IsInside<'_> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        IsInside(self)
    }
}

impl Drop for IsInside<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The tier. Keeps everything, unless a test says otherwise.
pub(crate) struct Scripted {
    store: Mutex<Store>,
    gate: Semaphore,
    arrived: Semaphore,
    get_gate: Semaphore,
    gets_arrived: Semaphore,
    gets_inside: Inside,
    takes: Takes,
    fails_lookups: AtomicBool,
    holds_lookups: AtomicBool,
    refuses_puts: AtomicBool,
    has_no_pins: AtomicBool,
    dead: AtomicBool,
    wasteful: AtomicBool,
}

impl Scripted {
    /// Makes a tier that works.
    pub(crate) fn new() -> Arc<Self> {
        Self::taking(Takes::default())
    }

    /// Makes a tier that works, and states this capacity.
    pub(crate) fn taking(takes: Takes) -> Arc<Self> {
        let tier = Self::with_gate_shut(takes);
        tier.open_gate();
        tier
    }

    /// Makes a tier whose puts wait at the gate, and carry at most this many chunks.
    pub(crate) fn gated(batch_chunks_max: usize) -> Arc<Self> {
        Self::with_gate_shut(Takes { batch_chunks: batch_chunks_max, ..Takes::default() })
    }

    fn with_gate_shut(takes: Takes) -> Arc<Self> {
        let [gate, arrived, get_gate, gets_arrived] = [0; 4].map(Semaphore::new);
        let [fails_lookups, holds_lookups, refuses_puts, has_no_pins, dead, wasteful] =
            [false; 6].map(AtomicBool::new);
        let (store, gets_inside) = (Mutex::default(), Inside::default());
        Arc::new(Self {
            store,
            gate,
            arrived,
            get_gate,
            gets_arrived,
            gets_inside,
            takes,
            fails_lookups,
            holds_lookups,
            refuses_puts,
            has_no_pins,
            dead,
            wasteful,
        })
    }

    /// Lets all puts through, now and later.
    pub(crate) fn open_gate(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Waits until this many more puts have reached the gate.
    pub(crate) fn wait_for_puts(&self, n: u32) {
        block_on(self.arrived.acquire_many(n)).unwrap().forget();
    }

    /// Makes gets of these keys wait until [`Scripted::let_gets_go`], whatever their deadline.
    pub(crate) fn hold_gets(&self, keys: &[ChunkKey]) {
        self.store.lock().unwrap().held.extend(keys);
    }

    /// Lets all gets through, now and later.
    pub(crate) fn let_gets_go(&self) {
        self.get_gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Makes gets of `key` end without an answer.
    pub(crate) fn let_expire(&self, key: ChunkKey) {
        self.store.lock().unwrap().expiring.insert(key);
    }

    /// Waits until this many more gets have begun.
    pub(crate) fn wait_for_gets(&self, n: u32) {
        block_on(self.gets_arrived.acquire_many(n)).unwrap().forget();
    }

    /// Returns the largest number of gets that ran at once.
    pub(crate) fn gets_at_once(&self) -> usize {
        self.gets_inside.most.load(Ordering::SeqCst)
    }

    /// Still claims to have `key`, but delivers a miss.
    pub(crate) fn lose(&self, key: ChunkKey) {
        self.store.lock().unwrap().lost.insert(key);
    }

    /// Still claims to have `key`, but returns an error.
    pub(crate) fn spoil(&self, key: ChunkKey) {
        self.store.lock().unwrap().broken.insert(key);
    }

    /// Answers lookups with an error from now on.
    pub(crate) fn fail_lookups(&self) {
        self.fails_lookups.store(true, Ordering::SeqCst);
    }

    /// Makes lookups wait until [`Scripted::let_gets_go`], whatever their deadline.
    pub(crate) fn hold_lookups(&self) {
        self.holds_lookups.store(true, Ordering::SeqCst);
    }

    /// Makes removals of these keys wait until [`Scripted::let_gets_go`], whatever their deadline.
    pub(crate) fn hold_removals(&self, keys: &[ChunkKey]) {
        self.store.lock().unwrap().unremovable.extend(keys);
    }

    /// Refuses puts, or accepts them again; continues to serve.
    pub(crate) fn refuse_puts(&self, refuses: bool) {
        self.refuses_puts.store(refuses, Ordering::SeqCst);
    }

    /// Changes a byte of the chunk stored under `key`.
    pub(crate) fn damage(&self, key: ChunkKey) {
        self.store.lock().unwrap().chunks.get_mut(&key).unwrap()[0] ^= 1;
    }

    /// Answers every call with an error until it is revived; keeps its chunks.
    pub(crate) fn set_dead(&self, dead: bool) {
        self.dead.store(dead, Ordering::SeqCst);
    }

    /// Makes it move every byte twice.
    pub(crate) fn set_wasteful(&self, wasteful: bool) {
        self.wasteful.store(wasteful, Ordering::SeqCst);
    }

    /// From now on, answers that it does not pin.
    pub(crate) fn do_not_pin(&self) {
        self.has_no_pins.store(true, Ordering::SeqCst);
    }

    fn pins(&self) -> Result<(), TierError> {
        if self.has_no_pins.load(Ordering::SeqCst) { Err(TierError::Unsupported) } else { Ok(()) }
    }

    fn n_moves(&self) -> usize {
        if self.wasteful.load(Ordering::SeqCst) { 2 } else { 1 }
    }

    fn alive(&self) -> Result<(), TierError> {
        if self.dead.load(Ordering::SeqCst) { Err(TierError::Unavailable("dead".into())) } else { Ok(()) }
    }

    pub(crate) fn has(&self, key: ChunkKey) -> bool {
        self.store.lock().unwrap().chunks.contains_key(&key)
    }

    pub(crate) fn payload(&self, key: ChunkKey, n_bytes: usize) -> Vec<u8> {
        self.store.lock().unwrap().chunks[&key][..n_bytes].to_vec()
    }

    /// Returns the calls received since the last time.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.store.lock().unwrap().heard)
    }

    /// Returns the keys of the puts received since the last time, in the order of the keys.
    pub(crate) fn put_keys(&self) -> Vec<ChunkKey> {
        let puts = self.heard().into_iter().filter_map(|heard| match heard {
            Heard::Put(keys) => Some(keys),
            _ => None,
        });
        let mut keys: Vec<ChunkKey> = puts.flatten().collect();
        keys.sort();
        keys
    }

    fn count(&self, keys: &[ChunkKey]) -> usize {
        let store = self.store.lock().unwrap();
        keys.iter().take_while(|key| store.chunks.contains_key(key)).count()
    }

    fn hear(&self, heard: Heard) {
        self.store.lock().unwrap().heard.push(heard);
    }

    fn keep(&self, key: ChunkKey, data: &Sources, index: usize) -> Result<(), TierError> {
        let revoked = |error: kvtier::tier::TransferError| TierError::Other(error.to_string());
        let sealed = data.chunk(index).map_err(revoked)?;
        for _ in 0..self.n_moves() {
            let bytes = sealed.bytes(0..sealed.size_bytes()).map_err(revoked)?.to_vec();
            self.store.lock().unwrap().chunks.entry(key).or_insert(bytes);
        }
        Ok(())
    }

    /// Returns the thread and the time limit of each get since the last time.
    pub(crate) fn gets(&self) -> Vec<(Option<String>, Duration)> {
        std::mem::take(&mut self.store.lock().unwrap().gets)
    }

    /// Returns how many gets are running.
    pub(crate) fn gets_inside(&self) -> usize {
        self.gets_inside.now.load(Ordering::SeqCst)
    }

    fn deliver(&self, key: ChunkKey, into: &Sinks, index: usize) -> Result<Option<u64>, TierError> {
        let store = self.store.lock().unwrap();
        if store.broken.contains(&key) {
            return Err(TierError::Other("spoilt".into()));
        }
        let Some(bytes) = store.chunks.get(&key).filter(|_| !store.lost.contains(&key)) else {
            return Ok(None);
        };
        for _ in 0..self.n_moves() {
            into.lease(index).unwrap().write(0, bytes).unwrap();
        }
        Ok(Some(bytes.len() as u64))
    }
}

fn ready<T: Send + 'static>(answer: T) -> TierFuture<'static, T> {
    Box::pin(std::future::ready(answer))
}

impl Tier for Scripted {
    fn contains(
        &self,
        keys: Arc<[ChunkKey]>,
        pinning: Pinning,
        _deadline: Instant,
    ) -> TierFuture<'_, Result<usize, TierError>> {
        self.hear(Heard::Contains(keys.to_vec(), pinning));
        if pinning == Pinning::Pin && self.has_no_pins.load(Ordering::SeqCst) {
            return ready(Err(TierError::Unsupported));
        }
        if self.fails_lookups.load(Ordering::SeqCst) {
            return ready(Err(TierError::Unavailable("on purpose".into())));
        }
        if self.holds_lookups.load(Ordering::SeqCst) {
            return Box::pin(async move {
                let _through = self.get_gate.acquire().await.unwrap();
                self.alive().map(|()| self.count(&keys))
            });
        }
        ready(self.alive().map(|()| self.count(&keys)))
    }

    fn put(
        &self,
        keys: Arc<[ChunkKey]>,
        data: Sources,
        _deadline: Instant,
    ) -> TierFuture<'_, Result<Vec<Result<(), TierError>>, TierError>> {
        self.hear(Heard::Put(keys.to_vec()));
        self.arrived.add_permits(1);
        Box::pin(async move {
            let _through = self.gate.acquire().await.unwrap();
            self.alive()?;
            if self.refuses_puts.load(Ordering::SeqCst) {
                return Ok(keys.iter().map(|_| Err(TierError::Other("read-only".into()))).collect());
            }
            Ok(keys.iter().enumerate().map(|(index, key)| self.keep(*key, &data, index)).collect())
        })
    }

    fn get(
        &self,
        keys: Arc<[ChunkKey]>,
        into: Sinks,
        deadline: Instant,
    ) -> TierFuture<'_, Result<Vec<Result<Option<u64>, TierError>>, TierError>> {
        Box::pin(async move {
            self.hear(Heard::Get(keys.to_vec()));
            let thread = std::thread::current().name().map(str::to_owned);
            let given = deadline.saturating_duration_since(Instant::now());
            self.store.lock().unwrap().gets.push((thread, given));
            let _inside = self.gets_inside.enter();
            self.gets_arrived.add_permits(1);
            let (is_held, expires) = {
                let store = self.store.lock().unwrap();
                let any = |of: &BTreeSet<ChunkKey>| keys.iter().any(|key| of.contains(key));
                (any(&store.held), any(&store.expiring))
            };
            if is_held {
                let _through = self.get_gate.acquire().await.unwrap();
            }
            if expires {
                return Err(TierError::Timeout(Duration::from_secs(1)));
            }
            let deliver = |(index, key): (usize, &ChunkKey)| self.deliver(*key, &into, index);
            self.alive().map(|()| keys.iter().enumerate().map(deliver).collect())
        })
    }

    fn pin(&self, keys: Arc<[ChunkKey]>, _deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        self.hear(Heard::Pin(keys.to_vec()));
        ready(self.alive().and_then(|()| self.pins()).map(|()| self.count(&keys)))
    }

    fn unpin(&self, keys: Arc<[ChunkKey]>, _deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        self.hear(Heard::Unpin(keys.to_vec()));
        ready(self.alive().and_then(|()| self.pins()).map(|()| keys.len()))
    }

    fn remove(&self, keys: Arc<[ChunkKey]>, _deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        self.hear(Heard::Remove(keys.to_vec()));
        if let Err(error) = self.alive() {
            return ready(Err(error));
        }
        Box::pin(async move {
            let is_held = {
                let store = self.store.lock().unwrap();
                keys.iter().any(|key| store.unremovable.contains(key))
            };
            if is_held {
                let _through = self.get_gate.acquire().await.unwrap();
            }
            let mut store = self.store.lock().unwrap();
            Ok(keys.iter().filter(|key| store.chunks.remove(key).is_some()).count())
        })
    }

    fn close(&self, _deadline: Instant) -> TierFuture<'_, Result<(), TierError>> {
        self.hear(Heard::Close);
        ready(Ok(()))
    }

    fn batch_chunks_max(&self) -> usize {
        self.takes.batch_chunks
    }

    fn calls_in_flight_max(&self) -> usize {
        self.takes.calls
    }

    fn bytes_in_flight_max(&self) -> usize {
        self.takes.bytes
    }

    fn call_limit(&self, _bytes: usize) -> Duration {
        Duration::from_mins(1)
    }
}

/// Builds an engine with scripted tiers behind the configured ones.
pub(crate) fn engine_over(
    config: Config,
    metadata: EngineMetadata,
    tiers: &[(&str, &Arc<Scripted>)],
) -> Engine {
    let mut builder = EngineBuilder::new(config, metadata);
    for (name, tier) in tiers {
        builder = builder.tier(*name, Arc::clone(*tier) as Arc<dyn Tier>);
    }
    builder.build_blocking().unwrap()
}
