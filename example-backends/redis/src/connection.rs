//! One connection: commands go out, replies come in, in the same order.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::rc::Rc;

use kvtier_guest::wasip3::sockets::types::{ErrorCode, TcpSocket};
use kvtier_guest::wasip3::wit_stream;
use kvtier_guest::wit_bindgen::rt::async_support::{FutureReader, StreamReader, StreamResult, StreamWriter};
use kvtier_guest::{Error, Sinks};
use redis_protocol::resp2::types::OwnedFrame;

use crate::config::Address;
use crate::refusal::{self, Refusal};
use crate::resp::{self, Head, Scan};
use crate::watch::{Wait, Watch};

/// Room for what is received: large, so that a value takes few reads.
const BUFFER_BYTES: usize = 256 << 10;
/// Bytes of a value of no use that are read past on a connection that calls share, before it is given up.
const SKIPPED_BYTES_MAX: u64 = 1 << 20;

/// A connection to a server that has let us in.
pub(crate) struct Connection {
    /// Where it leads to.
    pub(crate) address: Address,
    /// The same, of a name with several.
    pub(crate) peer: SocketAddr,
    pub(crate) writer: Writer,
    pub(crate) reader: Reader,
}

/// The way out.
pub(crate) struct Writer {
    address: Address,
    stream: StreamWriter<u8>,
    /// Ends steps that take too long.
    wait: Rc<Wait>,
}

/// The way in.
pub(crate) struct Reader {
    pub(crate) address: Address,
    // The socket lives as long as its handle.
    _socket: TcpSocket,
    stream: StreamReader<u8>,
    /// Why nothing more is received.
    ended: Option<FutureReader<Result<(), ErrorCode>>>,
    /// Ends steps that take too long.
    wait: Rc<Wait>,
    /// The bytes received; those before `start` have been used.
    buffer: Vec<u8>,
    start: usize,
    /// Replies to other calls come behind those to this one.
    is_shared: bool,
    /// The rest of a value was not worth reading.
    has_given_up: bool,
}

/// Why a connection is of no use any more.
#[derive(Clone, Debug)]
pub(crate) enum Broken {
    /// The server or the network ended it.
    Lost(Error),
    /// The server is silent, or sends something unexpected.
    Faulty(Error),
    /// Nothing is wrong with the server: the call is over, or was refused with the connection.
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
    /// Takes a socket that is connected.
    pub(crate) fn new(address: &Address, peer: SocketAddr, socket: TcpSocket, watch: &Watch) -> Self {
        let (writer, outgoing) = wit_stream::new();
        // Its result is that of the writes.
        drop(socket.send(outgoing));
        let (reader, ended) = socket.receive();
        Self {
            address: address.clone(),
            peer,
            writer: Writer { address: address.clone(), stream: writer, wait: watch.add() },
            reader: Reader {
                address: address.clone(),
                _socket: socket,
                stream: reader,
                ended: Some(ended),
                wait: watch.add(),
                buffer: Vec::with_capacity(BUFFER_BYTES),
                start: 0,
                is_shared: false,
                has_given_up: false,
            },
        }
    }
}

impl Writer {
    /// Writes all of `bytes`. May be called for many commands before the first reply is read: a server keeps its
    /// replies while it reads commands.
    pub(crate) async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Broken> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut written = self.wait.step(self.stream.write(bytes)).await;
        loop {
            let rest = match written {
                Some((StreamResult::Complete(_), rest)) => rest,
                Some(_) => {
                    return Err(Broken::Lost(failed(&self.address, "the connection takes nothing more")));
                }
                None => return Err(silent(&self.address)),
            };
            if rest.remaining() == 0 {
                return Ok(());
            }
            written = self.wait.step(self.stream.write_buf(rest)).await;
        }
    }
}

impl Reader {
    /// Reads a reply that is not a value of a chunk.
    pub(crate) async fn reply(&mut self) -> Result<OwnedFrame, Broken> {
        let mut scan = Scan::default();
        loop {
            let rest = &self.buffer[self.start..];
            if let Some(end) = scan.end(rest).map_err(|why| self.faulty(&why))? {
                let reply = resp::reply(&rest[..end]).map_err(|why| self.faulty(&why))?;
                self.start += end;
                return Ok(reply);
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
                    OwnedFrame::Error(words) => Ok(Err(refusal::refusal(&words, &self.address))),
                    other => Err(self.faulty(&resp::unexpected(&other))),
                };
            }
        };
        // What the call answers without the value. One that is larger than the buffer is not the chunk asked for.
        let mut passed_over = (size > into.capacity(index)).then_some(Ok(Some(size)));
        let mut offset = 0;
        while offset < size {
            if self.is_shared && size - offset > SKIPPED_BYTES_MAX && passed_over.is_some() {
                self.has_given_up = true;
                self.start = self.buffer.len();
                break;
            }
            if self.start == self.buffer.len() {
                self.receive().await?;
            }
            let piece = &self.buffer[self.start..];
            let n = piece.len().min((size - offset) as usize);
            if passed_over.is_none() {
                match into.write(index, offset, &piece[..n]) {
                    Ok(()) => {}
                    // The call is over. Replies to others come behind its own.
                    Err(error) if self.is_shared => passed_over = Some(Err(Refusal::Error(error))),
                    Err(error) => return Err(Broken::Over(error)),
                }
            }
            self.start += n;
            offset += n as u64;
        }
        if let Some(answer) = passed_over.take_if(|_| self.has_given_up) {
            return Ok(answer);
        }
        while self.buffer.len() - self.start < 2 {
            self.receive().await?;
        }
        if !self.buffer[self.start..].starts_with(b"\r\n") {
            return Err(self.faulty("a value differs from its stated length"));
        }
        self.start += 2;
        Ok(passed_over.unwrap_or(Ok(Some(size))))
    }

    /// Marks the connection as shared: the replies to several calls arrive one after the other.
    pub(crate) fn share(&mut self) {
        self.is_shared = true;
    }

    /// Reports whether it is of no use any more, since a value was not read to its end.
    pub(crate) fn has_given_up(&self) -> bool {
        self.has_given_up
    }

    /// Reports whether everything that was received has been used.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// Receives more, at least a byte.
    async fn receive(&mut self) -> Result<(), Broken> {
        if self.has_given_up {
            return Err(Broken::Lost(failed(&self.address, "given up in the middle of a large value")));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.drain(..self.start);
        self.start = 0;
        if buffer.capacity() == buffer.len() {
            // A long reply; its length is bounded where it is decoded.
            buffer.reserve(BUFFER_BYTES);
        }
        match self.wait.step(self.stream.read(buffer)).await {
            Some((StreamResult::Complete(1..), buffer)) => {
                self.buffer = buffer;
                Ok(())
            }
            Some(_) => Err(Broken::Lost(self.lost().await)),
            None => Err(silent(&self.address)),
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
        failed(&self.address, &why)
    }

    pub(crate) fn faulty(&self, why: &str) -> Broken {
        Broken::Faulty(Error::other(format!("{}: not the protocol of Redis: {why}", self.address)))
    }
}

fn failed(address: &Address, why: &str) -> Error {
    Error::unavailable(format!("{address}: {why}"))
}

fn silent(address: &Address) -> Broken {
    Broken::Faulty(failed(address, "no byte moved for too long (`config.io_timeout_ms`)"))
}

/// Returns the text of a socket's error.
pub(crate) fn words(code: &ErrorCode) -> String {
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
