//! A TCP proxy on loopback in front of a server: slow, silent, or cut in the middle of an answer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// Bytes that are forwarded at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces per second on a slow connection.
const SLOW_PIECES_PER_S: u64 = 50;

/// Forwards connections to a server. The way it treats their bytes can change at any time, also for open connections.
/// Ends all connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    sockets: Vec<TcpStream>,
    n_connections: usize,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Pass,
    Slow { bytes_per_s: u64 },
    CutAfter { n_bytes: u64 },
    BlackHole,
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for the proxy")?;
        let addr = listener.local_addr()?;
        let state = State { mode: Mode::Pass, sockets: Vec::new(), n_connections: 0 };
        let shared = Arc::new(Shared { target, state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::Builder::new().name("proxy".into()).spawn(move || accepting.accept(&listener))?;
        Ok(Self { addr, shared })
    }

    /// Returns the address that clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Forwards everything as it arrives.
    pub fn pass(&self) {
        self.shared.set(Mode::Pass);
    }

    /// Forwards at most this many bytes a second, in each direction of each connection.
    pub fn slow(&self, bytes_per_s: u64) {
        self.shared.set(Mode::Slow { bytes_per_s: bytes_per_s.max(1) });
    }

    /// Ends the connection that carries the byte after the next `n_bytes` towards a client. Other and later connections
    /// are forwarded.
    pub fn cut_after(&self, n_bytes: u64) {
        self.shared.set(Mode::CutAfter { n_bytes });
    }

    /// Accepts connections and keeps them open, but forwards nothing until the mode changes.
    pub fn black_hole(&self) {
        self.shared.set(Mode::BlackHole);
    }

    /// Returns how many connections have been accepted so far.
    pub fn n_connections(&self) -> usize {
        self.shared.lock().n_connections
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.mode = Mode::Closed;
        state.sockets.drain(..).for_each(|socket| end(&socket));
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.addr));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mode: Mode) {
        self.lock().mode = mode;
        self.changed.notify_all();
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            if matches!(self.lock().mode, Mode::Closed) {
                return;
            }
            self.lock().n_connections += 1;
            // To the client, a server that is down is a connection that ends at once.
            let Ok(server) = TcpStream::connect(self.target) else { continue };
            self.forward(&client, &server, Direction::ToServer);
            self.forward(&server, &client, Direction::ToClient);
            self.lock().sockets.extend([client, server]);
        }
    }

    fn forward(self: &Arc<Self>, from: &TcpStream, to: &TcpStream, direction: Direction) {
        let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
        let shared = Arc::clone(self);
        thread::spawn(move || {
            drop(to.set_nodelay(true));
            let mut piece = vec![0; PIECE_BYTES];
            while let Some(at_most) = shared.allowance(direction) {
                let n = match from.read(&mut piece[..at_most]) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => n,
                };
                let n_allowed = shared.take(direction, n);
                if to.write_all(&piece[..n_allowed]).is_err() || n_allowed < n {
                    break;
                }
            }
            end(&from);
            end(&to);
        });
    }

    /// Waits until bytes may pass, and returns the size of the next piece; `None` at the end.
    fn allowance(&self, direction: Direction) -> Option<usize> {
        let mut state = self.lock();
        loop {
            match state.mode {
                Mode::Closed => return None,
                Mode::BlackHole => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Mode::Slow { bytes_per_s } => {
                    let pieces_per_s = SLOW_PIECES_PER_S.min(bytes_per_s);
                    drop(state);
                    thread::sleep(Duration::from_secs(1) / pieces_per_s as u32);
                    return Some(PIECE_BYTES.min((bytes_per_s / pieces_per_s) as usize));
                }
                Mode::CutAfter { n_bytes } if direction == Direction::ToClient => {
                    // One byte more than may pass, so that the cut happens only when there is a byte to cut.
                    return Some(PIECE_BYTES.min(n_bytes as usize + 1));
                }
                Mode::CutAfter { .. } | Mode::Pass => return Some(PIECE_BYTES),
            }
        }
    }

    /// Returns how many of `n` bytes that were read may pass. If fewer, the connection ends.
    fn take(&self, direction: Direction, n: usize) -> usize {
        let mut state = self.lock();
        loop {
            match &mut state.mode {
                Mode::CutAfter { n_bytes } if direction == Direction::ToClient => {
                    let n_allowed = n.min(*n_bytes as usize);
                    *n_bytes -= n_allowed as u64;
                    if n_allowed < n {
                        state.mode = Mode::Pass;
                    }
                    return n_allowed;
                }
                // Bytes that were being read when forwarding stopped are held back too.
                Mode::BlackHole => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Mode::Closed => return 0,
                _ => return n,
            }
        }
    }
}

/// Ends a connection in both directions. A connection that has ended stays as it is.
fn end(socket: &TcpStream) {
    drop(socket.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::Proxy;

    /// Starts a server that echoes what it receives.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                thread::spawn(move || std::io::copy(&mut client.try_clone().unwrap(), &mut client));
            }
        });
        addr
    }

    fn ask(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
        client.write_all(bytes).unwrap();
        let mut answer = vec![0; bytes.len()];
        client.read_exact(&mut answer).unwrap();
        answer
    }

    #[test]
    fn everything_passes_and_connections_are_counted() {
        let proxy = Proxy::start(echo()).unwrap();
        for n in 1..=3 {
            let mut client = TcpStream::connect(proxy.addr()).unwrap();
            assert_eq!(ask(&mut client, b"hello"), b"hello");
            assert_eq!(proxy.n_connections(), n);
        }
    }

    #[test]
    fn a_cut_comes_after_exactly_so_many_bytes_and_once() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut client = TcpStream::connect(proxy.addr()).unwrap();
        assert_eq!(ask(&mut client, b"before"), b"before");
        proxy.cut_after(100_000);
        client.write_all(&vec![7; 150_000]).unwrap();
        let mut answer = Vec::new();
        // The connection may end with a close or a reset.
        drop(client.read_to_end(&mut answer));
        assert_eq!(answer.len(), 100_000);
        let mut client = TcpStream::connect(proxy.addr()).unwrap();
        assert_eq!(ask(&mut client, &vec![1; 200_000]), vec![1; 200_000]);
    }

    #[test]
    fn a_black_hole_gives_back_what_fell_into_it() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut client = TcpStream::connect(proxy.addr()).unwrap();
        assert_eq!(ask(&mut client, b"before"), b"before");
        proxy.black_hole();
        client.write_all(b"held").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut answer = [0; 4];
        let held = client.read(&mut answer).unwrap_err();
        assert!(matches!(held.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{held}");
        proxy.pass();
        client.set_read_timeout(None).unwrap();
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"held");
    }

    #[test]
    fn a_slow_connection_takes_its_time() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut client = TcpStream::connect(proxy.addr()).unwrap();
        proxy.slow(100_000);
        let started = Instant::now();
        assert_eq!(ask(&mut client, &vec![3; 30_000]), vec![3; 30_000]);
        assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    }

    #[test]
    fn the_end_of_the_proxy_is_the_end_of_its_connections() {
        let proxy = Proxy::start(echo()).unwrap();
        let addr = proxy.addr();
        let mut client = TcpStream::connect(addr).unwrap();
        assert_eq!(ask(&mut client, b"before"), b"before");
        drop(proxy);
        assert!(!matches!(client.read(&mut [0; 1]), Ok(1..)));
    }
}
