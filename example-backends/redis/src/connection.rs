//! One connection: commands go out, replies come in, in the same order.

use std::future::IntoFuture;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use kvtier_guest::futures_util::future::{Either, select};
use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::wasip3::sockets::ip_name_lookup::{ErrorCode as LookupError, resolve_addresses};
use kvtier_guest::wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket,
};
use kvtier_guest::wasip3::wit_stream;
use kvtier_guest::wit_bindgen::rt::async_support::{FutureReader, StreamReader, StreamResult, StreamWriter};
use kvtier_guest::{COPY_BYTES_MAX, Error, Sinks, Sources};
use redis_protocol::resp2::types::OwnedFrame;

use crate::config::{Address, Link};
use crate::resp::{self, Head, Refusal};
use crate::watch::{Wait, Watch};

/// Room for what is received: large, so that a value takes few reads.
const BUFFER_BYTES: usize = 256 << 10;
/// The first bytes of a large value go with its header.
const FIRST_BYTES: u64 = 64 << 10;
/// The last write of a call has so many bytes if the call has: several packets of any network. A small packet is not
/// sent as long as an earlier small one is unacknowledged (Nagle's algorithm, which WASI cannot switch off), and the
/// server acknowledges at once only what is more than a packet.
const LAST_BYTES: u64 = 192 << 10;

/// A connection to a server that has let us in.
pub(crate) struct Connection {
    /// Where it leads to.
    pub(crate) address: Address,
    // The socket lives as long as its handle.
    _socket: TcpSocket,
    writer: StreamWriter<u8>,
    reader: StreamReader<u8>,
    /// Why nothing more is received.
    ended: Option<FutureReader<Result<(), ErrorCode>>>,
    /// Ends steps that take too long.
    wait: Rc<Wait>,
    /// What has been received; before `start` it has been used.
    buffer: Vec<u8>,
    start: usize,
}

/// Why a connection is of no use any more.
#[derive(Clone, Debug)]
pub(crate) enum Broken {
    /// The server or the network ended it.
    Lost(Error),
    /// The server is silent, or says what it should not.
    Faulty(Error),
    /// Our side gave up in the middle: the call is over.
    Over(Error),
}

impl Broken {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Lost(error) | Self::Faulty(error) | Self::Over(error) => error,
        }
    }
}

impl Connection {
    /// Connects, authenticates and selects the database, and has the server answer at least once.
    ///
    /// # Errors
    /// `unavailable` if there is no connection; `invalid-config` if the server does not let us in.
    pub(crate) async fn open(address: &Address, link: &Link, watch: &Watch) -> Result<Self, Error> {
        let opening = async {
            let socket = connect(address).await?;
            let (writer, outgoing) = wit_stream::new();
            // Its result is that of the writes.
            drop(socket.send(outgoing));
            let (reader, ended) = socket.receive();
            let mut connection = Self {
                address: address.clone(),
                _socket: socket,
                writer,
                reader,
                ended: Some(ended),
                wait: watch.add(),
                buffer: Vec::with_capacity(BUFFER_BYTES),
                start: 0,
            };
            connection.enter(link).await?;
            Ok(connection)
        };
        let timeout = monotonic_clock::wait_for(link.io_timeout.as_nanos() as u64);
        match select(pin!(opening), pin!(timeout)).await {
            Either::Left((opened, _)) => opened,
            Either::Right(_) => {
                let why = format!("{address}: no answer within {} ms", link.io_timeout.as_millis());
                Err(Error::unavailable(why))
            }
        }
    }

    async fn enter(&mut self, link: &Link) -> Result<(), Error> {
        let database = link.database.to_string();
        let (mut out, mut steps) = (Vec::new(), Vec::new());
        if let Some(password) = &link.password {
            let username = link.username.as_ref().map(String::as_bytes);
            let words = [&b"AUTH"[..]].into_iter().chain(username).chain([password.as_bytes()]);
            resp::command(&mut out, &words.collect::<Vec<_>>());
            steps.push(Step::Authenticate);
        }
        if link.database != 0 {
            resp::command(&mut out, &[b"SELECT", database.as_bytes()]);
            steps.push(Step::Select);
        }
        if steps.is_empty() {
            resp::command(&mut out, &[b"PING"]);
            steps.push(Step::Greet);
        }
        self.write(out).await.map_err(Broken::into_error)?;
        for step in steps {
            let OwnedFrame::Error(words) = self.reply().await.map_err(Broken::into_error)? else { continue };
            let says = format!("the server at {} says: {words}", self.address);
            return Err(match (step, resp::refusal(&words, &self.address)) {
                (Step::Greet, _) if words.starts_with("NOPERM") => continue,
                (_, Refusal::Error(error @ (Error::Unavailable(_) | Error::InvalidConfig(_)))) => error,
                // Servers that do not know the command repeat its arguments.
                (Step::Authenticate, _) => {
                    let kind = words.split(' ').next().unwrap_or_default();
                    resp::denied(&format!("the server at {} says: {kind}", self.address))
                }
                (Step::Select, _) => Error::invalid_config("database", says),
                (Step::Greet, refusal) => refusal.into_error(),
            });
        }
        Ok(())
    }

