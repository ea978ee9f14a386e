//! kvtier's log lines for Python's `logging`. A line is an event like any other: no thread of kvtier calls Python.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::{Event as Line, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::events::{self, Event};

/// Lines that may wait for the thread of events. Further ones are dropped and counted.
const LINES_MAX: usize = 4096;

static N_WAITING: AtomicUsize = AtomicUsize::new(0);
static N_DROPPED: AtomicUsize = AtomicUsize::new(0);
/// Lines above this level are not made: 1 for errors to 5 for traces.
static LEVEL: AtomicU8 = AtomicU8::new(3);

/// Sends log lines to Python from now on. Does nothing if the process's lines go elsewhere already.
pub(crate) fn start() {
    drop(tracing_subscriber::registry().with(ToPython).try_init());
}

/// Forgets the lines of the parent, in a forked child.
pub(crate) fn reset() {
    N_WAITING.store(0, Ordering::Relaxed);
    N_DROPPED.store(0, Ordering::Relaxed);
}

/// Sets the most detailed level that is sent: a number of Python's `logging`.
#[pyfunction]
pub(crate) fn set_log_level(level: u32) {
    let level: u8 = match level {
        0..=4 => 5,
        5..=10 => 4,
        11..=20 => 3,
        21..=30 => 2,
        _ => 1,
    };
    if LEVEL.swap(level, Ordering::Relaxed) != level {
        // Each place in the code remembers whether its lines are wanted.
        tracing::callsite::rebuild_interest_cache();
    }
}

struct ToPython;

impl<S: Subscriber> Layer<S> for ToPython {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("kvtier") && number(*metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn on_event(&self, line: &Line<'_>, _: Context<'_, S>) {
        if N_WAITING.fetch_add(1, Ordering::Relaxed) >= LINES_MAX {
            N_WAITING.fetch_sub(1, Ordering::Relaxed);
            N_DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut text = Text::default();
        line.record(&mut text);
        let target = line.metadata().target().replace("::", ".");
        let level = match *line.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            Level::DEBUG => 10,
            Level::TRACE => 5,
        };
        events::push(Event::Call(Box::new(move |py| {
            N_WAITING.fetch_sub(1, Ordering::Relaxed);
            let n_dropped = N_DROPPED.swap(0, Ordering::Relaxed);
            let message = format!("{}{}", text.message, text.fields);
            (py.import("kvtier._lifecycle")?.getattr("log")?, level, target, message, n_dropped)
                .into_pyobject(py)
        })));
    }
}

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// The message of a line, and its fields as ` name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
