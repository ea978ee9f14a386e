//! One class and its instances, and what the tests share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvtier::memory::{Pool, Provider};
use kvtier::tier::{BLOCKING_FILES_NOTE, Liveness, Sealer, Tier};
use kvtier::{
    BackendConfig, BuildError, ChunkKey, ClassError, Config, Dtype, EngineMetadata, KvShape, LoadError,
    Namespace, block_on, start_backend,
};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

use crate::CheckError;
use crate::full::Fill;
use crate::judgement::{Judgement, Stop, answered, breach, silence};
use crate::limits::POOL_BYTES;
use crate::report::Note;

/// The class that is checked.
#[derive(Clone, Debug)]
pub struct Subject {
    /// How components are compiled, and the number of lane threads.
    pub config: Config,
    /// The component, the class, its settings, grants and limits.
    pub backend: BackendConfig,
}

impl Subject {
    /// Names the class that is checked. Uses from `config` how components are compiled, and the number of lane threads.
    pub fn new(config: Config, backend: BackendConfig) -> Self {
        Self { config, backend }
    }

    /// Names the only class of the component, whatever `backend.class_name` is.
    ///
    /// # Errors
    /// If the component cannot be loaded, and [`CheckError::NoOnlyClass`] if it exports no class or several.
    pub fn with_only_class(config: Config, mut backend: BackendConfig) -> Result<Self, CheckError> {
        // Not the name of a class, so that the answer lists those that there are. Runs none of the guest's code.
        NO_CLASS.clone_into(&mut backend.class_name);
        let exported = match start(&config, backend.clone()) {
            Err(BuildError::Load {
                source: LoadError::Class { source: ClassError::NotExported { exported, .. }, .. },
                ..
            }) => exported,
            Err(error) => return Err(CheckError::NotLoaded(error)),
            Ok(_) => vec![NO_CLASS.to_owned()],
        };
        match exported.as_slice() {
            [only] => backend.class_name.clone_from(only),
            _ => return Err(CheckError::NoOnlyClass { path: backend.module_path, exported }),
        }
        Ok(Self { config, backend })
    }
}

/// The name of no class: resources have no digit in front.
const NO_CLASS: &str = "0";

/// Does not listen: the tests look at the tier's health.
struct Deaf;

impl Liveness for Deaf {
    fn down(&self, _: &str, _: Duration) {}
    fn up(&self) {}
}

/// How a test ended, for what becomes of its chunks and of the instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The sentence is kept, or was not tried.
    Well,
    /// It is broken.
    Broken,
    /// No answer came.
    Silent,
}

/// The class under test, and its current instance.
pub(crate) struct Kit {
    subject: Subject,
    patience: Duration,
    pub(crate) memory: Arc<dyn Provider>,
    pub(crate) sealer: Sealer,
    seed: u64,
    random: Xoshiro256PlusPlus,
    instance: Option<Arc<dyn Tier>>,
    /// The keys that the current test has stored.
    pub(crate) stored: Vec<ChunkKey>,
    notes: Vec<Note>,
    /// The sentence under test.
    pub(crate) sentence: &'static str,
    /// What became of filling the store, which several tests look at.
    pub(crate) fill: Option<Fill>,
    /// Whether chunks outlive an instance, as the test of restarts has found.
    pub(crate) persists: bool,
    /// How long the last start took.
    pub(crate) start_time: Duration,
}

impl Kit {
    /// Prepares for tests whose keys follow from `seed`.
    pub(crate) fn new(subject: Subject, patience: Duration, seed: u64) -> Result<Self, CheckError> {
        let memory = Pool::new(POOL_BYTES).map_err(CheckError::Memory)?;
        Ok(Self {
            subject: Subject { backend: patient(subject.backend, patience), ..subject },
            patience,
            memory: Arc::new(memory),
            sealer: Sealer::checksum(Namespace::new(&metadata())),
            seed,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            instance: None,
            stored: Vec::new(),
            notes: Vec::new(),
            sentence: "",
            fill: None,
            persists: false,
            start_time: Duration::ZERO,
        })
    }

    /// Begins with a part of the check. Its keys depend on its name and the seed, and not on the parts before.
    pub(crate) fn begin(&mut self, part: &str) {
        const FNV_PRIME: u64 = 0x100_0000_01b3;
        let mix = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        self.random = Xoshiro256PlusPlus::seed_from_u64(part.bytes().fold(self.seed, mix));
    }

    /// Returns the configuration of the backend.
    pub(crate) fn backend(&self) -> &BackendConfig {
        &self.subject.backend
    }

    /// Returns how components are compiled.
    pub(crate) fn config(&self) -> &Config {
        &self.subject.config
    }

    /// Returns `N` keys that nobody has used.
    pub(crate) fn keys<const N: usize>(&mut self) -> [ChunkKey; N] {
        std::array::from_fn(|_| self.key())
    }

    /// Returns `n` keys that nobody has used.
    pub(crate) fn many_keys(&mut self, n: usize) -> Vec<ChunkKey> {
        (0..n).map(|_| self.key()).collect()
    }

    fn key(&mut self) -> ChunkKey {
        ChunkKey { hi: self.random.next_u64(), lo: self.random.next_u64() }
    }