    /// Writes all of `bytes`. May be called for many commands before the first reply is read: a server keeps its
    /// replies while it reads commands.
    pub(crate) async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Broken> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut written = self.wait.step(self.writer.write(bytes)).await;
        loop {
            let rest = match written {
                Some((StreamResult::Complete(_), rest)) => rest,
                Some(_) => return Err(Broken::Lost(self.failed("the connection takes nothing more"))),
                None => return Err(self.silent()),
            };
            if rest.remaining() == 0 {
                return Ok(());
            }
            written = self.wait.step(self.writer.write_buf(rest)).await;
        }
    }

    /// Writes `SET name value`, with `NX` unless it replaces, and with the bytes of chunk `index`, or leaves the last of it in `out`. Never has more
    /// than a piece of it in memory.
    pub(crate) async fn write_set(
        &mut self,
        out: &mut Vec<u8>,
        (name, replaces): (&str, bool),
        ttl: Option<Duration>,
        data: &Sources,
        index: u32,
    ) -> Result<(), Broken> {
        let size = data.len(index);
        resp::begin(out, 3 + if ttl.is_some() { 2 } else { 0 } + usize::from(!replaces));
        resp::bulk(out, b"SET");
        resp::bulk(out, name.as_bytes());
        resp::bulk_header(out, size);
        let (first, last) = if size <= 2 * LAST_BYTES { (size, 0) } else { (FIRST_BYTES, LAST_BYTES) };
        append(out, data, index, 0, first)?;
        let mut offset = first;
        if last > 0 {
            self.write(std::mem::take(out)).await?;
        }
        while offset < size - last {
            let n = (size - last - offset).min(COPY_BYTES_MAX);
            self.write(data.read(index, offset, n).map_err(Broken::Over)?).await?;
            offset += n;
        }
        append(out, data, index, offset, last)?;
        out.extend_from_slice(b"\r\n");
        if let Some(ttl) = ttl {
            resp::bulk(out, b"PX");
            resp::bulk(out, ttl.as_millis().to_string().as_bytes());
        }
        if !replaces {
            resp::bulk(out, b"NX");
        }
        if out.len() as u64 >= 2 * LAST_BYTES {
            let last = out.split_off(out.len() - LAST_BYTES as usize);
            self.write(std::mem::replace(out, last)).await?;
        }
        Ok(())
    }

    /// Reads a reply that is not a value of a chunk.
    pub(crate) async fn reply(&mut self) -> Result<OwnedFrame, Broken> {
        loop {
            let decoded = resp::reply(&self.buffer[self.start..]).map_err(|why| self.faulty(&why))?;
            if let Some((frame, n_bytes)) = decoded {
                self.start += n_bytes;
                return Ok(frame);
            }
            self.receive().await?;
        }
    }

    /// Reads the reply to `GET` into buffer `index`: the number of bytes, or `None` if there is no such key.
    pub(crate) async fn read_value(
        &mut self,
        into: &Sinks,
        index: u32,
    ) -> Result<Result<Option<u64>, Refusal>, Broken> {
        let head = loop {
            let head = resp::head(&self.buffer[self.start..]).map_err(|why| self.faulty(&why))?;
            if let Some((head, n_bytes)) = head {
                self.start += n_bytes;
                break head;
            }
            self.receive().await?;
        };
        let size = match head {
            Head::Value(size) => size,
            Head::Absent => return Ok(Ok(None)),
            Head::Other => {
                return match self.reply().await? {
                    OwnedFrame::Error(words) => Ok(Err(resp::refusal(&words, &self.address))),
                    other => Err(self.faulty(&resp::unexpected(&other))),
                };
            }
        };
        let capacity = into.capacity(index);
        let is_right = size == capacity;
        let mut offset = 0;
        while offset < size {
            if self.start == self.buffer.len() {
                self.receive().await?;
            }
            let piece = &self.buffer[self.start..];
            let n = piece.len().min((size - offset) as usize);
            if is_right {
                into.write(index, offset, &piece[..n]).map_err(Broken::Over)?;
            }
            self.start += n;
            offset += n as u64;
        }
        while self.buffer.len() - self.start < 2 {
            self.receive().await?;
        }
        if !self.buffer[self.start..].starts_with(b"\r\n") {
            return Err(self.faulty("a value is not as long as it says"));
        }
        self.start += 2;
        if is_right {
            Ok(Ok(Some(size)))
        } else {
            Ok(Err(Error::corrupt(format!("{size} bytes stored, {capacity} expected")).into()))
        }
    }

    /// Whether everything that was received has been used.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// Receives more, at least a byte.
    async fn receive(&mut self) -> Result<(), Broken> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.drain(..self.start);
        self.start = 0;
        if buffer.capacity() == buffer.len() {
            // A long reply; its length is bounded where it is decoded.
            buffer.reserve(BUFFER_BYTES);
        }
        match self.wait.step(self.reader.read(buffer)).await {
            Some((StreamResult::Complete(1..), buffer)) => {
                self.buffer = buffer;
                Ok(())
            }
            Some(_) => Err(Broken::Lost(self.lost().await)),
            None => Err(self.silent()),
        }
    }

    async fn lost(&mut self) -> Error {
        let why = match self.ended.take() {
            Some(ended) => match self.wait.step(ended.into_future()).await {
                Some(Err(code)) => words(&code),
                _ => "the server ended the connection".to_owned(),
            },
            None => "the connection has ended".to_owned(),
        };
        self.failed(&why)
    }

    fn failed(&self, why: &str) -> Error {
        Error::unavailable(format!("{}: {why}", self.address))
    }

    fn silent(&self) -> Broken {
        Broken::Faulty(self.failed("no byte moved for too long (`config.io_timeout_ms`)"))
    }

    pub(crate) fn faulty(&self, why: &str) -> Broken {
        Broken::Faulty(Error::other(format!("{}: not the protocol of Redis: {why}", self.address)))
    }
}

