//! The standard output, which its reader may close before the end, as `head` does.

use std::io::{self, Write};

/// Writes to the standard output until its reader closes it. Everything after that is dropped without an error, so that
/// the exit code still reports the command's result.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: io::Stdout,
    is_closed: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { stdout: io::stdout(), is_closed: false }
    }

    fn until_closed<T>(
        &mut self,
        dropped: T,
        write: impl FnOnce(&mut io::Stdout) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.is_closed {
            return Ok(dropped);
        }
        match write(&mut self.stdout) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(dropped)
            }
            result => result,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until_closed(bytes.len(), |stdout| stdout.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.until_closed((), Write::flush)
    }
}
