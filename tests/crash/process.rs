//! A child and its lines.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::journal::Line;

/// How long a child may be silent before it counts as stuck.
const SILENCE_MAX: Duration = Duration::from_mins(5);

/// The moment at which a child is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// This long after it was started.
    AfterStart(Duration),
    /// This long after its line with this number.
    AfterLine(usize, Duration),
}

pub(crate) struct Running {
    child: Child,
    started: Instant,
    lines: Receiver<Line>,
    heard: Vec<Line>,
}

impl Running {
    /// Starts this program again with other arguments. Its log is written to `log`.
    pub(crate) fn start(arguments: &[String], log: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().context("cannot start a child")?;
        let mut output = BufReader::new(child.stdout.take().context("the child has no output")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            // The kill tore a line without an end.
            while output.read_line(&mut text).is_ok_and(|n| n > 0) && text.ends_with('\n') {
                if let Some(line) = Line::parse(text.trim_end()) {
                    // After an error, the receiver is gone.
                    _ = sender.send(line);
                }
                text.clear();
            }
        });
        Ok(Self { child, started: Instant::now(), lines, heard: Vec::new() })
    }

    /// Kills the child at a moment, and returns all its lines.
    ///
    /// # Errors
    /// If it ended by itself, or is stuck.
    pub(crate) fn kill_at(mut self, moment: Moment) -> Result<Vec<Line>> {
        let pause = match moment {
            Moment::AfterStart(after) => after.saturating_sub(self.started.elapsed()),
            Moment::AfterLine(n_lines, after) => {
                while self.heard.len() < n_lines {
                    let line = self.next()?.context("the child ended before it was killed")?;
                    self.heard.push(line);
                }
                after
            }
        };
        // The random moment, not a wait for anything.
        std::thread::sleep(pause);
        self.child.kill().context("cannot kill the child")?;
        let status = self.finish()?;
        if status.code().is_some() {
            bail!("the child ended before it was killed: {status}");
        }
        Ok(std::mem::take(&mut self.heard))
    }

    /// Waits until the child ends, and returns all its lines and the time until it was open.
    ///
    /// # Errors
    /// If it fails, or is stuck.
    pub(crate) fn wait(mut self) -> Result<(Vec<Line>, Duration)> {
        let first = self.next()?;
        let opened = self.started.elapsed();
        self.heard.extend(first);
        let status = self.finish()?;
        if !status.success() {
            bail!("the child that reads failed: {status}");
        }
        Ok((std::mem::take(&mut self.heard), opened))
    }

    fn finish(&mut self) -> Result<ExitStatus> {
        while let Some(line) = self.next()? {
            self.heard.push(line);
        }
        self.child.wait().context("cannot wait for the child")
    }

    /// Returns the next line; `None` after the last.
    fn next(&mut self) -> Result<Option<Line>> {
        match self.lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the child has stopped printing lines"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only after an error; otherwise the child has ended.
        if matches!(self.child.try_wait(), Ok(None)) {
            _ = self.child.kill();
            _ = self.child.wait();
        }
    }
}
