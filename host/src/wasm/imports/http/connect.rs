//! Making a connection: resolve, check, connect, handshake, each with a time limit.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;
use wasmtime_wasi_http::Error;

use super::target::target;
use crate::config::{HttpScheme, NetHost};
use crate::wasm::policy::network::{HttpTarget, NetPolicy};
use crate::wasm::policy::{Denial, DenialLog};

/// Makes connections to targets that were already checked.
#[derive(Clone)]
pub(super) struct Connector {
    net: NetPolicy,
    tls: TlsConnector,
    connect_timeout: Duration,
    tls_timeout: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("not a target of HTTP")]
    NoTarget,
    #[error("the name cannot be resolved: {0}")]
    Unresolvable(io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("the name leads to {1}, a {2} address")]
    Restricted(HttpTarget, SocketAddr, &'static str),
    #[error("{0}")]
    Connect(io::Error),
    #[error("connecting timed out")]
    ConnectTimeout,
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("the TLS handshake timed out")]
    TlsTimeout,
}

impl ConnectError {
    /// Returns WASI's error code, and records a denial.
    pub(super) fn explain(&self, denial_log: &DenialLog) -> Error {
        match self {
            Self::NoTarget => Error::HttpRequestUriInvalid,
            Self::Unresolvable(error) => Error::DnsError { rcode: Some(error.to_string()), info_code: None },
            Self::NoAddress => Error::DestinationNotFound,
            Self::Restricted(target, address, kind) => {
                denial_log.record(Denial::Led(denial_log.guest_text(&target.to_string()), *address, kind));
                Error::DestinationIpProhibited
            }
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Error::ConnectionRefused
            }
            Self::ConnectTimeout => Error::ConnectionTimeout,
            Self::Tls(error) if is_certificate(error) => Error::TlsCertificateError,
            // The only error code that has room for a reason.
            Self::Connect(_) | Self::Tls(_) | Self::TlsTimeout => {
                Error::InternalError(Some(self.to_string()))
            }
        }
    }
}

/// Reports whether the server's certificate was not accepted.
fn is_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

impl Connector {
    pub(super) fn new(
        net: NetPolicy,
        tls: Arc<ClientConfig>,
        connect_timeout: Duration,
        tls_timeout: Duration,
    ) -> Self {
        Self { net, tls: tls.into(), connect_timeout, tls_timeout }
    }

    async fn dial(self, uri: Uri) -> Result<Dialled, ConnectError> {
        let target = target(&uri).ok_or(ConnectError::NoTarget)?;
        let deadline = Instant::now() + self.connect_timeout;
        let found =
            timeout_at(deadline, addresses(&target)).await.map_err(|_| ConnectError::ConnectTimeout)??;
        let stream = self.connect(&target, &found, deadline).await?;
        // Requests are small, and their senders wait for the response.
        stream.set_nodelay(true).map_err(ConnectError::Connect)?;
        if target.scheme == HttpScheme::Http {
            return Ok(Dialled::new(stream));
        }
        let name = server_name(&target.host).ok_or(ConnectError::NoTarget)?;
        let handshake = timeout(self.tls_timeout, self.tls.connect(name, stream));
        let stream = handshake.await.map_err(|_| ConnectError::TlsTimeout)?;
        Ok(Dialled::new(stream.map_err(ConnectError::Tls)?))
    }

    /// Connects to the first address that accepts. Each gets its share of the time.
    async fn connect(
        &self,
        target: &HttpTarget,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let is_name = matches!(target.host, NetHost::Name(_));
        let mut failure = ConnectError::NoAddress;
        for (n_tried, &address) in addresses.iter().enumerate() {
            if is_name && let Some(kind) = self.net.restriction(address) {
                failure = ConnectError::Restricted(target.clone(), address, kind);
                continue;
            }
            let n_left = (addresses.len() - n_tried) as u32;
            let share = deadline.saturating_duration_since(Instant::now()) / n_left;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = ConnectError::Connect(error),
                Err(_) => failure = ConnectError::ConnectTimeout,
            }
        }
        Err(failure)
    }
}

async fn addresses(target: &HttpTarget) -> Result<Vec<SocketAddr>, ConnectError> {
    match &target.host {
        NetHost::Address(address) => Ok(vec![SocketAddr::new(*address, target.port)]),
        NetHost::Name(name) => {
            let found =
                lookup_host((name.as_str(), target.port)).await.map_err(ConnectError::Unresolvable)?;
            Ok(found.collect())
        }
        NetHost::Network(_) => Err(ConnectError::NoTarget),
    }
}

/// Returns the name that the server's certificate must be for.
fn server_name(host: &NetHost) -> Option<ServerName<'static>> {
    match host {
        NetHost::Name(name) => ServerName::try_from(name.clone()).ok(),
        NetHost::Address(IpAddr::V4(address)) => Some(ServerName::from(*address)),
        NetHost::Address(IpAddr::V6(address)) => Some(ServerName::from(*address)),
        NetHost::Network(_) => None,
    }
}

impl Service<Uri> for Connector {
    type Response = Dialled;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Dialled, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, with or without TLS.
pub(super) struct Dialled(TokioIo<Box<dyn Io>>);

impl Dialled {
    fn new(stream: impl Io + 'static) -> Self {
        Self(TokioIo::new(Box::new(stream)))
    }
}

impl Connection for Dialled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, room)
    }
}

impl Write for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::NetGrant;

    fn dial(
        grants: &[&str],
        target: &HttpTarget,
        addresses: &[SocketAddr],
    ) -> Result<TcpStream, ConnectError> {
        let grants: Vec<_> = grants.iter().map(|text| NetGrant::parse(text).unwrap()).collect();
        let net = NetPolicy::resolve(&grants, crate::wasm::policy::network::system_resolver).unwrap();
        let tls = super::super::tls::client_config(None).unwrap();
        let connector = Connector::new(net, tls, Duration::from_secs(30), Duration::from_secs(30));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        runtime.block_on(connector.connect(target, addresses, deadline.into()))
    }

    fn named(name: &str, port: u16) -> HttpTarget {
        HttpTarget { scheme: HttpScheme::Http, host: NetHost::Name(name.into()), port }
    }

    #[test]
    fn what_a_name_leads_to_by_now_is_judged_before_it_is_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let target = named("cache.example", address.port());
        match dial(&[], &target, &[address]) {
            Err(ConnectError::Restricted(_, refused, "loopback")) => assert_eq!(refused, address),
            other => panic!("{other:?}"),
        }
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), address.port());
        assert!(matches!(dial(&[], &target, &[mapped]), Err(ConnectError::Restricted(..))));
        assert!(listener.accept().is_err(), "nobody has called");
        let grant = format!("http://{address}");
        dial(&[&grant], &target, &[address]).unwrap();
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn addresses_are_tried_one_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap();
        let closed = SocketAddr::new(closed.ip(), address.port());
        let grants = [format!("http://{address}"), format!("http://{closed}")];
        let grants = grants.each_ref().map(String::as_str);
        let target = named("cache.example", address.port());
        let stream = dial(&grants, &target, &[closed, address]).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(matches!(dial(&grants, &target, &[closed]), Err(ConnectError::Connect(_))));
        assert!(matches!(dial(&grants, &target, &[]), Err(ConnectError::NoAddress)));
    }
}
