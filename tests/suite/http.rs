//! HTTP for backends: only to granted targets, over kept connections, each step within its time limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use kvtier::{BackendConfig, BuildError, EngineBuilder, HttpScheme, NetGrant, NetHost, PortRange};

use crate::grants::{CLASSES, assert_denied, intruder, run};
use crate::support;

/// A server on a loopback port that counts connections and requests.
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
}

/// Requests to `/together` that are answered at the same time.
const TOGETHER: usize = 3;

struct Seen {
    connections: AtomicUsize,
    /// Requests being answered, now and at most.
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    requests: Mutex<Vec<String>>,
    together: Barrier,
}

impl Seen {
    fn new() -> Self {
        Self {
            connections: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            at_once_max: AtomicUsize::new(0),
            requests: Mutex::default(),
            together: Barrier::new(TOGETHER),
        }
    }
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), seen: Arc::new(Seen::new()) };
        let seen = Arc::clone(&server.seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let seen = Arc::clone(&seen);
                seen.connections.fetch_add(1, Ordering::AcqRel);
                std::thread::spawn(move || serve(stream.unwrap(), &seen));
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn n_connections(&self) -> usize {
        self.seen.connections.load(Ordering::Acquire)
    }
}

/// Answers requests by their path until the connection ends.
fn serve(stream: TcpStream, seen: &Seen) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let (mut first, mut n_bytes) = (String::new(), 0);
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            if header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                n_bytes = value.trim().parse().unwrap();
            }
        }
        if first.contains(" /early ") {
            // The answer precedes the body, which never comes.
            let at_once = seen.at_once.fetch_add(1, Ordering::AcqRel) + 1;
            seen.at_once_max.fetch_max(at_once, Ordering::AcqRel);
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
            // A close or a reset: both end the connection.
            drop(reader.read_to_end(&mut Vec::new()));
            seen.at_once.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let mut body = vec![0; n_bytes];
        reader.read_exact(&mut body).unwrap();
        seen.requests.lock().unwrap().push(first.trim().to_owned());
        let at_once = seen.at_once.fetch_add(1, Ordering::AcqRel) + 1;
        seen.at_once_max.fetch_max(at_once, Ordering::AcqRel);
        let path = first.split(' ').nth(1).unwrap_or_default();
        let answer = match path.split_once("?to=") {
            Some((_, location)) => {
                format!("HTTP/1.1 307 Elsewhere\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
            }
            None if path == "/silent" => String::new(),
            None if path == "/half" => "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf-".to_owned(),
            None if path == "/cut" => {
                writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf-").unwrap();
                return;
            }
            None if path == "/together" => {
                seen.together.wait();
                "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\ntogether".to_owned()
            }
            None => {
                let told = format!("{} with {n_bytes}", first.trim());
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{told}", told.len())
            }
        };
        seen.at_once.fetch_sub(1, Ordering::AcqRel);
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn http(host: &str, port: u16) -> NetGrant {
    let host = match host.parse() {
        Ok(address) => NetHost::Address(address),
        Err(_) => NetHost::Name(host.to_owned()),
    };
    NetGrant::Http { scheme: HttpScheme::Http, host, port }
}

/// Returns an intruder that may make requests to a server.
fn granted(class: &str, steps: &str, server: &Server) -> BackendConfig {
    let mut backend = intruder(class, steps);
    backend.allow.net.push(http("127.0.0.1", server.address.port()));
    backend
}

/// Returns the error text of a backend's `get`.
fn error(backend: BackendConfig) -> String {
    let seen = run(backend);
    seen.error.unwrap_or_else(|| panic!("succeeded: {:?}", seen.heard)).to_string()
}

#[test]
fn requests_to_what_is_granted_are_answered_in_both_versions_of_wasi() {
    for class in CLASSES {
        let server = Server::start();
        let url = server.url("/a?b=c");
        let seen = run(granted(class, &format!("get {url}; put {url} 100000"), &server));
        assert!(seen.error.is_none() && seen.denied.is_empty(), "{:?} {:?}", seen.error, seen.denied);
        assert_eq!(
            seen.heard,
            [
                format!("get {url}: 200 26 bytes GET /a?b=c HTTP/1.1 with 0"),
                format!("put {url} 100000: 200 31 bytes PUT /a?b=c HTTP/1.1 with 100000"),
            ],
            "{class}"
        );
    }
}

#[test]
fn connections_are_kept_and_used_again() {
    for class in CLASSES {
        let server = Server::start();
        let steps = vec![format!("get {}", server.url("/")); 20].join("; ");
        let seen = run(granted(class, &steps, &server));
        assert_eq!((seen.error, seen.heard.len()), (None, 20), "{class}");
        // A connection returns to the pool a moment after the answer, so the next request may come first.
        assert!(server.n_connections() < 20, "{class}: {}", server.n_connections());
    }
}

#[test]
fn requests_to_what_is_not_granted_are_denied_and_never_leave_the_host() {
    for class in CLASSES {
        let (server, other) = (Server::start(), Server::start());
        let port = other.address.port();
        let backend = granted(class, &format!("get http://127.0.0.1:{port}/path?key=signature"), &server);
        let (what, remedy) = (
            format!("an HTTP request to \"http://127.0.0.1:{port}\""),
            format!("add allow.net: [\"http://127.0.0.1:{port}\"]"),
        );
        assert_denied(backend, &what, &remedy);
        // Also without any grant.
        assert_denied(intruder(class, &format!("get http://127.0.0.1:{port}")), &what, &remedy);
        let tls = format!("an HTTP request to \"https://127.0.0.1:{}\"", server.address.port());
        let remedy = format!("add allow.net: [\"https://127.0.0.1:{}\"]", server.address.port());
        let url = server.url("").replace("http:", "https:");
        assert_denied(granted(class, &format!("get {url}"), &server), &tls, &remedy);
        assert_eq!((server.n_connections(), other.n_connections()), (0, 0));
    }
}

#[test]
fn other_spellings_of_an_address_are_judged_or_refused() {
    let server = Server::start();
    let port = server.address.port();
    for url in [
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://user@127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
    ] {
        let error = error(granted("AsyncIntruderBackend", &format!("get {url}"), &server));
        assert!(error.contains("HttpRequestDenied") || error.contains("no such request"), "{url}: {error}");
    }
    assert_eq!(server.n_connections(), 0);
}

#[test]
fn a_socket_grant_is_none_for_http_nor_the_other_way_round() {
    for class in CLASSES {
        let server = Server::start();
        let port = server.address.port();
        let mut backend = intruder(class, &format!("get {}", server.url("/")));
        let ports = PortRange { first: port, last: port };
        backend.allow.net.push(NetGrant::Tcp { host: NetHost::Address(server.address.ip()), ports });
        assert_denied(
            backend,
            &format!("an HTTP request to \"http://127.0.0.1:{port}\""),
            &format!("add allow.net: [\"http://127.0.0.1:{port}\"]"),
        );
        let backend = granted(class, &format!("connect 127.0.0.1:{port}"), &server);
        assert_denied(backend, "a TCP socket", "add allow.net: [\"tcp://HOST:PORT\"]");
        assert_eq!(server.n_connections(), 0);
    }
}

#[test]
fn a_redirect_leads_only_where_requests_may_go() {
    for class in CLASSES {
        let (server, other) = (Server::start(), Server::start());
        let port = other.address.port();
        let steps = format!("follow {}", server.url(&format!("/?to={}", other.url("/there"))));
        assert_denied(
            granted(class, &steps, &server),
            &format!("an HTTP request to \"http://127.0.0.1:{port}\""),
            &format!("add allow.net: [\"http://127.0.0.1:{port}\"]"),
        );
        assert_eq!((server.n_connections(), other.n_connections()), (1, 0), "{class}");
        let mut backend = granted(class, &steps, &server);
        backend.allow.net.push(http("127.0.0.1", port));
        assert_eq!(run(backend).error, None);
        assert_eq!(*other.seen.requests.lock().unwrap(), ["GET /there HTTP/1.1"]);
    }
}

#[test]
fn a_granted_server_is_no_proxy() {
    let server = Server::start();
    let url = server.url("/");
    for class in CLASSES {
        let error = error(granted(class, &format!("connect-to {url}"), &server));
        assert!(error.contains("HttpRequestMethodInvalid"), "{class}: {error}");
    }
    assert_eq!(server.n_connections(), 0);
}

#[test]
fn a_name_that_leads_to_this_machine_needs_the_address_granted_too() {
    let server = Server::start();
    let port = server.address.port();
    let mut backend = intruder("AsyncIntruderBackend", &format!("get http://LocalHost:{port}/"));
    backend.allow.net.push(http("localhost", port));
    let refused =
        EngineBuilder::new(support::config(vec![backend.clone()]), support::metadata()).build_blocking();
    let text = match refused {
        Err(error @ BuildError::Load { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(text.contains(&format!("`http://localhost:{port}`: the name resolves to")), "{text}");
    backend.allow.net.extend([http("127.0.0.1", port), http("::1", port)]);
    let seen = run(backend);
    assert_eq!((seen.error, seen.heard.len()), (None, 1));
}

#[test]
fn no_more_requests_are_under_way_than_allowed_and_the_others_wait() {
    let server = Server::start();
    let mut backend = granted("AsyncIntruderBackend", &format!("get {}", server.url("/together")), &server);
    backend.limits.http_requests_max = TOGETHER;
    let name = backend.name.clone();
    let engine = support::engine(support::config(vec![backend]));
    // `get` works on the keys of a call side by side.
    let found = support::get(engine.storage(), &support::keys(12));
    assert!(found.chunks.is_empty());
    engine.blocking().close().unwrap();
    assert_eq!(support::log().heard(&name).len(), 12);
    assert_eq!(server.seen.at_once_max.load(Ordering::Acquire), TOGETHER);
}

#[test]
fn a_request_that_does_not_end_takes_a_turn_though_it_was_answered() {
    let server = Server::start();
    let steps = vec![format!("hold {}", server.url("/early")); 8].join("; ");
    let mut backend = granted("AsyncIntruderBackend", &steps, &server);
    backend.limits.http_requests_max = 2;
    // The third request waits for its turn until the call expires.
    backend.limits.call_timeout = support::EXPIRES;
    let seen = run(backend);
    assert_eq!((seen.heard.len(), server.n_connections()), (2, 2), "{:?}", seen.error);
}

#[test]
fn a_request_that_does_not_end_is_given_up_though_it_was_answered() {
    let server = Server::start();
    let mut backend = granted("AsyncIntruderBackend", &format!("hold {}", server.url("/early")), &server);
    backend.limits.request_timeout = Duration::from_millis(300);
    let engine = support::engine(support::config(vec![backend]));
    assert!(support::get(engine.storage(), &support::keys(1)).chunks.is_empty());
    support::eventually("it was made", || server.n_connections() == 1);
    support::eventually("it ends", || server.seen.at_once.load(Ordering::Acquire) == 0);
    assert_eq!(server.seen.at_once_max.load(Ordering::Acquire), 1);
}

#[test]
fn a_server_that_goes_silent_is_given_up() {
    for class in CLASSES {
        for (path, code, limit_ms) in [
            ("/silent", "HttpResponseTimeout", 100),
            // Its head has to come in time.
            ("/half", "ConnectionReadTimeout after 5 bytes", 4_000),
            ("/cut", "HttpResponseIncomplete after 5 bytes", 600_000),
        ] {
            // A stream of WASI 0.2 ends without a reason.
            if class == "IntruderBackend" && path != "/silent" {
                continue;
            }
            let server = Server::start();
            let mut backend = granted(class, &format!("get {}", server.url(path)), &server);
            backend.limits.request_timeout = Duration::from_millis(limit_ms);
            let error = error(backend);
            assert!(error.contains(code), "{class} {path}: {error}");
        }
    }
}

#[test]
fn a_server_that_says_nothing_to_tls_is_given_up() {
    for class in CLASSES {
        // The system accepts the connection, and no program ever answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (ip, port) = (listener.local_addr().unwrap().ip(), listener.local_addr().unwrap().port());
        let mut backend = intruder(class, &format!("get https://127.0.0.1:{port}/"));
        let host = NetHost::Address(ip);
        backend.allow.net.push(NetGrant::Http { scheme: HttpScheme::Https, host, port });
        backend.limits.tls_timeout = Duration::from_millis(100);
        let error = error(backend);
        assert!(error.contains("the TLS handshake timed out"), "{class}: {error}");
    }
}

/// Returns an address to which no connection succeeds as long as the returned sockets live.
fn unreachable() -> (SocketAddr, Vec<std::os::fd::OwnedFd>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let _context = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap().into_std().unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept: Vec<std::os::fd::OwnedFd> = vec![listener.into()];
    // The queue of unaccepted connections is full once a further connection has to wait.
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        kept.push(stream.into());
    }
    (address, kept)
}

#[test]
fn a_server_that_cannot_be_reached_is_given_up_by_http_and_by_sockets() {
    let (address, _full) = unreachable();
    let port = address.port();
    let ports = PortRange { first: port, last: port };
    for (class, step, code) in [
        (CLASSES[0], format!("get http://{address}/"), "ConnectionTimeout"),
        (CLASSES[1], format!("get http://{address}/"), "ConnectionTimeout"),
        (CLASSES[1], format!("connect {address}"), "Timeout"),
    ] {
        let mut backend = intruder(class, &step);
        backend.allow.net.push(http("127.0.0.1", port));
        backend.allow.net.push(NetGrant::Tcp { host: NetHost::Address(address.ip()), ports });
        backend.limits.connect_timeout = Duration::from_millis(100);
        let error = error(backend);
        assert!(error.contains(code), "{class} {step}: {error}");
    }
}

#[test]
fn a_closed_port_is_told_as_that() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for class in CLASSES {
        let mut backend = intruder(class, &format!("get http://127.0.0.1:{port}/"));
        backend.allow.net.push(http("127.0.0.1", port));
        let error = error(backend);
        assert!(error.contains("ConnectionRefused"), "{class}: {error}");
    }
}

#[test]
fn a_file_without_certificates_refuses_the_backend() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut backend = intruder("AsyncIntruderBackend", "");
    backend.ca_file = Some(file.path().to_owned());
    match EngineBuilder::new(support::config(vec![backend]), support::metadata()).build_blocking() {
        Err(error @ BuildError::Load { .. }) => {
            let text = error.to_string();
            assert!(text.contains("tls.ca_file") && text.contains("there is no certificate in it"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}
