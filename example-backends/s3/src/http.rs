//! One HTTP request, by WASI HTTP 0.3. The host connects, keeps connections, and does TLS.

use std::time::Duration;

use kvtier_guest::futures_util::future::join;
use kvtier_guest::wasip3::http::client;
use kvtier_guest::wasip3::http::types::{
    ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme, Trailers,
};
use kvtier_guest::wasip3::{wit_future, wit_stream};
use kvtier_guest::wit_bindgen::rt::async_support::{FutureReader, StreamReader, StreamResult};
use rusty_s3::Method as S3Method;

use crate::sign::Target;

/// Bytes of an answer that are read at once: what a request needs of guest memory. With more, and with streams that do
/// not pass through the guest, chunks of 64 KiB to 32 MiB came no faster; and streams cannot fill one buffer from
/// several answers.
const READ_BYTES: usize = 64 << 10;
/// A text that is longer is of no use; its rest is not read.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// The body of a request.
pub(crate) enum Body {
    Empty,
    Text(String),
    /// Bytes of that number, which the host moves.
    Stream(StreamReader<u8>, u64),
}

/// An answer whose body has not been read. Dropping it gives the connection up if the body has more bytes.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Fields,
    body: StreamReader<u8>,
    end: FutureReader<Result<Option<Trailers>, ErrorCode>>,
}

/// Why an answer's body was not read to its end.
pub(crate) enum ReadError<E> {
    /// The connection failed.
    Cut(ErrorCode),
    /// The function that takes the bytes.
    Refused(E),
}

/// Sends a request, and returns its answer when the headers have come. `timeout` applies to connecting, from the last
/// byte that was sent until the answer, and between bytes of its body.
///
/// # Errors
/// The host's error of the connection.
pub(crate) async fn send(
    target: &Target,
    headers: &[(&str, String)],
    body: Body,
    timeout: Duration,
) -> Result<Answer, ErrorCode> {
    let n_bytes = match &body {
        Body::Empty => 0,
        Body::Text(text) => text.len() as u64,
        Body::Stream(_, n) => *n,
    };
    let fields = fields(target, headers, n_bytes)?;
    let (text, contents) = match body {
        Body::Empty => (None, None),
        Body::Text(text) => {
            let (writer, reader) = wit_stream::new::<u8>();
            (Some((writer, text)), Some(reader))
        }
        Body::Stream(bytes, _) => (None, Some(bytes)),
    };
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(fields, contents, trailers, Some(options(timeout)));
    address(&request, target).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let response = match text {
        None => client::send(request).await,
        Some((mut writer, text)) => {
            let write = async move {
                writer.write_all(text.into_bytes()).await;
            };
            join(client::send(request), write).await.0
        }
    };
    response.map(Answer::new)
}

fn fields(target: &Target, headers: &[(&str, String)], n_bytes: u64) -> Result<Fields, ErrorCode> {
    let fields = Fields::new();
    let append = |name: &str, value: &str| {
        let appended = fields.append(name, value.as_bytes());
        appended.map_err(|error| ErrorCode::InternalError(Some(format!("header {name}: {error:?}"))))
    };
    if matches!(target.method, S3Method::Put | S3Method::Post) {
        append("content-length", &n_bytes.to_string())?;
    }
    for (name, value) in headers {
        append(name, value)?;
    }
    Ok(fields)
}

/// Timeouts. One that the host does not know is left out.
fn options(timeout: Duration) -> RequestOptions {
    let options = RequestOptions::new();
    let timeout = Some(timeout.as_nanos() as u64);
    drop(options.set_connect_timeout(timeout));
    drop(options.set_first_byte_timeout(timeout));
    drop(options.set_between_bytes_timeout(timeout));
    options
}

fn address(request: &Request, target: &Target) -> Result<(), ()> {
    let method = match target.method {
        S3Method::Head => Method::Head,
        S3Method::Get => Method::Get,
        S3Method::Post => Method::Post,
        S3Method::Put => Method::Put,
        S3Method::Delete => Method::Delete,
    };
    request.set_method(&method)?;
    request.set_scheme(Some(if target.is_https { &Scheme::Https } else { &Scheme::Http }))?;
    request.set_authority(Some(&target.authority))?;
    request.set_path_with_query(Some(&target.path_with_query))
}

impl Answer {
    fn new(response: Response) -> Self {
        let (status, headers) = (response.get_status_code(), response.get_headers());
        let (_, received) = wit_future::new(|| Ok(()));
        let (body, end) = Response::consume_body(response, received);
        Self { status, headers, body, end }
    }

    /// Returns the first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name).into_iter().next()?;
        String::from_utf8(value).ok()
    }

    /// Returns the number of bytes of the body, if the server sends it.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Gives the body to `take`, piece by piece, until it ends.
    ///
    /// # Errors
    /// The host's error if the body is cut off, and the errors of `take`.
    pub(crate) async fn read<E>(
        self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), ReadError<E>> {
        let Self { mut body, end, headers, .. } = self;
        // Only as much as there may be: most answers are short or empty.
        let length = headers.get("content-length").into_iter().next();
        let length = length.and_then(|text| String::from_utf8(text).ok()?.parse().ok());
        let mut buffer = Vec::with_capacity(length.unwrap_or(READ_BYTES).clamp(1, READ_BYTES));
        loop {
            let (result, bytes) = body.read(buffer).await;
            take(&bytes).map_err(ReadError::Refused)?;
            buffer = bytes;
            buffer.clear();
            if !matches!(result, StreamResult::Complete(_)) {
                break;
            }
        }
        drop(body);
        end.await.map(drop).map_err(ReadError::Cut)
    }

    /// Returns the beginning of the body as text.
    ///
    /// # Errors
    /// The host's error if the body is cut off.
    pub(crate) async fn text(self) -> Result<String, ErrorCode> {
        let mut text = Vec::new();
        let read = self.read(|bytes| {
            text.extend_from_slice(bytes);
            if text.len() > TEXT_BYTES_MAX { Err(()) } else { Ok(()) }
        });
        match read.await {
            Ok(()) | Err(ReadError::Refused(())) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Err(ReadError::Cut(code)) => Err(code),
        }
    }
}
