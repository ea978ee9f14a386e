//! Bodies in both directions, with a limit on how long their bytes are waited for.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime_wasi_http::Error;

use crate::limits::HTTP_ANSWER_FIELDS_BYTES_MAX;
use crate::sync::lock;

/// The time at which a request last made progress.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

/// A request made no progress for too long.
pub(super) struct Idle;

impl Progress {
    fn note(&self) {
        *lock(&self.0) = Instant::now();
    }

    /// Waits for `future` for as long as there is progress within each `limit`.
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

/// A request's slot, which is free again when both of its bodies have ended.
pub(super) type Slot = Arc<OwnedSemaphorePermit>;

/// How long a body has been waited for. The clock runs only during a wait.
struct BodyDeadline {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    waiting: bool,
}

impl BodyDeadline {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: Box::pin(sleep_until(Instant::now() + limit)), waiting: false }
    }

    /// Returns the frame, or the error `late` if there was none for too long.
    fn poll(&mut self, cx: &mut Context<'_>, frame: Poll<Received>, late: Error) -> Poll<Received> {
        if frame.is_ready() {
            self.waiting = false;
            return frame;
        }
        if !self.waiting {
            self.waiting = true;
            self.sleep.as_mut().reset(Instant::now() + self.limit);
        }
        match self.sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(late))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The next frame of a body; `None` at its end.
type Received = Option<Result<Frame<Bytes>, Error>>;

/// A request's body that notes its progress.
pub(super) struct RequestBody {
    body: UnsyncBoxBody<Bytes, Error>,
    progress: Progress,
    deadline: BodyDeadline,
    _slot: Slot,
}

impl RequestBody {
    /// Ends with an error when the guest delivers nothing for `limit`: it may have its response already, and the
    /// connection is busy until the body ends.
    pub(super) fn new(
        body: UnsyncBoxBody<Bytes, Error>,
        progress: Progress,
        limit: Duration,
        slot: Slot,
    ) -> Self {
        Self { body, progress, deadline: BodyDeadline::new(limit), _slot: slot }
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
        self.deadline.poll(cx, frame, Error::ConnectionWriteTimeout)
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
    deadline: BodyDeadline,
    _slot: Slot,
}

impl ResponseBody {
    /// Ends with an error when no byte comes for `limit`, and releases its share of the slot when it is dropped.
    pub(super) fn new(body: Incoming, limit: Duration, slot: Slot) -> Self {
        Self { body, deadline: BodyDeadline::new(limit), _slot: slot }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let frame = frame.map(|frame| frame.map(|frame| frame.map_err(|error| explain(&error))));
        let frame = frame.map(|frame| frame.map(|frame| frame.and_then(with_own_trailers)));
        self.deadline.poll(cx, frame, Error::ConnectionReadTimeout)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn with_own_trailers(frame: Frame<Bytes>) -> Result<Frame<Bytes>, Error> {
    match frame.trailers_ref() {
        Some(trailers) => {
            of_its_own(trailers).map(Frame::trailers).ok_or(Error::HttpResponseTrailerSectionSize(None))
        }
        None => Ok(frame),
    }
}

/// Copies the fields of a response, unless they are too large: they share the memory that their connection was read
/// into.
pub(super) fn of_its_own(fields: &HeaderMap) -> Option<HeaderMap> {
    let n_bytes: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if n_bytes > HTTP_ANSWER_FIELDS_BYTES_MAX {
        return None;
    }
    let own = |value: &HeaderValue| {
        let mut own = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        own.set_sensitive(value.is_sensitive());
        Some(own)
    };
    fields.iter().map(|(name, value)| Some((name.clone(), own(value)?))).collect()
}

fn explain(error: &hyper::Error) -> Error {
    if error.is_parse() { Error::HttpProtocolError } else { Error::HttpResponseIncomplete }
}
