//! A guest's standard streams: its output is dropped, except the end of standard error.
//!
//! When a guest passes a stream of the host to a standard stream of WASI 0.3, the host moves the bytes alone, as fast
//! as it can. So such a stream waits when it is faster than [`STDIO_PIPED_BYTES_PER_S`]. The guest's own writes never
//! wait.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::time::Sleep;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::log::Bucket;
use crate::clock::Clock;
use crate::limits::{STDERR_BYTES_MAX, STDIO_PIPED_BYTES_PER_S, STDIO_WRITE_BYTES_MAX};
use crate::sync::lock;
use crate::text::{Quotes, harmless};
use crate::wasm::policy::Secrets;

/// An output that never blocks, fails or traps, and keeps the last bytes written to it, up to a limit.
///
/// WASI's own adapter for outputs queues writes, and grows with every empty write; this holds only one buffer of fixed
/// size.
#[derive(Clone)]
pub(in crate::wasm) struct StderrTail(Arc<Mutex<Kept>>);

struct Kept {
    bytes: VecDeque<u8>,
    max: usize,
}

impl StderrTail {
    /// Makes the output for standard error and for errors that a guest logs.
    pub(in crate::wasm) fn last_output() -> Self {
        Self::keeping(STDERR_BYTES_MAX)
    }

    /// Makes the output for standard output.
    pub(in crate::wasm) fn nothing() -> Self {
        Self::keeping(0)
    }

    fn keeping(max: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept { bytes: VecDeque::new(), max })))
    }

    /// Makes a standard stream that writes to this output at `pace`.
    pub(in crate::wasm) fn paced(&self, pace: &Pace) -> Paced {
        Paced { tail: self.clone(), pace: pace.clone() }
    }

    pub(in crate::wasm) fn push(&self, new: &[u8]) {
        let Kept { bytes, max } = &mut *lock(&self.0);
        let new = &new[new.len().saturating_sub(*max)..];
        let n_out = (bytes.len() + new.len()).saturating_sub(*max);
        bytes.drain(..n_out);
        bytes.extend(new);
    }

    /// Returns the last lines without secrets, as one harmless line.
    pub(in crate::wasm) fn last_lines(&self, secrets: &Secrets) -> Option<String> {
        const LINES: usize = 4;
        const CHARS: usize = 500;
        let text = self.text(secrets);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(LINES)..].join(" / ");
        (!last.is_empty()).then(|| harmless(&last, CHARS, Quotes::Keep))
    }

    fn text(&self, secrets: &Secrets) -> String {
        let mut kept = lock(&self.0);
        let max = kept.max;
        let bytes = &*kept.bytes.make_contiguous();
        if bytes.len() < max {
            return secrets.hide(&String::from_utf8_lossy(bytes)).into_owned();
        }
        // The text may begin inside a character.
        let is_inside = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
        let n_inside = bytes.iter().take(3).take_while(is_inside).count();
        secrets.hide_end(&String::from_utf8_lossy(&bytes[n_inside..]))
    }
}

/// How fast the host may move bytes to the standard streams of one instance, together.
#[derive(Clone)]
pub(in crate::wasm) struct Pace {
    clock: Clock,
    bytes: Arc<Mutex<Bucket>>,
}

impl Pace {
    pub(in crate::wasm) fn new(clock: Clock) -> Self {
        let bytes = Bucket::new(STDIO_PIPED_BYTES_PER_S, clock.now());
        Self { clock, bytes: Arc::new(Mutex::new(bytes)) }
    }

    /// Takes `n` bytes; on failure, returns how long it takes until they may be written.
    fn take(&self, n: usize) -> Result<(), Duration> {
        let mut bytes = lock(&self.bytes);
        let n = n as u64;
        if bytes.has(n, self.clock.now()) {
            bytes.take(n);
            return Ok(());
        }
        Err(bytes.lacks(n))
    }
}

/// A standard stream.
pub(in crate::wasm) struct Paced {
    tail: StderrTail,
    pace: Pace,
}

impl IsTerminal for Paced {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Paced {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(PacedStream { tail: self.tail.clone(), pace: self.pace.clone(), waits: None })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.tail.clone())
    }
}