/// Appends a part of chunk `index`.
fn append(out: &mut Vec<u8>, data: &Sources, index: u32, offset: u64, n: u64) -> Result<(), Broken> {
    if n > 0 {
        out.extend_from_slice(&data.read(index, offset, n).map_err(Broken::Over)?);
    }
    Ok(())
}

/// What a connection begins with.
enum Step {
    Authenticate,
    Select,
    Greet,
}

/// Connects to the first of the host's addresses that answers.
async fn connect(address: &Address) -> Result<TcpSocket, Error> {
    let failed = |why: String| Error::unavailable(format!("{address}: {why}"));
    let mut why = "the name has no address".to_owned();
    for ip in addresses(address.host()).await.map_err(failed)? {
        match connect_to(ip, address.port()).await {
            Ok(socket) => return Ok(socket),
            Err(code) => why = words(&code),
        }
    }
    Err(failed(why))
}

async fn addresses(host: &str) -> Result<Vec<IpAddress>, String> {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => Ok(vec![IpAddress::Ipv4(ip.octets().into())]),
        Ok(IpAddr::V6(ip)) => Ok(vec![IpAddress::Ipv6(ip.segments().into())]),
        Err(_) => resolve_addresses(host.to_owned()).await.map_err(|code| match code {
            LookupError::AccessDenied => "the name is not granted".to_owned(),
            code => format!("the name cannot be resolved: {code:?}"),
        }),
    }
}

async fn connect_to(ip: IpAddress, port: u16) -> Result<TcpSocket, ErrorCode> {
    let (family, to) = match ip {
        IpAddress::Ipv4(address) => {
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }))
        }
        IpAddress::Ipv6(address) => {
            let address = Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    };
    let socket = TcpSocket::create(family)?;
    socket.connect(to).await?;
    Ok(socket)
}

/// The system's words for a code.
fn words(code: &ErrorCode) -> String {
    match code {
        ErrorCode::AccessDenied => "not granted by `allow.net`".to_owned(),
        ErrorCode::ConnectionRefused => "connection refused".to_owned(),
        ErrorCode::ConnectionReset => "connection reset".to_owned(),
        ErrorCode::ConnectionBroken => "connection broken".to_owned(),
        ErrorCode::RemoteUnreachable => "unreachable".to_owned(),
        ErrorCode::Timeout => "timed out".to_owned(),
        ErrorCode::Other(Some(words)) => words.clone(),
        code => format!("{code:?}"),
    }
}
