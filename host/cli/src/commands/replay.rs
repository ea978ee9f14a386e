//! `kvtier replay`, except for the parts that need an engine.

use std::io::Write;

use anyhow::{Context, Result};
use kvtier::ShownSetting;

use super::{create, print};
use crate::args::ReplayArgs;
use crate::progress::Progress;
use crate::replay::{self, Chain, FaultyBackends, Outcome, Strictness, json, text};
use crate::{report, trace};

/// A chain that is ready for a replay, and the facts about it for the report.
pub struct Ready<C> {
    /// The chain.
    pub chain: C,
    /// Payload bytes of each chunk.
    pub chunk_bytes: usize,
    /// The configuration in force, without secrets, for the report.
    pub settings: Vec<ShownSetting>,
    /// Facts about the run, for the report: name and value.
    pub facts: Vec<(String, String)>,
}

/// Replays a trace through the chain that `open` makes, and writes the results to `out` and to the report. Checks the
/// trace and creates the report before it calls `open`. Closes the chain in any case.
///
/// # Errors
/// Those of [`replay::run`]; if the trace cannot be read or the report or `out` cannot be written; and, when all is
/// written, [`FaultyBackends`].
pub fn replay<C: Chain>(
    args: &ReplayArgs,
    command_line: &str,
    out: &mut impl Write,
    open: impl FnOnce() -> Result<Ready<C>>,
) -> Result<()> {
    let limit = args.requests.map_or(u64::MAX, u64::from);
    let n_requests = trace::count_requests(args.trace(), limit)?;
    let requests = trace::open(args.trace())?.take(usize::try_from(limit).unwrap_or(usize::MAX));
    let report = args.report.as_deref().map(|path| create(path, "report").map(|file| (path, file)));
    let report = report.transpose()?;

    let Ready { mut chain, chunk_bytes, settings, facts } = open()?;
    let progress = if args.json || args.is_quiet { Progress::hidden() } else { Progress::shown(n_requests) };
    let replayed = replay::run(&mut chain, requests, chunk_bytes, &progress);
    drop(progress);
    let closed = chain.close().context("cannot close the chain");
    let outcome = replayed?;
    closed?;

    if let Some((path, mut file)) = report {
        let run = report::RunInfo { command: command_line.to_owned(), settings, facts };
        file.write_all(report::render(&outcome, &run).as_bytes())
            .with_context(|| format!("cannot write the report {}", path.display()))?;
    }
    print(out, &rendered(&outcome, args)?)?;
    let strictness = if args.strict { Strictness::Strict } else { Strictness::Lenient };
    FaultyBackends::find(&outcome, strictness).map_or(Ok(()), |faults| Err(faults.into()))
}

fn rendered(outcome: &Outcome, args: &ReplayArgs) -> Result<String> {
    if args.json {
        return Ok(json::render(outcome)? + "\n");
    }
    let report = args.report.as_ref().map(|path| format!("\nreport: {}\n", path.display()));
    Ok(text::render(outcome) + &report.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::commands::generate::generate;
    use crate::replay::tests::Maps;

    fn replay_args(folder: &Path, more: &[&str]) -> ReplayArgs {
        let trace = folder.join("chat.jsonl");
        let trace = trace.to_str().expect("a plain path");
        let words = ["kvtier", "replay", trace].into_iter().chain(more.iter().copied());
        let Command::Replay(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command")
        };
        args
    }

    fn write_trace_file(folder: &Path) {
        let out = folder.join("chat.jsonl");
        let words = ["kvtier", "generate", "--requests", "50", "--sessions", "3", "--out"];
        let words = words.iter().map(|word| (*word).to_owned()).chain([out.display().to_string()]);
        let Command::Generate(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command")
        };
        generate(&args).unwrap();
    }

    fn run(args: &ReplayArgs) -> Result<String> {
        let mut out = Vec::new();
        replay(args, "kvtier replay", &mut out, || {
            Ok(Ready { chain: Maps::new(1_000), chunk_bytes: 64, settings: Vec::new(), facts: Vec::new() })
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
            Ok(Ready { chain, chunk_bytes: 64, settings: Vec::new(), facts: Vec::new() })
        })
        .expect_err("wrong bytes");
        assert!(error.is::<replay::WrongBytes>(), "{error:#}");
        assert!(out.is_empty() && closed.get());
    }
}
