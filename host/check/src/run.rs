//! Runs the tests one after the other.

use std::hash::{BuildHasher as _, RandomState};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kvtier::BuildError;
use kvtier::memory::PoolError;

use crate::bench;
use crate::judgement::Stop;
use crate::kit::{Ended, Kit, Subject};
use crate::limits::SILENT_TESTS_MAX;
use crate::report::{Outcome, Report, Verdict};
use crate::sentence::{Part, Sentence, sentence, sentences};

/// How much is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Results, order, sizes up to 3 MiB, eviction, restarts, and memory near its limit.
    Quick,
    /// Everything, with figures.
    #[default]
    Full,
}

/// What is checked, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much is checked.
    pub depth: Depth,
    /// The names of the only sentences that are checked, with those that they need. Empty for all.
    pub only: Vec<String>,
    /// How long one call may take, and an instance may stand still. A class that hangs costs this time for each test.
    pub patience: Duration,
    /// The number that all keys follow from. Without it, each check has keys of its own: what an earlier one has left
    /// in the store is not found.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { depth: Depth::Full, only: Vec::new(), patience: Duration::from_secs(10), seed: None }
    }
}

/// How far a check is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Step {
    /// The sentence whose test begins; `None` while figures are taken.
    pub sentence: Option<&'static Sentence>,
    /// How many tests are done.
    pub n_done: usize,
    /// How many there are.
    pub n_all: usize,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// No sentence has this name.
    #[error("no sentence is called `{0}`; `kvtier check --list` names them")]
    UnknownSentence(String),
    /// The component cannot be loaded.
    #[error(transparent)]
    NotLoaded(BuildError),
    /// The component exports no class or several.
    #[error(
        "component {} exports {}",
        path.display(),
        if exported.is_empty() {
            "no class; in Rust, `kvtier_guest::export!(ThingBackend)` exports one".to_owned()
        } else {
            format!("{}; name the class that is to be checked", exported.join(", "))
        }
    )]
    NoOnlyClass {
        /// The component's file.
        path: PathBuf,
        /// Its classes.
        exported: Vec<String>,
    },
    /// There is no memory for chunks.
    #[error("the check's memory cannot be reserved: {0}")]
    Memory(#[source] PoolError),
}

/// The high bits of a drawn seed that are zero: many readers of JSON keep the other 53 bits of a number only.
const SEED_BITS_UNUSED: u32 = 11;

/// Checks a class, and calls `progress` before each test. If it breaks off, the rest is not tried.
///
/// The tests put chunks under keys of their own, in a namespace of their own, and remove them. A store with a capacity
/// is filled, so that it evicts: give it none that is in use.
///
/// # Errors
/// [`CheckError`]. A class that is loaded and does not start is no error: it breaks the sentence `starts`.
pub fn check(
    subject: &Subject,
    options: &Options,
    progress: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> Result<Report, CheckError> {
    let begun = Instant::now();
    let chosen = chosen(options)?;
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> SEED_BITS_UNUSED);
    let mut kit = Kit::new(subject.clone(), options.patience, seed)?;
    kit.load().map_err(CheckError::NotLoaded)?;
    let mut verdicts: Vec<Verdict> = Vec::new();
    let mut n_silent = 0;
    let n_all = chosen.len();
    let mut is_stopped = false;
    for sentence in chosen {
        let step = Step { sentence: Some(sentence), n_done: verdicts.len(), n_all };
        is_stopped = is_stopped || progress(step).is_break();
        let started = Instant::now();
        let outcome = match hindrance(sentence, &verdicts, n_silent) {
            _ if is_stopped => Outcome::NotTried("the check was stopped".to_owned()),
            Some(reason) => Outcome::NotTried(reason),
            None => tried(&mut kit, sentence, &mut n_silent),
        };
        verdicts.push(Verdict { sentence, outcome, elapsed: started.elapsed() });
    }
    let is_kept = !verdicts.iter().any(|verdict| matches!(verdict.outcome, Outcome::Broken(_)));
    let has_figures = is_kept && options.depth == Depth::Full && options.only.is_empty() && !is_stopped;
    let last = Step { sentence: None, n_done: n_all, n_all };
    let figures = if has_figures && progress(last).is_continue() { bench::figures(&mut kit) } else { None };
    kit.drop_instance();
    Ok(Report {
        component: subject.backend.module_path.display().to_string(),
        class_name: subject.backend.class_name.clone(),
        depth: options.depth,
        seed,
        verdicts,
        notes: kit.take_notes(),
        figures,
        elapsed: begun.elapsed(),
    })
}

