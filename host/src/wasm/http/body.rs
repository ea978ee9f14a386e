//! Bodies whose bytes are waited for no longer than the limit, in both directions.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime_wasi_http::Error;

use crate::memory::lock;

/// When a request last moved.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

/// Nothing moved for too long.
pub(super) struct Idle;

impl Progress {
    fn note(&self) {
        *lock(&self.0) = Instant::now();
    }

    /// Waits for `future` as long as something moves every `limit`.
    pub(super) async fn until_idle<F: Future>(&self, limit: Duration, future: F) -> Result<F::Output, Idle> {
        let mut future = pin!(future);
        loop {
            let end = *lock(&self.0) + limit;
            tokio::select! {
                biased;
                output = &mut future => return Ok(output),
                () = sleep_until(end) => {}
            }
            if *lock(&self.0) + limit <= Instant::now() {
                return Err(Idle);
            }
        }
    }
}

/// A request's body that notes its progress.
pub(super) struct RequestBody {
    body: UnsyncBoxBody<Bytes, Error>,
    progress: Progress,
}

impl RequestBody {
    pub(super) fn new(body: UnsyncBoxBody<Bytes, Error>, progress: Progress) -> Self {
        Self { body, progress }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            self.progress.note();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body.
pub(super) struct ResponseBody {
    body: Incoming,
    limit: Duration,
    patience: Pin<Box<Sleep>>,
    waiting: bool,
    _slot: OwnedSemaphorePermit,
}

impl ResponseBody {
    /// Ends with an error when no byte comes for `limit`, and gives the slot back when it is dropped.
    pub(super) fn new(body: Incoming, limit: Duration, slot: OwnedSemaphorePermit) -> Self {
        let patience = Box::pin(sleep_until(Instant::now() + limit));
        Self { body, limit, patience, waiting: false, _slot: slot }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| explain(&error))));
        }
        // The clock runs only while somebody waits.
        if !self.waiting {
            self.waiting = true;
            let end = Instant::now() + self.limit;
            self.patience.as_mut().reset(end);
        }
        match self.patience.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Error::ConnectionReadTimeout))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn explain(error: &hyper::Error) -> Error {
    if error.is_incomplete_message() || error.is_body_write_aborted() {
        Error::HttpResponseIncomplete
    } else if error.is_parse() {
        Error::HttpProtocolError
    } else {
        Error::ConnectionTerminated
    }
}
