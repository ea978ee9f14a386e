//! The outcome of a target, and the table of outcomes.

use std::path::PathBuf;

/// The outcome of one target.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    name: String,
    executions: u64,
    executions_per_s: u64,
    /// Inputs that the run added to the corpus.
    n_new: usize,
    /// Inputs in the corpus.
    n_corpus: usize,
    /// The inputs that crashed, took too long or too much memory.
    pub(super) crashes: Vec<PathBuf>,
}

/// Keeps the lines that [`Outcome::read`] needs: the last line of progress, and the statistics.
pub(super) fn keep(text: &mut String, line: &str) {
    if line.starts_with('#') {
        text.clear();
    }
    if line.starts_with('#') || line.starts_with("stat::") {
        text.push_str(line);
        text.push('\n');
    }
}

impl Outcome {
    /// Reads the numbers from the lines that [`keep`] kept. A run that crashed has progress but no statistics.
    pub(super) fn read(
        name: &str,
        text: &str,
        n_before: usize,
        n_corpus: usize,
        crashes: Vec<PathBuf>,
    ) -> Self {
        let number = |word: &str| word.parse().unwrap_or(0);
        let mut outcome = Self {
            name: name.to_owned(),
            n_new: n_corpus.saturating_sub(n_before),
            n_corpus,
            crashes,
            ..Self::default()
        };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["stat::number_of_executed_units:", n] => outcome.executions = number(n),
                ["stat::average_exec_per_sec:", n] => outcome.executions_per_s = number(n),
                [count, ..] if count.starts_with('#') => {
                    outcome.executions = number(&count[1..]);
                    let rate = words.iter().position(|word| *word == "exec/s:");
                    outcome.executions_per_s = rate.and_then(|at| words.get(at + 1)).map_or(0, |n| number(n));
                }
                _ => {}
            }
        }
        outcome
    }
}

/// Renders outcomes as a table.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let rows = outcomes.iter().map(|outcome| {
        let Outcome { name, executions, executions_per_s, n_new, n_corpus, crashes } = outcome;
        [
            name.clone(),
            executions.to_string(),
            executions_per_s.to_string(),
            n_new.to_string(),
            n_corpus.to_string(),
            crashes.len().to_string(),
        ]
    });
    crate::table::table(&["target", "executions", "exec/s", "new inputs", "corpus", "crashes"], 1, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Outcome {
        let mut text = String::new();
        for line in lines {
            keep(&mut text, line);
        }
        Outcome::read("chain", &text, 3, 10, Vec::new())
    }

    #[test]
    fn a_finished_run_gives_its_statistics_and_a_crashed_one_its_progress() {
        let progress = "#512\tNEW    cov: 40 ft: 41 corp: 8/99b lim: 4 exec/s: 256 rss: 60Mb L: 4/4 MS: 1";
        let finished = read(&[
            progress,
            "noise",
            "stat::number_of_executed_units: 900",
            "stat::average_exec_per_sec:     300",
        ]);
        assert_eq!((finished.executions, finished.executions_per_s), (900, 300));
        let crashed = read(&["#2 INITED exec/s: 0", progress, "==1== ERROR: libFuzzer: deadly signal"]);
        assert_eq!((crashed.executions, crashed.executions_per_s, crashed.n_new), (512, 256, 7));
    }

    #[test]
    fn the_table_is_aligned() {
        let outcome = |name: &str, executions| Outcome {
            name: name.to_owned(),
            executions,
            executions_per_s: 20,
            n_new: 1,
            n_corpus: 7,
            crashes: vec![PathBuf::new()],
        };
        let expected = "\
target     executions  exec/s  new inputs  corpus  crashes
config        1234567      20           1       7        1
component           5      20           1       7        1
";
        assert_eq!(table(&[outcome("config", 1_234_567), outcome("component", 5)]), expected);
    }
}
