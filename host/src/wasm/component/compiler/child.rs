//! The host's side of compiling: a child process with limited time and limited output.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::limits::{CODE_BYTES_MAX, COMPILER_STDERR_BYTES_MAX, COMPILER_THREADS_MAX};

/// Bytes that are read from a pipe at a time, and how many times before the clock is checked.
const READ_BYTES: usize = 64 << 10;
const READS_MAX: usize = 64;

/// Returns how many threads a compiler has.
pub(in super::super) fn n_threads() -> u32 {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(available).unwrap_or(u32::MAX).min(COMPILER_THREADS_MAX)
}

/// How a child ended.
pub(in super::super) struct ChildExit {
    /// `None` if it is not known: other code of this process ignores SIGCHLD, or waits for all children.
    pub(in super::super) status: Option<ExitStatus>,
    /// Whether it was killed because its time was over.
    pub(in super::super) timed_out: bool,
    /// What it wrote to its standard output, cut one byte after the limit.
    pub(in super::super) output: Vec<u8>,
    /// The end of what it wrote to its standard error.
    pub(in super::super) errors: Vec<u8>,
}

/// Runs a program in a new process group, with `input` as its standard input, no environment, and the root as its
/// directory. When this returns, the group has been killed. Closing the other end of `cancel` kills it early.
///
/// # Errors
/// When the program cannot be started or watched, or was cancelled.
pub(in super::super) fn run(
    program: &Path,
    words: &[String],
    input: File,
    timeout: Duration,
    cancel: Option<&PipeReader>,
) -> io::Result<ChildExit> {
    let deadline = Instant::now() + timeout;
    let child = Command::new(program)
        .args(words)
        .env_clear()
        // The size of the compiler's thread pool.
        .env("RAYON_NUM_THREADS", n_threads().to_string())
        .current_dir("/")
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut group = Group { child, is_reaped: false };
    let mut output = Stream::new(group.child.stdout.take(), Keep::First(CODE_BYTES_MAX + 1))?;
    let mut errors = Stream::new(group.child.stderr.take(), Keep::Last(COMPILER_STDERR_BYTES_MAX))?;
    let ended = group.end_notice()?;
    let mut timed_out = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            timed_out = true;
            break;
        }
        let pipes = [
            cancel.map(AsFd::as_fd),
            output.pipe.as_ref().map(AsFd::as_fd),
            errors.pipe.as_ref().map(AsFd::as_fd),
        ];
        let mut watched = vec![PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN)];
        watched.extend(pipes.into_iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_ended = !watched[0].revents().is_empty();
        if cancel.is_some() && !watched[1].revents().is_empty() && !has_ended {
            return Err(io::Error::other("its backend is closed"));
        }
        output.take()?;
        errors.take()?;
        if has_ended || output.bytes.len() > CODE_BYTES_MAX {
            break;
        }
    }
    let status = group.end()?;
    // The pipes still hold the last output.
    output.take()?;
    errors.take()?;
    Ok(ChildExit { status, timed_out, output: output.bytes, errors: errors.bytes })
}

/// A child process and its descendants, as far as they stay in its group. Dropping this value kills them.
struct Group {
    child: Child,
    is_reaped: bool,
}

impl Group {
    /// Returns a pipe that closes when the child has ended. The child is not reaped then, so its number is not used
    /// again.
    fn end_notice(&self) -> io::Result<PipeReader> {
        let (notice, open) = io::pipe()?;
        let pid = Pid::from_child(&self.child);
        std::thread::Builder::new().name("kvtier-compile".into()).spawn(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
            drop(open);
        })?;
        Ok(notice)
    }

    /// Kills what is left of the group, and returns how the child ended.
    fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        if !self.is_reaped {
            match kill_process_group(Pid::from_child(&self.child), Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let status = match self.child.wait() {
            Ok(status) => Some(status),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::CHILD.raw_os_error()) => None,
            Err(error) => return Err(error),
        };
        self.is_reaped = true;
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped
            && let Err(error) = self.end()
        {
            tracing::warn!(%error, "a compiler that failed could not be ended");
        }
    }
}

enum Keep {
    First(usize),
    Last(usize),
}

/// One pipe from the child, read without waiting.
struct Stream<P> {
    /// `None` once the other end is closed.
    pipe: Option<P>,
    bytes: Vec<u8>,
    keep: Keep,
}

impl<P: Read + AsFd> Stream<P> {
    fn new(pipe: Option<P>, keep: Keep) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe, bytes: Vec::new(), keep })
    }

    /// Reads the bytes that are there, up to a limit.
    fn take(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        for _ in 0..READS_MAX {
            let Some(pipe) = &mut self.pipe else { return Ok(()) };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => self.keep(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep(&mut self, read: &[u8]) {
        match self.keep {
            Keep::First(max) => {
                let n = read.len().min(max - self.bytes.len());
                self.bytes.extend_from_slice(&read[..n]);
            }
            Keep::Last(max) => {
                self.bytes.extend_from_slice(read);
                let n_over = self.bytes.len().saturating_sub(max);
                self.bytes.drain(..n_over);
            }
        }
    }
}