    /// Notes what is allowed and worth knowing, once, whatever the number of tests that notice it.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let note = Note { sentence: self.sentence, text: text.into() };
        if !self.notes.iter().any(|known| known.text == note.text) {
            self.notes.push(note);
        }
    }

    /// Takes the notes.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Returns the time by which a call has to answer.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Returns the instance, and starts one if there is none.
    pub(crate) fn tier(&mut self) -> Result<Arc<dyn Tier>, Stop> {
        if let Some(tier) = &self.instance {
            return Ok(Arc::clone(tier));
        }
        let started = Instant::now();
        let tier = start(&self.subject.config, self.subject.backend.clone());
        self.start_time = started.elapsed();
        // Every further test would wait for a start in vain.
        let tier = tier.map_err(|error| silence("constructor and open", "ok", error))?;
        self.instance = Some(Arc::clone(&tier));
        Ok(tier)
    }

    /// Starts the first instance.
    ///
    /// # Errors
    /// If the component cannot be loaded. That a class does not start is found again by its test.
    pub(crate) fn load(&mut self) -> Result<(), BuildError> {
        match start(&self.subject.config, self.subject.backend.clone()) {
            Ok(tier) => self.instance = Some(tier),
            Err(BuildError::Load { source: LoadError::NotStarted { .. }, .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Ends the instance without `close`, as the end of a process does. The next call starts another.
    pub(crate) fn drop_instance(&mut self) {
        drop(self.take_instance());
    }

    /// Takes the instance, and notes what it has done.
    fn take_instance(&mut self) -> Option<Arc<dyn Tier>> {
        let tier = self.instance.take()?;
        if tier.health().notes.iter().any(|note| note.name == BLOCKING_FILES_NOTE) {
            self.note(
                "it blocks its instance to read or write files, as std::fs and the like do, and its other calls wait \
                 for that: use kvtier's directories and splices, or WASI 0.3",
            );
        }
        Some(tier)
    }

    /// Closes the instance. The next call starts another.
    pub(crate) fn close(&mut self) -> Judgement {
        let deadline = self.deadline();
        match self.take_instance() {
            Some(tier) => answered("close()", "ok", block_on(tier.close(deadline))),
            None => Ok(()),
        }
    }

    /// Closes the instance, whatever close answers. The next call starts another.
    pub(crate) fn renew(&mut self) {
        if let Some(tier) = self.take_instance() {
            // A test of its own looks at close.
            block_on(tier.close(self.deadline())).unwrap_or_default();
        }
    }

    /// Requires that the instance has not died since its start.
    pub(crate) fn alive(&mut self, call: &str) -> Judgement {
        let health = self.tier()?.health();
        let cause = health.last_restart.or(health.down);
        match cause {
            Some(cause) => Err(breach(call, "the instance lives", format!("it was replaced: {cause}"))),
            None => Ok(()),
        }
    }

    /// Removes what a test has stored, unless the class did not answer. An instance that has died, or that broke a
    /// sentence, is replaced.
    pub(crate) fn clean_up(&mut self, ended: Ended) {
        let keys = std::mem::take(&mut self.stored);
        if self.instance.is_none() && !keys.is_empty() && ended != Ended::Silent {
            // A test of starts looks at the error.
            drop(self.tier());
        }
        let Some(tier) = self.instance.clone() else { return };
        let health = tier.health();
        let has_died = health.lane_restarts > 0 || health.down.is_some();
        // A class need not have `remove`, and one that breaks it fails the test of that.
        let is_removed = keys.is_empty()
            || (ended != Ended::Silent && block_on(tier.remove(keys.into(), self.deadline())).is_ok());
        if has_died || ended != Ended::Well || !is_removed {
            self.drop_instance();
        }
    }
}

/// Starts an instance.
pub(crate) fn start(config: &Config, backend: BackendConfig) -> Result<Arc<dyn Tier>, BuildError> {
    block_on(start_backend(config, backend, metadata(), Arc::new(Deaf)))
}

/// Raises the time limits to the check's patience: a busy machine is no breach.
fn patient(mut backend: BackendConfig, patience: Duration) -> BackendConfig {
    let limits = &mut backend.limits;
    for limit in [
        &mut limits.call_timeout,
        &mut limits.open_timeout,
        &mut limits.close_timeout,
        &mut limits.lane_stall,
    ] {
        *limit = patience.max(*limit);
    }
    backend
}

/// Returns the metadata of the check: keys of its namespace are no serving engine's.
fn metadata() -> EngineMetadata {
    let kv_shape = KvShape::new([1, 1, 16, 1, 1]);
    EngineMetadata {
        model_name: "kvtier-check".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::UInt8,
        kv_shape: kv_shape.unwrap_or_else(|error| unreachable!("the shape is right: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn kit(seed: u64) -> Kit {
        let backend = BackendConfig::new("check", PathBuf::from("none.wasm"), "Backend");
        Kit::new(Subject::new(Config::default(), backend), Duration::ZERO, seed).unwrap()
    }

    #[test]
    fn the_keys_of_a_sentence_follow_from_the_seed_whatever_came_before() {
        let (mut alone, mut late, mut other) = (kit(1), kit(1), kit(2));
        late.begin("starts");
        late.many_keys(10);
        for kit in [&mut alone, &mut late, &mut other] {
            kit.begin("put-then-get");
        }
        let keys = alone.keys::<3>();
        assert_eq!(keys, late.keys::<3>());
        assert_ne!(keys, other.keys::<3>());
        alone.begin("get-length");
        assert_ne!(keys, alone.keys::<3>());
    }
}
