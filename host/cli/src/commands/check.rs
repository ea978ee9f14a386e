//! `kvtier check`.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use kvtier_check::{Depth, Options, Step, check as run_check};

use super::output_file::OutputFile;
use super::{print, print_json};
use crate::Adapt;
use crate::args::CheckArgs;
use crate::check::{self, BrokenContract, json, text};
use crate::progress::CheckProgress;

/// Checks a class, and writes the report to `out` and to a file. `adapt` fits the configuration to this program.
///
/// # Errors
/// If there is nothing to check, or the report cannot be written; and, when all is written, [`BrokenContract`].
pub fn check(args: &CheckArgs, adapt: Adapt<'_>, out: &mut impl Write) -> Result<()> {
    if args.list {
        return if args.json {
            print_json(out, &json::render_list())
        } else {
            print(out, &text::render_list())
        };
    }
    let subject = &args.subject;
    let inputs: Vec<_> = [&subject.component, &subject.config].into_iter().flatten().collect();
    let file = args.report.as_deref().map(|path| OutputFile::begin(path, "report", &inputs)).transpose()?;
    let subject = check::subject(subject, adapt)?;
    let progress = if args.json || args.is_quiet { CheckProgress::hidden() } else { CheckProgress::shown() };
    let report = run_check(&subject, &options(args), &mut |step: Step| {
        progress.at(step.n_done, step.n_all, step.sentence.map_or("figures", |sentence| sentence.id));
        ControlFlow::Continue(())
    })?;
    drop(progress);
    if let Some(file) = file {
        file.finish(check::render_html(&report).as_bytes())?;
    }
    if args.json {
        print_json(out, &json::render(&report))?;
    } else {
        let written = args.report.as_ref().map(|path| format!("\nreport: {}\n", path.display()));
        print(out, &(text::render(&report) + &written.unwrap_or_default()))?;
    }
    BrokenContract::find(&report).map_or(Ok(()), |broken| Err(broken.into()))
}

fn options(args: &CheckArgs) -> Options {
    Options {
        depth: if args.quick { Depth::Quick } else { Depth::Full },
        only: args.only.clone(),
        patience: Duration::from_secs(args.subject.patience),
        seed: args.seed,
    }
}
