//! What the commands do, apart from what only an engine can do.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::args::{GenerateArgs, ReplayArgs};
use crate::generate::{Generator, Workload};
use crate::progress::Progress;
use crate::replay::{self, Chain, Outcome};
use crate::replay::{json, text as table};
use crate::{generate, report, trace};

/// A chain that is ready for a replay, and what is to be said about it.
pub struct Ready<C> {
    /// The chain.
    pub chain: C,
    /// Payload bytes of each chunk.
    pub chunk_bytes: usize,
    /// The configuration's name and text, for the report.
    pub config: Option<(String, String)>,
    /// Things to know about the run, for the report: name and value.
    pub facts: Vec<(String, String)>,
}

/// Replays a trace through the chain that `open` makes, and writes the results to `out` and to the report.
/// The trace and the report's path are checked before `open` is called. The chain is closed in any case.
///
/// # Errors
/// As [`replay::run`]; and when the trace, the report or `out` cannot be read or written.
pub fn replay<C: Chain>(
    args: &ReplayArgs,
    command_line: &str,
    out: &mut impl Write,
    open: impl FnOnce() -> Result<Ready<C>>,
) -> Result<()> {
    let limit = args.requests.map_or(u64::MAX, u64::from);
    let n_requests = trace::count_requests(&args.trace, limit)?;
    let requests = trace::open(&args.trace)?.take(usize::try_from(limit).unwrap_or(usize::MAX));
    let report = args.report.as_deref().map(|path| create(path, "report").map(|file| (path, file)));
    let report = report.transpose()?;

    let Ready { mut chain, chunk_bytes, config, facts } = open()?;
    let progress = if args.json { Progress::hidden() } else { Progress::shown(n_requests) };
    let replayed = replay::run(&mut chain, requests, chunk_bytes, &progress);
    drop(progress);
    let closed = chain.close().context("cannot close the chain");
    let outcome = replayed?;
    closed?;

    if let Some((path, mut file)) = report {
        let setting = report::Setting { command: command_line.to_owned(), config, facts };
        file.write_all(report::render(&outcome, &setting).as_bytes())
            .with_context(|| format!("cannot write the report {}", path.display()))?;
    }
    print(&outcome, args, out).context("cannot write the results")
}

fn print(outcome: &Outcome, args: &ReplayArgs, out: &mut impl Write) -> Result<()> {
    if args.json {
        writeln!(out, "{}", json::render(outcome)?)?;
    } else {
        write!(out, "{}", table::render(outcome))?;
        if let Some(path) = &args.report {
            writeln!(out, "\nreport: {}", path.display())?;
        }
    }
    Ok(out.flush()?)
}

/// Writes a generated trace to a file or to the standard output.
///
/// # Errors
/// When the file cannot be written; the message names it.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let workload = Workload {
        seed: args.seed,
        sessions: args.sessions,
        system_prompts: args.system_prompts,
        system_tokens: args.system_tokens,
        message_tokens: args.message_tokens,
        answer_tokens: args.answer_tokens,
        turns: args.turns,
    };
    let n_requests = args.requests.get();
    match &args.out {
        Some(path) => write_trace(create(path, "trace")?, workload, n_requests)
            .with_context(|| format!("cannot write the trace {}", path.display())),
        None => match write_trace(io::stdout().lock(), workload, n_requests) {
            // The reader has seen enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.context("cannot write the trace to the standard output"),
        },
    }
}

fn write_trace(out: impl Write, workload: Workload, n_requests: u64) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    for (_, request) in (0..n_requests).zip(Generator::new(workload)) {
        generate::write_line(&mut out, &request)?;
    }
    out.flush()
}

fn create(path: &Path, what: &str) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create the {what} {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, TraceCommand};
    use crate::replay::tests::Maps;

    fn replay_args(folder: &Path, more: &[&str]) -> ReplayArgs {
        let trace = folder.join("chat.jsonl");
        let trace = trace.to_str().expect("a plain path");
        let words = ["kvtier", "replay", "--trace", trace].into_iter().chain(more.iter().copied());
        let Command::Replay(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command")
        };
        args
    }

    fn write_trace_file(folder: &Path) {
        let out = folder.join("chat.jsonl");
        let words = ["kvtier", "trace", "generate", "--requests", "50", "--sessions", "3", "--out"];
        let words = words.iter().map(|word| (*word).to_owned()).chain([out.display().to_string()]);
        let Command::Trace(TraceCommand::Generate(args)) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command")
        };
        generate(&args).unwrap();
    }

    fn run(args: &ReplayArgs) -> Result<String> {
        let mut out = Vec::new();
        replay(args, "kvtier replay", &mut out, || {
            Ok(Ready { chain: Maps::new(1_000), chunk_bytes: 64, config: None, facts: Vec::new() })
        })?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn a_replay_prints_tables_or_json_and_writes_the_report() {
        let folder = tempfile::tempdir().unwrap();
        write_trace_file(folder.path());
        let report = folder.path().join("report.html");
        let text = run(&replay_args(folder.path(), &["--report", report.to_str().unwrap()])).unwrap();
        assert!(text.starts_with("50 requests, ") && text.ends_with("report.html\n"), "{text}");
        assert!(fs::read_to_string(&report).unwrap().ends_with("</html>\n"));

        let text = run(&replay_args(folder.path(), &["--json", "--requests", "20"])).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["requests"], 20);
        assert!(value["hits"]["small"].as_u64() > Some(0));
    }

    #[test]
    fn the_chain_is_not_opened_for_a_broken_trace_or_an_impossible_report() {
        let folder = tempfile::tempdir().unwrap();
        write_trace_file(folder.path());
        let refused = |args: &ReplayArgs| {
            replay(args, "", &mut Vec::new(), || -> Result<Ready<Maps>> { panic!("the chain was opened") })
                .expect_err("refused")
                .to_string()
        };
        let error = refused(&replay_args(folder.path(), &["--report", "none/such/folder/report.html"]));
        assert_eq!(error, "cannot create the report none/such/folder/report.html");

        let trace = folder.path().join("chat.jsonl");
        let text = fs::read_to_string(&trace).unwrap();
        fs::write(&trace, text + "{}\n").unwrap();
        let error = refused(&replay_args(folder.path(), &[]));
        assert!(error.contains("chat.jsonl, line 51, column "), "{error}");
    }

    #[test]
    fn wrong_bytes_fail_the_command_and_the_chain_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        write_trace_file(folder.path());
        let closed = std::rc::Rc::default();
        let mut chain = Maps::new(1_000);
        chain.damage_all = Some(|payload| payload[63] = !payload[63]);
        chain.closed = std::rc::Rc::clone(&closed);
        let mut out = Vec::new();
        let error = replay(&replay_args(folder.path(), &[]), "", &mut out, || {
            Ok(Ready { chain, chunk_bytes: 64, config: None, facts: Vec::new() })
        })
        .expect_err("wrong bytes");
        assert!(error.is::<replay::WrongBytes>(), "{error:#}");
        assert!(out.is_empty() && closed.get());
    }
}
