//! `kvtier dev`: a check and a short replay whenever the component or its configuration changes.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use kvtier_check::{Depth, Options, Report, Subject, check as run_check};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::print;
use crate::args::{DevArgs, SubjectArgs};
use crate::check::{BrokenContract, subject, text};
use crate::engine;
use crate::format::{bytes, count, percent};
use crate::progress::CheckProgress;
use crate::replay::{FaultyBackends, Outcome, Strictness};
use crate::{Adapt, explain};

/// How often files are looked at. Looking is as cheap as asking the system to tell of changes, and works on every file
/// system.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The exit code of a second Ctrl-C, which does not wait.
const KILLED: i32 = 130;

/// Clears a terminal, and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Requests of the replay.
const REPLAY_REQUESTS: usize = 100;

/// Checks and replays whenever a watched file changes, and writes the results to `out`, until the process is told to
/// end.
///
/// # Errors
/// If there is nothing to watch, or `out` cannot be written.
pub fn dev(args: &DevArgs, adapt: Adapt<'_>, out: &mut impl Write) -> Result<()> {
    let args = &args.subject;
    let named = args.component.as_ref().or(args.config.as_ref());
    let named = named.context("nothing to watch")?;
    ensure!(named.exists(), "{} does not exist; build the component first", named.display());
    let stop = stopped_by_signals()?;
    let in_place = std::io::stdout().is_terminal();
    while !stop.load(Ordering::Relaxed) {
        // Before it is used, so that a change in between is seen.
        let mut watched = vec![(named.clone(), state(named))];
        let subject = subject(args, adapt);
        if let Ok(Subject { backend, .. }) = &subject
            && std::path::absolute(named).is_ok_and(|named| named != backend.module_path)
        {
            watched.push((backend.module_path.clone(), state(&backend.module_path)));
        }
        if in_place {
            print(out, CLEAR)?;
        }
        print(out, &judged(subject, args, &stop))?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        print(out, &format!("\nwatching {}; Ctrl-C ends\n", names(&watched)))?;
        wait_for_change(&watched, &stop);
    }
    print(out, "\nended\n")
}

/// Sets a flag at the first Ctrl-C; the second ends the process.
fn stopped_by_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, KILLED, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot listen for Ctrl-C")?;
    }
    Ok(stop)
}

/// What tells one version of a file from another; `None` if it does not exist.
type State = Option<(SystemTime, u64)>;

fn state(path: &Path) -> State {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn names(watched: &[(PathBuf, State)]) -> String {
    watched.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

/// Waits until a file has changed and stays as it is for one look: a build may write it piece by piece.
fn wait_for_change(watched: &[(PathBuf, State)], stop: &AtomicBool) {
    let look = || watched.iter().map(|(path, _)| state(path)).collect::<Vec<_>>();
    let first: Vec<State> = watched.iter().map(|(_, state)| *state).collect();
    let mut last = first.clone();
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(LOOK_EVERY);
        let now = look();
        // If the named file is missing, it is being replaced.
        if now == last && now != first && now.first().is_some_and(Option::is_some) {
            return;
        }
        last = now;
    }
}

/// Checks and replays, and renders what came out.
fn judged(subject: Result<Subject>, args: &SubjectArgs, stop: &AtomicBool) -> String {
    let subject = match subject {
        Ok(subject) => subject,
        Err(error) => return explain(&error),
    };
    let report = match checked(&subject, args, stop) {
        Ok(report) => report,
        Err(error) => return explain(&error),
    };
    let text = text::render(&report);
    let verdict = match BrokenContract::find(&report) {
        Some(broken) => format!("\nBROKEN: {broken}\n"),
        None if stop.load(Ordering::Relaxed) => String::new(),
        None => match replayed(subject) {
            (text, true) => format!("\n{text}KEPT: what was tried keeps the contract\n"),
            (text, false) => format!("\n{text}BROKEN: the replay shows what the check does not\n"),
        },
    };
    text + &verdict
}

fn checked(subject: &Subject, args: &SubjectArgs, stop: &AtomicBool) -> Result<Report> {
    let patience = Duration::from_secs(args.patience);
    let options = Options { depth: Depth::Quick, patience, ..Options::default() };
    let progress = CheckProgress::shown();
    let report = run_check(subject, &options, &mut |step| {
        progress.at(step.n_done, step.n_all, step.sentence.map_or("figures", |sentence| sentence.id));
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(report)
}

/// Replays a short trace through a small CPU tier and the backend. Renders what came out, and reports whether the
/// backend did all that it was asked for.
fn replayed(subject: Subject) -> (String, bool) {
    let run = RandomState::new().hash_one(0);
    match engine::replay_one(subject.config, subject.backend, REPLAY_REQUESTS, run) {
        Ok((outcome, removed)) => match (rendered(&outcome), removed) {
            // A backend that failed before is likely to fail here for the same reason.
            ((text, true), Err(error)) => (text + &explain(&error), false),
            (rendered, _) => rendered,
        },
        Err(error) => (explain(&error.context("the replay failed")), false),
    }
}

fn rendered(outcome: &Outcome) -> (String, bool) {
    let hits =
        outcome.tier_names.iter().zip(&outcome.hits).map(|(name, hits)| format!("{name} {}", count(*hits)));
    let faults = FaultyBackends::find(outcome, Strictness::Strict).map(|faults| format!("  {faults}\n"));
    let is_sound = faults.is_none();
    let text = format!(
        "replay of {} requests: hit ratio {} ({}), {} verified\n{}",
        count(outcome.requests),
        percent(outcome.hit_ratio()),
        hits.collect::<Vec<_>>().join(", "),
        bytes(outcome.bytes_verified()),
        faults.unwrap_or_default(),
    );
    (text, is_sound)
}