/// A stream that waits when the host moves it too fast.
struct PacedStream {
    tail: StderrTail,
    pace: Pace,
    waits: Option<Pin<Box<Sleep>>>,
}

impl AsyncWrite for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(STDIO_WRITE_BYTES_MAX)];
        // wasmtime tries a guest's write immediately, inside the guest's call, with a waker that does nothing and has
        // no data. Bytes that the host moves are polled like any future.
        if cx.waker().data().is_null() {
            self.tail.push(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        loop {
            match self.pace.take(bytes.len()) {
                Ok(()) => {
                    self.waits = None;
                    self.tail.push(bytes);
                    return Poll::Ready(Ok(bytes.len()));
                }
                Err(time) => {
                    let waits = self.waits.insert(Box::pin(tokio::time::sleep(time)));
                    ready!(waits.as_mut().poll(cx));
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for StderrTail {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for StderrTail {
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl std::task::Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    fn kept(tail: &StderrTail) -> Vec<u8> {
        lock(&tail.0).bytes.iter().copied().collect()
    }

    #[test]
    fn the_last_bytes_are_kept_and_no_more() {
        let tail = StderrTail::keeping(8);
        tail.push(b"01234567");
        assert_eq!(kept(&tail), b"01234567", "exactly the limit");
        tail.push(b"8");
        assert_eq!(kept(&tail), b"12345678", "one beyond");
        tail.push(b"abcdefghijklmnop");
        assert_eq!(kept(&tail), b"ijklmnop", "more than the limit in one write");
    }

    #[test]
    fn writes_never_fail_and_their_number_costs_no_memory() {
        let tail = StderrTail::keeping(8);
        let mut stream = tail.paced(&Pace::new(Clock::manual())).p2_stream();
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
    fn bytes_that_the_host_moves_wait_when_all_streams_together_are_too_fast() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _context = runtime.enter();
        let (clock, kept_bytes) = (Clock::manual(), StderrTail::keeping(8));
        let pace = Pace::new(clock.clone());
        let mut streams = [kept_bytes.paced(&pace), StderrTail::nothing().paced(&pace)]
            .map(|stream| Box::into_pin(stream.async_stream()));
        let waker = std::task::Waker::from(Arc::new(Nobody));
        let mut cx = Context::from_waker(&waker);
        let bytes = vec![b'x'; STDIO_PIPED_BYTES_PER_S as usize];
        let mut write = |stream: usize, n: usize| streams[stream].as_mut().poll_write(&mut cx, &bytes[..n]);
        let n_writes = STDIO_PIPED_BYTES_PER_S as usize / STDIO_WRITE_BYTES_MAX;
        for n in 0..n_writes {
            assert!(matches!(write(n % 2, bytes.len()), Poll::Ready(Ok(STDIO_WRITE_BYTES_MAX))), "{n}");
        }
        assert!(write(0, 1).is_pending() && write(1, 1).is_pending());
        clock.advance(Duration::from_millis(500));
        for n in 0..n_writes / 2 {
            assert!(matches!(write(n % 2, bytes.len()), Poll::Ready(Ok(STDIO_WRITE_BYTES_MAX))), "{n}");
        }
        assert!(write(0, 1).is_pending() && write(1, 1).is_pending());
        assert_eq!(kept(&kept_bytes), b"xxxxxxxx");
        let mut guests = Context::from_waker(std::task::Waker::noop());
        for _ in 0..100 {
            let written = streams[0].as_mut().poll_write(&mut guests, &bytes);
            assert!(matches!(written, Poll::Ready(Ok(STDIO_WRITE_BYTES_MAX))), "a guest's own");
        }
    }

    #[test]
    fn last_lines_are_one_line_without_control_characters() {
        let tail = StderrTail::keeping(100);
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
            let tail = StderrTail::keeping(max);
            tail.push(format!("the key is {secret}; sorry").as_bytes());
            let last = tail.last_lines(&secrets).unwrap();
            assert!(last.ends_with("[secret]; sorry") && !last.contains("line"), "{max}: {last}");
        }
    }
}
