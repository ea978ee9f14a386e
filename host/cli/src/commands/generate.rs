//! `kvtier generate`: a trace to a file or to the standard output.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result};

use crate::args::GenerateArgs;
use crate::generate::{Generator, Workload, write_line};

/// Writes a generated trace. Ends without an error when the reader closes the standard output.
///
/// # Errors
/// If the trace cannot be written; the message names the file.
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
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("cannot create the trace {}", path.display()))?;
            write_trace(file, workload, n_requests)
                .with_context(|| format!("cannot write the trace {}", path.display()))
        }
        None => match write_trace(io::stdout().lock(), workload, n_requests) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.context("cannot write the trace to the standard output"),
        },
    }
}

fn write_trace(out: impl Write, workload: Workload, n_requests: u64) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    for (_, request) in (0..n_requests).zip(Generator::new(workload)) {
        write_line(&mut out, &request)?;
    }
    out.flush()
}
