//! The result of a check.

use std::fmt;
use std::time::Duration;

use crate::bench::Figures;
use crate::judgement::Breach;
use crate::run::Depth;
use crate::sentence::Sentence;

/// What became of one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend keeps it.
    Kept,
    /// The backend breaks it.
    Broken(Breach),
    /// Its test says nothing about this backend, and why.
    NotTried(String),
}

/// One sentence, and what became of it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The sentence.
    pub sentence: &'static Sentence,
    /// What became of it.
    pub outcome: Outcome,
    /// How long its test took.
    pub elapsed: Duration,
}

/// What the contract allows, and its author or operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The sentence whose test has noticed it.
    pub sentence: &'static str,
    /// The text.
    pub text: String,
}

/// The result of a check.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The component's file.
    pub component: String,
    /// The class.
    pub class_name: String,
    /// What the check included.
    pub depth: Depth,
    /// The number that the keys follow from.
    pub seed: u64,
    /// One for each sentence that the check includes, in order.
    pub verdicts: Vec<Verdict>,
    /// What is allowed and worth knowing.
    pub notes: Vec<Note>,
    /// Speed and memory, in a full check of a backend that keeps all sentences.
    pub figures: Option<Figures>,
    /// How long the check took.
    pub elapsed: Duration,
}

impl Report {
    /// Reports whether the backend keeps every sentence that was tried.
    pub fn is_kept(&self) -> bool {
        self.broken().next().is_none()
    }

    /// Returns the sentences that the backend breaks, and how.
    pub fn broken(&self) -> impl Iterator<Item = (&'static Sentence, &Breach)> {
        self.verdicts.iter().filter_map(|verdict| match &verdict.outcome {
            Outcome::Broken(breach) => Some((verdict.sentence, breach)),
            Outcome::Kept | Outcome::NotTried(_) => None,
        })
    }

    /// Returns the sentences that were not tried, and why.
    pub fn not_tried(&self) -> impl Iterator<Item = (&'static Sentence, &str)> {
        self.verdicts.iter().filter_map(|verdict| match &verdict.outcome {
            Outcome::NotTried(reason) => Some((verdict.sentence, reason.as_str())),
            Outcome::Kept | Outcome::Broken(_) => None,
        })
    }

    /// Returns how many sentences the backend keeps.
    pub fn n_kept(&self) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Kept).count()
    }
}

/// Lists the broken sentences: what was called, what was expected and found, why that happens, and how to do it right.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sentence, breach) in self.broken() {
            writeln!(f, "BROKEN {} ({}): {}", sentence.id, sentence.method, sentence.text)?;
            writeln!(f, "  call      {}", breach.call)?;
            writeln!(f, "  expected  {}", breach.expected)?;
            writeln!(f, "  found     {}", breach.found)?;
            if let Some(hint) = breach.hint() {
                writeln!(f, "  first     {hint}")?;
            }
            writeln!(f, "  likely    {}", sentence.cause)?;
            writeln!(f, "  do        {}", sentence.remedy)?;
        }
        Ok(())
    }
}