/// Returns the sentences of a check, in order.
fn chosen(options: &Options) -> Result<Vec<&'static Sentence>, CheckError> {
    if options.only.is_empty() {
        let is_in = |found: &&Sentence| found.part == Part::Quick || options.depth == Depth::Full;
        return Ok(sentences().filter(is_in).collect());
    }
    let mut wanted: Vec<&str> = Vec::new();
    let mut waiting: Vec<&str> = options.only.iter().map(String::as_str).collect();
    while let Some(id) = waiting.pop() {
        let found = sentence(id).ok_or_else(|| CheckError::UnknownSentence(id.to_owned()))?;
        if !wanted.contains(&found.id) {
            wanted.push(found.id);
            waiting.extend(found.needs);
        }
    }
    Ok(sentences().filter(|found| wanted.contains(&found.id)).collect())
}

/// Returns why a test would say nothing, if so.
fn hindrance(sentence: &Sentence, earlier: &[Verdict], n_silent: usize) -> Option<String> {
    if n_silent >= SILENT_TESTS_MAX {
        return Some(format!("it did not answer or start in {n_silent} tests"));
    }
    let broken = earlier.iter().find(|verdict| {
        sentence.needs.contains(&verdict.sentence.id) && !matches!(verdict.outcome, Outcome::Kept)
    })?;
    Some(match &broken.outcome {
        // The reason of the first in a row is the reason of all.
        Outcome::NotTried(reason) => reason.clone(),
        Outcome::Kept | Outcome::Broken(_) => format!("`{}` is broken", broken.sentence.id),
    })
}

fn tried(kit: &mut Kit, sentence: &'static Sentence, n_silent: &mut usize) -> Outcome {
    kit.sentence = sentence.id;
    kit.begin(sentence.id);
    let judgement = (sentence.test)(kit);
    kit.clean_up(match judgement {
        Ok(()) | Err(Stop::NotTried(_)) => Ended::Well,
        Err(Stop::Breach(_)) => Ended::Broken,
        Err(Stop::Silence(_)) => Ended::Silent,
    });
    match judgement {
        Ok(()) => Outcome::Kept,
        Err(Stop::Breach(breach)) => Outcome::Broken(breach),
        Err(Stop::Silence(breach)) => {
            *n_silent += 1;
            Outcome::Broken(breach)
        }
        Err(Stop::NotTried(reason)) => Outcome::NotTried(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_checked_with_those_that_it_needs_and_an_unknown_one_is_refused() {
        let only = |id: &str| chosen(&Options { only: vec![id.to_owned()], ..Options::default() });
        let ids = |chosen: Vec<&Sentence>| chosen.iter().map(|sentence| sentence.id).collect::<Vec<_>>();
        assert_eq!(ids(only("get-length").unwrap_or_default()), ["starts", "put-then-get", "get-length"]);
        assert!(only("gets").is_err_and(|error| error.to_string().contains("`gets`")));
        let quick = chosen(&Options { depth: Depth::Quick, ..Options::default() }).unwrap_or_default();
        let full = chosen(&Options::default()).unwrap_or_default();
        assert!(quick.len() < full.len() && full.len() == sentences().count());
    }
}
