//! HTTP requests in both versions of WASI: `get URL`, `put URL BYTES`, `hold URL`, which promises a body and does not
//! send it (0.3), `connect-to URL`, and `follow URL`, which makes another request if it is redirected. What is seen is
//! the status and the beginning of the body.

use crate::Outcome;

/// Bytes of a body that are shown.
const SHOWN_BYTES: usize = 100;

struct Request {
    method: String,
    https: bool,
    authority: String,
    path: String,
    body: Vec<u8>,
    /// The body is promised and never sent.
    holds: bool,
}

/// An answer: its status, the target of a redirect, and its body.
struct Response {
    status: u16,
    location: Option<String>,
    body: Vec<u8>,
}

impl Request {
    fn new(method: &str, url: &str, n_bytes: usize) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("no URL")?;
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let path = if path.is_empty() { "/" } else { path };
        let (https, body) = (scheme == "https", vec![b'x'; n_bytes]);
        Ok(Self {
            method: method.to_owned(),
            https,
            authority: authority.to_owned(),
            path: path.to_owned(),
            body,
            holds: false,
        })
    }
}

impl Response {
    fn show(&self) -> String {
        let body = &self.body[..self.body.len().min(SHOWN_BYTES)];
        format!("{} {} bytes {}", self.status, self.body.len(), String::from_utf8_lossy(body))
    }
}

/// Makes the request that the words stand for, in WASI 0.3; `None` if they stand for none.
pub(crate) async fn take3(words: &[&str]) -> Option<Outcome> {
    let made = match *words {
        ["follow", url] => {
            let first = match Request::new("GET", url, 0) {
                Ok(request) => preview3::send(request).await,
                Err(error) => Err(error),
            };
            match first.map(|response| response.location.unwrap_or_default()) {
                Ok(url) => Request::new("GET", &url, 0),
                Err(error) => Err(error),
            }
        }
        _ => plain(words)?,
    };
    Some(match made {
        Ok(request) => preview3::send(request).await.map(|response| response.show()),
        Err(error) => Err(error),
    })
}

/// As [`take3`], in WASI 0.2.
pub(crate) fn take2(words: &[&str]) -> Option<Outcome> {
    let made = match *words {
        ["follow", url] => Request::new("GET", url, 0)
            .and_then(|request| preview2::send(&request))
            .and_then(|response| Request::new("GET", &response.location.unwrap_or_default(), 0)),
        _ => plain(words)?,
    };
    Some(made.and_then(|request| preview2::send(&request)).map(|response| response.show()))
}

fn plain(words: &[&str]) -> Option<Result<Request, String>> {
    Some(match *words {
        ["get", url] => Request::new("GET", url, 0),
        ["connect-to", url] => Request::new("CONNECT", url, 0),
        ["hold", url] => Request::new("PUT", url, 1).map(|request| Request { holds: true, ..request }),
        ["put", url, n_bytes] => Request::new("PUT", url, n_bytes.parse().unwrap_or_default()),
        _ => return None,
    })
}

mod preview3 {
    use kvtier_guest::wasip3::http::client;
    use kvtier_guest::wasip3::http::types::{
        Fields, Method, Request as WasiRequest, Response as WasiResponse, Scheme,
    };
    use kvtier_guest::wasip3::{wit_future, wit_stream};

    use super::{Request, Response};

    pub(super) async fn send(request: Request) -> Result<Response, String> {
        let headers = Fields::new();
        let mut body = None;
        if !request.body.is_empty() {
            let length = request.body.len().to_string().into_bytes();
            headers.append("content-length", &length).map_err(|error| format!("{error:?}"))?;
            body = Some(wit_stream::new::<u8>());
        }
        let (writer, reader) = body.unzip();
        let (trailers, no_trailers) = wit_future::new(|| Ok(None));
        drop(trailers);
        let (wasi, _sent) = WasiRequest::new(headers, reader, no_trailers, None);
        let method = match request.method.as_str() {
            "PUT" => Method::Put,
            "CONNECT" => Method::Connect,
            _ => Method::Get,
        };
        let scheme = if request.https { Scheme::Https } else { Scheme::Http };
        wasi.set_method(&method)
            .and_then(|()| wasi.set_scheme(Some(&scheme)))
            .and_then(|()| wasi.set_authority(Some(&request.authority)))
            .and_then(|()| wasi.set_path_with_query(Some(&request.path)))
            .map_err(|()| "no such request".to_owned())?;
        let write = async {
            match writer {
                // Kept open as long as the instance lives.
                Some(writer) if request.holds => std::mem::forget(writer),
                Some(mut writer) => drop(writer.write_all(request.body).await),
                None => {}
            }
        };
        let (response, ()) = kvtier_guest::futures_util::future::join(client::send(wasi), write).await;
        let response = response.map_err(|code| format!("{code:?}"))?;
        let status = response.get_status_code();
        let location = response.get_headers().get("location").pop();
        let location = location.map(|value| String::from_utf8_lossy(&value).into_owned());
        let (finished, unfinished) = wit_future::new(|| Ok(()));
        drop(finished);
        let (body, end) = WasiResponse::consume_body(response, unfinished);
        let body = body.collect().await;
        end.await.map_err(|code| format!("{code:?} after {} bytes", body.len()))?;
        Ok(Response { status, location, body })
    }
}

mod preview2 {
    use kvtier_guest::wasip2::http::outgoing_handler;
    use kvtier_guest::wasip2::http::types::{Fields, Method, OutgoingBody, OutgoingRequest, Scheme};

    use super::{Request, Response};

    pub(super) fn send(request: &Request) -> Result<Response, String> {
        let debug = |code: &dyn std::fmt::Debug| format!("{code:?}");
        let headers = Fields::new();
        if !request.body.is_empty() {
            let length = request.body.len().to_string().into_bytes();
            headers.append("content-length", &length).map_err(|error| debug(&error))?;
        }
        let wasi = OutgoingRequest::new(headers);
        let method = match request.method.as_str() {
            "PUT" => Method::Put,
            "CONNECT" => Method::Connect,
            _ => Method::Get,
        };
        let scheme = if request.https { Scheme::Https } else { Scheme::Http };
        wasi.set_method(&method)
            .and_then(|()| wasi.set_scheme(Some(&scheme)))
            .and_then(|()| wasi.set_authority(Some(&request.authority)))
            .and_then(|()| wasi.set_path_with_query(Some(&request.path)))
            .map_err(|()| "no such request".to_owned())?;
        let body = wasi.body().map_err(|()| "no body".to_owned())?;
        let answer = outgoing_handler::handle(wasi, None).map_err(|code| debug(&code))?;
        let stream = body.write().map_err(|()| "no stream".to_owned())?;
        for piece in request.body.chunks(4096) {
            stream.blocking_write_and_flush(piece).map_err(|error| debug(&error))?;
        }
        drop(stream);
        OutgoingBody::finish(body, None).map_err(|code| debug(&code))?;
        answer.subscribe().block();
        let response = answer.get().ok_or("no answer")?.map_err(|()| "answer taken".to_owned())?;
        let response = response.map_err(|code| debug(&code))?;
        let location = response.headers().get("location").pop();
        let location = location.map(|value| String::from_utf8_lossy(&value).into_owned());
        let incoming = response.consume().map_err(|()| "no body".to_owned())?;
        let stream = incoming.stream().map_err(|()| "no stream".to_owned())?;
        let mut body = Vec::new();
        while let Ok(piece) = stream.blocking_read(1 << 20) {
            body.extend(piece);
        }
        Ok(Response { status: response.status(), location, body })
    }
}
