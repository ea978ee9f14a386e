//! The parts' tool for measuring: candidates in, rows and series out.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::report::{Figure, Quantity, Report, Row, Series, Target};
use crate::sample::{Effort, Samples, Take, in_turns};

/// Where things are, and how thorough the run is.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) is_quick: bool,
    /// The components.
    pub(crate) guests: PathBuf,
    /// A folder for files that are written and read, on the file system to be measured.
    pub(crate) scratch: PathBuf,
    /// The trace to replay, if not a generated one.
    pub(crate) trace: Option<PathBuf>,
    /// The program that has the other caches in it.
    pub(crate) peers: Option<PathBuf>,
}

/// One run of the benches.
pub(crate) struct Bench {
    pub(crate) setting: Setting,
    pub(crate) report: Report,
    part: &'static str,
}

/// A thing to measure. The first candidate is ours, the others are its references.
pub(crate) struct Candidate<'a> {
    name: String,
    take: Take<'a, 1>,
}

/// Makes a candidate from a closure that takes one sample and returns its seconds.
pub(crate) fn candidate<'a>(name: impl Into<String>, mut take: impl FnMut() -> f64 + 'a) -> Candidate<'a> {
    Candidate { name: name.into(), take: Box::new(move || [take()]) }
}

/// The subject of a row.
pub(crate) struct About {
    what: String,
    quantity: Quantity,
    target: Option<Target>,
    note: String,
    effort: Effort,
}

impl About {
    /// A time.
    pub(crate) fn time(what: impl Into<String>) -> Self {
        Self::new(what, Quantity::Time)
    }

    /// A quantity that is computed from a sample's seconds.
    pub(crate) fn new(what: impl Into<String>, quantity: Quantity) -> Self {
        Self { what: what.into(), quantity, target: None, note: String::new(), effort: Effort::SHORT }
    }

    pub(crate) fn target(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }

    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    pub(crate) fn effort(self, effort: Effort) -> Self {
        Self { effort, ..self }
    }
}

impl Bench {
    pub(crate) fn new(setting: Setting) -> Self {
        let report = Report { is_quick: setting.is_quick, ..Report::default() };
        Self { setting, report, part: "" }
    }

    /// Runs one part.
    pub(crate) fn part(&mut self, name: &'static str, run: fn(&mut Self) -> Result<()>) -> Result<()> {
        self.part = name;
        self.report.parts.push(name);
        run(self).with_context(|| format!("part `{name}`"))
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.setting.is_quick
    }

    /// Returns the size for real figures, or the size for a run that only shows that everything works.
    pub(crate) fn pick<T>(&self, thorough: T, quick: T) -> T {
        if self.is_quick() { quick } else { thorough }
    }

    /// Measures candidates in turns, the first one as the row's own figure.
    pub(crate) fn row(&mut self, about: About, candidates: Vec<Candidate<'_>>) {
        self.progress(&about.what);
        let (names, mut takes): (Vec<String>, Vec<_>) =
            candidates.into_iter().map(|candidate| (candidate.name, candidate.take)).unzip();
        let samples = in_turns(self.effort(about.effort), &mut takes);
        let figures = samples.iter().map(|[samples]| Figure::new(about.quantity, samples));
        let mut figures = names.into_iter().zip(figures);
        if let Some((_, figure)) = figures.next() {
            self.add_row(about.what, figure, figures.collect(), about.target, about.note);
        }
    }

    /// Adds a row whose figures were measured together with others.
    pub(crate) fn add_row(
        &mut self,
        what: impl Into<String>,
        figure: Figure,
        references: Vec<(String, Figure)>,
        target: Option<Target>,
        note: impl Into<String>,
    ) {
        let row = Row { part: self.part, what: what.into(), figure, references, target, note: note.into() };
        self.report.rows.push(row);
    }

    /// Measures candidates in turns at one point of a series. Each candidate's name is its line.
    pub(crate) fn point(
        &self,
        series: &mut Series,
        at: u64,
        quantity: Quantity,
        candidates: Vec<Candidate<'_>>,
    ) {
        self.progress(&format!("{}: {at}", series.title));
        let (names, mut takes): (Vec<String>, Vec<_>) =
            candidates.into_iter().map(|candidate| (candidate.name, candidate.take)).unzip();
        let effort = Effort { time: Effort::SHORT.time / 2, ..Effort::SHORT };
        for (name, [samples]) in names.iter().zip(in_turns(self.effort(effort), &mut takes)) {
            series.push(name, at, Figure::new(quantity, &samples));
        }
    }

    /// Measures candidates that yield several figures at a time.
    pub(crate) fn measure<const K: usize>(
        &self,
        what: &str,
        effort: Effort,
        takes: &mut [Take<'_, K>],
    ) -> Vec<[Samples; K]> {
        self.progress(what);
        in_turns(self.effort(effort), takes)
    }

    /// Makes an empty series of this part.
    pub(crate) fn series(&self, title: impl Into<String>, over: &'static str, quantity: Quantity) -> Series {
        Series::new(self.part, title, over, quantity.unit())
    }

    pub(crate) fn add_series(&mut self, series: Series) {
        self.report.series.push(series);
    }

    /// Shows the current measurement on a terminal.
    pub(crate) fn progress(&self, what: &str) {
        let mut stderr = std::io::stderr();
        if stderr.is_terminal() {
            let part = if what.is_empty() { "" } else { self.part };
            // A progress line that cannot be drawn does no harm.
            drop(write!(stderr, "\r\x1b[K{part} {what}").and_then(|()| stderr.flush()));
        }
    }

    fn effort(&self, thorough: Effort) -> Effort {
        self.pick(thorough, Effort::QUICK)
    }
}
