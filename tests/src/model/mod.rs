//! The chain against a reference model: any sequence of operations, with a backend that misbehaves depending on a seed.
//!
//! The chain is the CPU tier, a misbehaving backend ([`Chaos`], or a component with the same faults), and behind it a
//! backend that follows the contract ([`Steady`]). What the model knows for certain must hold: a chunk has the right
//! bytes or is not served; chunks in the CPU tier and the steady backend are found, whatever the backend between them
//! does; removed chunks do not come back; pins, queues, buffers and tasks return to zero.
//!
//! One decoder of bytes ([`Script::decode`]) serves the fuzzer and the seeded generator.

mod chaos;
mod end;
mod run;
mod script;
mod steady;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

pub use chaos::{Chaos, Fault};
pub use script::{Choice, N_KEYS, N_SLOTS, Op, Run, STEPS_MAX, Script, Setup, Step, spec};
pub use steady::Steady;

/// The name of the backend that misbehaves.
pub const CHAOS: &str = "chaos";

/// The name of the backend behind it, which does not.
pub const STEADY: &str = "steady";

/// Tokens of a chunk, for the engine's configuration; the model works on keys.
const CHUNK_SIZE: usize = 16;

/// What misbehaves.
#[derive(Clone, Debug)]
pub enum Misbehaving {
    /// [`Chaos`], in this process.
    Native,
    /// The class `ChaosBackend` of a component.
    Component {
        /// The component's file.
        module_path: PathBuf,
        /// The folder for compiled code.
        cache: PathBuf,
        /// The program that compiles.
        compiler: PathBuf,
    },
}

/// A fault of the host that the model has to notice, which shows that its checks can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Chunks are sealed with a checksum only, and the backend forges them.
    Forge,
    /// The steady backend loses chunks that it reported to have.
    LoseChunks,
    /// The steady backend never drops a pin.
    KeepPins,
    /// A transfer into a buffer never ends.
    KeepMemory,
}

/// The options of a run beside its script.
#[derive(Clone, Debug)]
pub struct Options {
    /// What misbehaves.
    pub misbehaving: Misbehaving,
    /// What is deliberately broken.
    pub sabotage: Option<Sabotage>,
    /// How long to wait at the end for effects in the background.
    pub patience: Duration,
}

impl Options {
    /// Returns the options of a run that should succeed.
    pub fn new(misbehaving: Misbehaving) -> Self {
        Self { misbehaving, sabotage: None, patience: Duration::from_mins(1) }
    }
}

/// Counts of what a run has seen, to show that it tested something.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Chunks served, by the tier's place in the chain.
    pub served: [u64; 3],
    /// Operations whose caller left before the end.
    pub n_cancelled: u64,
    /// How often the native backend misbehaved, by fault.
    pub faults: BTreeMap<Fault, u64>,
    /// Chunks that the misbehaving backend did not serve, by reason.
    pub misses: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.n_cancelled += other.n_cancelled;
        self.served.iter_mut().zip(other.served).for_each(|(sum, n)| *sum += n);
        other.faults.iter().for_each(|(fault, n)| *self.faults.entry(*fault).or_default() += n);
        other.misses.iter().for_each(|(reason, n)| *self.misses.entry(reason).or_default() += n);
    }
}

/// A run in which chain and model disagree.
#[derive(Debug)]
pub struct Failure {
    /// The place: the step's number and operation, or the end.
    pub place: String,
    /// The disagreement.
    pub what: anyhow::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.place, self.what)
    }
}

impl std::error::Error for Failure {}

/// Runs a script, and compares the chain with the model after each step and at the end.
///
/// # Errors
/// The first disagreement.
pub fn run(script: &Script, options: &Options) -> Result<Report, Failure> {
    let failure = |place: String| move |what| Failure { place, what };
    let mut run = run::World::new(&script.setup, options).map_err(failure("at the start".into()))?;
    for (n, step) in script.steps.iter().enumerate() {
        let outcome = run.step(step).and_then(|()| run.check());
        outcome.map_err(failure(format!("step {n}, {step:?}")))?;
    }
    run.finish().map_err(failure("at the end".into()))
}

/// Returns the first number of the generator with the seed `x`. Neighbouring seeds give unrelated numbers.
fn mix(x: u64) -> u64 {
    SplitMix64::seed_from_u64(x).next_u64()
}

/// Yields this many times.
async fn turns(mut n: u32) {
    std::future::poll_fn(|cx| {
        if n == 0 {
            return Poll::Ready(());
        }
        n -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
