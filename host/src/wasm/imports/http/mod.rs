//! HTTP for guests: WASI HTTP 0.2 and 0.3, over connections that the host makes.
//!
//! A request is checked by scheme, host and port; the address that it connects to is checked again after the name is
//! resolved. Redirects are responses like others: a guest that follows one makes a new request, which is checked.
//! Connections are kept and reused by all lanes of a backend, and by no other backend. Each step has a time limit.

mod body;
mod connect;
mod objects;
mod p2;
mod p3;
mod target;
mod tls;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use self::body::{Progress, RequestBody, ResponseBody};
use self::connect::{ConnectError, Connector};
use self::target::{in_one_form, target, without_path};
pub use self::tls::TlsError;
use crate::config::BackendConfig;
use crate::limits::{HTTP_BODY_PIECE_BYTES, HTTP_IDLE_MAX};
use crate::wasm::policy::network::NetPolicy;
use crate::wasm::policy::{Denial, DenialLog};
use crate::wasm::state::GuestState;

/// Links WASI HTTP in a linker that has WASI. The objects that a guest makes are counted and limited.
pub(in crate::wasm) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)?;
    linker.allow_shadowing(true);
    p2::add_to_linker(linker)?;
    p3::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Makes the requests of one backend. Cloning shares the connections.
#[derive(Clone)]
pub(in crate::wasm) struct HttpClient {
    net: NetPolicy,
    /// `None` if no HTTP is granted.
    connections: Option<Connections>,
}

#[derive(Clone)]
struct Connections {
    client: Client<Connector, RequestBody>,
    /// Requests that may be under way.
    slots: Arc<Semaphore>,
    request_timeout: Duration,
}

impl HttpClient {
    /// Reads the certificates for checking servers, if HTTP is granted. Makes no connection.
    ///
    /// # Errors
    /// [`TlsError`], if `tls.ca_file` cannot be used.
    pub(in crate::wasm) fn new(config: &BackendConfig, net: &NetPolicy) -> Result<Self, TlsError> {
        let limits = &config.limits;
        if !net.has_http() && config.ca_file.is_none() {
            return Ok(Self { net: net.clone(), connections: None });
        }
        let tls = tls::client_config(config.ca_file.as_deref())?;
        let connections = net.has_http().then(|| {
            let connector = Connector::new(net.clone(), tls, limits.connect_timeout, limits.tls_timeout);
            let client = Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(HTTP_IDLE_MAX)
                .pool_max_idle_per_host(limits.http_requests_max)
                .build(connector);
            let slots = Arc::new(Semaphore::new(limits.http_requests_max));
            Connections { client, slots, request_timeout: limits.request_timeout }
        });
        Ok(Self { net: net.clone(), connections })
    }
}

/// The host's part of WASI HTTP, for one instance.
pub(in crate::wasm) struct Hooks {
    client: HttpClient,
    denial_log: DenialLog,
}

impl Hooks {
    pub(in crate::wasm) fn new(client: HttpClient, denial_log: DenialLog) -> Self {
        Self { client, denial_log }
    }

    /// Checks a request. Returns it with its target in canonical form, by which connections are reused.
    fn judge(&self, mut request: Request<WasiBody>) -> Result<(Request<WasiBody>, Connections), Error> {
        // Through a granted proxy it would reach any target.
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let target = target(request.uri());
        let connections = self.client.connections.as_ref();
        let allowed = target.as_ref().filter(|target| self.client.net.allows_http(target)).zip(connections);
        let Some((target, connections)) = allowed else {
            let shown = match &target {
                Some(target) => target.to_string(),
                None => without_path(request.uri()),
            };
            self.denial_log.record(Denial::Request(self.denial_log.guest_text(&shown)));
            return Err(Error::HttpRequestDenied);
        };
        *request.uri_mut() = in_one_form(target, request.uri())?;
        Ok((request, connections.clone()))
    }
}

type Sent = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for Hooks {
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        HTTP_BODY_PIECE_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        HTTP_BODY_PIECE_BYTES
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let judged = self.judge(request);
        let denial_log = self.denial_log.clone();
        Box::new(async move {
            let (request, connections) = judged?;
            let response = connections.send(request, options.unwrap_or_default(), &denial_log).await?;
            // Another task drives the connection.
            let driven: Box<dyn Future<Output = _> + Send> = Box::new(std::future::ready(Ok(())));
            Ok((response, driven))
        })
    }
}

impl Connections {
    async fn send(
        self,
        request: Request<WasiBody>,
        options: RequestOptions,
        denial_log: &DenialLog,
    ) -> Result<Response<WasiBody>, Error> {
        let at_most =
            |wanted: Option<Duration>| wanted.unwrap_or(self.request_timeout).min(self.request_timeout);
        let slot = timeout(self.request_timeout, Arc::clone(&self.slots).acquire_owned()).await;
        let slot = slot.map_err(|_| Error::ConnectionLimitReached)?.expect("the slots are never closed");
        let slot = Arc::new(slot);
        let progress = Progress::default();
        let limit = self.request_timeout;
        let request = request.map(|body| RequestBody::new(body, progress.clone(), limit, Arc::clone(&slot)));
        let answered = self.client.request(request);
        // Measured from the last byte of the request that was sent, since sending a large request takes time.
        let response = progress.until_idle(at_most(options.first_byte_timeout), answered).await;
        let response = response.map_err(|_| Error::HttpResponseTimeout)?;
        let response = response.map_err(|error| explain(&error, denial_log))?;
        let (mut parts, body) = response.into_parts();
        parts.headers = body::of_its_own(&parts.headers).ok_or(Error::HttpResponseHeaderSectionSize(None))?;
        let body = ResponseBody::new(body, at_most(options.between_bytes_timeout), slot);
        Ok(Response::from_parts(parts, body.boxed_unsync()))
    }
}

/// Returns WASI's error code for a failure, with the system's message where the code has room for it.
fn explain(error: &hyper_util::client::legacy::Error, denial_log: &DenialLog) -> Error {
    let mut found = Error::ConnectionTerminated;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return error.explain(denial_log);
        }
        // The request's own body.
        if let Some(error) = error.downcast_ref::<Error>() {
            return match error {
                Error::ConnectionWriteTimeout => Error::ConnectionWriteTimeout,
                Error::HttpRequestBodySize(size) => Error::HttpRequestBodySize(*size),
                other => Error::InternalError(Some(other.to_string())),
            };
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_parse() || error.is_user())
        {
            found = Error::HttpProtocolError;
        }
        cause = error.source();
    }
    found
}
