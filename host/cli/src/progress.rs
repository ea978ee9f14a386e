//! The progress bar on the standard error. Hidden if that is not a terminal, so that logs stay clean.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Largest number of drawings per second; a replay may tick hundreds of thousands of times.
const DRAWS_PER_S: u8 = 10;

/// The state of the bar.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows a bar over `n_requests`, or a counter if the number is not known.
    pub fn shown(n_requests: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(n_requests, ProgressDrawTarget::stderr_with_hz(DRAWS_PER_S));
        let template = if n_requests.is_some() {
            "{elapsed_precise} {bar:32} {human_pos}/{human_len} requests, {per_sec}, hit ratio {msg}, {eta} left"
        } else {
            "{elapsed_precise} {spinner} {human_pos} requests, {per_sec}, hit ratio {msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// Counts one request.
    pub fn tick(&self, hit_ratio: f64) {
        self.bar.inc(1);
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{hit_ratio:.4}"));
        }
    }
}

/// The state of a bar over the tests of a check.
pub struct CheckProgress {
    bar: ProgressBar,
}

impl CheckProgress {
    /// Shows a bar.
    pub fn shown() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAWS_PER_S));
        let template = "{elapsed_precise} {bar:32} {human_pos}/{human_len} sentences, {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// Notes which test runs.
    pub fn at(&self, n_done: usize, n_all: usize, sentence: &'static str) {
        self.bar.set_length(n_all as u64);
        self.bar.set_position(n_done as u64);
        self.bar.set_message(sentence);
    }
}

impl Drop for CheckProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
