//! The CPU tier beside other caches, under the same requests. The others are in a separate program
//! (`tests/bench-compare`), which takes a sample on request: their dependencies conflict with ours, and a build of
//! kvtier does not have to include them.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use kvtier_bench_mix::{Course, Operation, READY, Run as _, Sample};

use crate::bench::{About, Bench, candidate};
use crate::contender::Ours;
use crate::report::Target;
use crate::sample::Effort;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let program = bench.setting.peers.clone();
    let program = program.context("the other caches are missing: run `cargo xtask bench compare`")?;
    let peers = RefCell::new(Peers::start(&program)?);
    let caches = peers.borrow_mut().caches()?;
    for (name, description) in &caches {
        bench.report.facts.push((name.clone(), description.clone()));
    }
    for n_threads in bench.pick(vec![1, 2, 4], vec![2]) {
        let mut ours = Course::new(n_threads, Ours::new);
        for (name, _) in &caches {
            peers.borrow_mut().course(name, n_threads)?;
        }
        for operation in Operation::ALL {
            row(bench, &mut ours, &peers, &caches, operation, n_threads);
        }
    }
    peers.into_inner().end()
}

fn row(
    bench: &mut Bench,
    ours: &mut Course<Ours>,
    peers: &RefCell<Peers>,
    caches: &[(String, String)],
    operation: Operation,
    n_threads: usize,
) {
    let hits = RefCell::new(vec![0.0; caches.len() + 1]);
    let keep = |n: usize, sample: Sample| {
        hits.borrow_mut()[n] = sample.hit_ratio;
        sample.ns_per_key * 1e-9
    };
    let mut candidates = vec![candidate("kvtier", || keep(0, ours.sample(operation)))];
    for (n, (name, _)) in caches.iter().enumerate() {
        let ask = move || peers.borrow_mut().sample(name, operation).expect("the other program answers");
        let keep = &keep;
        candidates.push(candidate(name.clone(), move || keep(n + 1, ask())));
    }
    let plural = if n_threads == 1 { "" } else { "s" };
    let about = About::time(format!("{operation}, {n_threads} thread{plural}, a key"));
    let effort = Effort { turns_min: 15, time: Effort::SHORT.time * 2, ..Effort::SHORT };
    let about = if n_threads <= 2 { about.target(Target::Ahead) } else { about };
    bench.row(about.effort(effort), candidates);
    if operation == Operation::Mix
        && let Some(row) = bench.report.rows.last_mut()
    {
        let names = std::iter::once("kvtier").chain(caches.iter().map(|(name, _)| name.as_str()));
        let hits = hits.borrow();
        let shares = names.zip(&*hits).map(|(name, hits)| format!("{name} {:.0} %", hits * 100.0));
        row.note = format!("keys found in the last sample: {}", shares.collect::<Vec<_>>().join(", "));
    }
}

/// The program with the other caches.
struct Peers {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peers {
    fn start(program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, input, output })
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}").context("the program with the other caches has ended")?;
        let mut answer = String::new();
        let n_bytes = self.output.read_line(&mut answer)?;
        ensure!(n_bytes > 0, "the program with the other caches has ended at `{line}`");
        Ok(answer.trim_end().to_owned())
    }

    /// The caches' names and descriptions.
    fn caches(&mut self) -> Result<Vec<(String, String)>> {
        let answer = self.ask("caches")?;
        let words: Vec<&str> = answer.split('\t').collect();
        Ok(words.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect())
    }

    fn course(&mut self, name: &str, n_threads: usize) -> Result<()> {
        let answer = self.ask(&format!("course {name} {n_threads}"))?;
        ensure!(answer == READY, "the program with the other caches answered `{answer}`");
        Ok(())
    }

    fn sample(&mut self, name: &str, operation: Operation) -> Result<Sample> {
        let answer = self.ask(&format!("sample {name} {operation}"))?;
        let (ns_per_key, hit_ratio) = answer.split_once(' ').context("expected two figures")?;
        Ok(Sample { ns_per_key: ns_per_key.parse()?, hit_ratio: hit_ratio.parse()? })
    }

    fn end(mut self) -> Result<()> {
        drop(self.input);
        let status = self.child.wait()?;
        ensure!(status.success(), "the program with the other caches failed ({status})");
        Ok(())
    }
}
