//! A guest's standard streams: what it writes is swallowed, and of standard error the end is kept.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::grants::Secrets;
use crate::limits::{STDERR_BYTES_MAX, STDIO_WRITE_BYTES_MAX};
use crate::memory::lock;

/// An output that never blocks, fails or traps, and keeps the last bytes written to it, up to a limit.
///
/// WASI's own adapter for outputs queues what is written, and grows with every empty write; this holds one
/// buffer of fixed size and nothing else.
#[derive(Clone)]
pub(super) struct Tail(Arc<Mutex<Kept>>);

struct Kept {
    bytes: VecDeque<u8>,
    max: usize,
}

impl Tail {
    /// Makes the output for standard error and for errors that a guest logs.
    pub(super) fn last_words() -> Self {
        Self::keeping(STDERR_BYTES_MAX)
    }

    fn keeping(max: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept { bytes: VecDeque::new(), max })))
    }

    pub(super) fn push(&self, new: &[u8]) {
        let Kept { bytes, max } = &mut *lock(&self.0);
        let new = &new[new.len().saturating_sub(*max)..];
        let n_out = (bytes.len() + new.len()).saturating_sub(*max);
        bytes.drain(..n_out);
        bytes.extend(new);
    }

    /// Returns the end of the text without secrets, on one line, control characters escaped.
    pub(super) fn last_lines(&self, secrets: &Secrets) -> Option<String> {
        const LINES: usize = 4;
        const CHARS: usize = 500;
        let text = self.text(secrets);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(LINES)..].join(" / ");
        (!last.is_empty()).then(|| last.escape_debug().take(CHARS).collect())
    }

    fn text(&self, secrets: &Secrets) -> String {
        let mut kept = lock(&self.0);
        let max = kept.max;
        let bytes = &*kept.bytes.make_contiguous();
        if bytes.len() < max {
            return secrets.hide(&String::from_utf8_lossy(bytes)).into_owned();
        }
        // The cut may have gone through a character.
        let is_inside = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
        let n_inside = bytes.iter().take(3).take_while(is_inside).count();
        secrets.hide_end(&String::from_utf8_lossy(&bytes[n_inside..]))
    }
}

impl IsTerminal for Tail {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Tail {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Tail {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Tail {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(STDIO_WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Tail {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(tail: &Tail) -> Vec<u8> {
        lock(&tail.0).bytes.iter().copied().collect()
    }

    #[test]
    fn the_last_bytes_are_kept_and_no_more() {
        let tail = Tail::keeping(8);
        tail.push(b"01234567");
        assert_eq!(kept(&tail), b"01234567", "exactly the limit");
        tail.push(b"8");
        assert_eq!(kept(&tail), b"12345678", "one beyond");
        tail.push(b"abcdefghijklmnop");
        assert_eq!(kept(&tail), b"ijklmnop", "more than the limit at once");
    }

    #[test]
    fn writes_never_fail_and_their_number_costs_no_memory() {
        let tail = Tail::keeping(8);
        let mut stream = tail.p2_stream();
        for _ in 0..100_000 {
            stream.write(Bytes::new()).unwrap();
            stream.write(Bytes::from_static(b"abc")).unwrap();
            stream.flush().unwrap();
            assert_eq!(stream.check_write().unwrap(), STDIO_WRITE_BYTES_MAX);
        }
        assert_eq!(kept(&tail), b"bcabcabc");
        assert!(lock(&tail.0).bytes.capacity() <= 16, "{}", lock(&tail.0).bytes.capacity());
    }

    #[test]
    fn last_lines_are_one_line_without_control_characters() {
        let tail = Tail::keeping(100);
        let secrets = Secrets::default();
        assert_eq!(tail.last_lines(&secrets), None);
        tail.push(b"\n1\n2\n  3\n\x1b[31m4\r\n5\xff\n\n");
        assert_eq!(tail.last_lines(&secrets).unwrap(), "2 / 3 / \\u{1b}[31m4 / 5\u{fffd}");
    }

    #[test]
    fn last_lines_show_no_part_of_a_secret() {
        let secret = "-----BEGIN\n  é-first-line\n  second-line\n  third-line\n-----END\n";
        let secrets: Secrets = [secret].into_iter().collect();
        for max in 20..200 {
            let tail = Tail::keeping(max);
            tail.push(format!("the key is {secret}; sorry").as_bytes());
            let last = tail.last_lines(&secrets).unwrap();
            assert!(last.ends_with("[secret]; sorry") && !last.contains("line"), "{max}: {last}");
        }
    }
}
