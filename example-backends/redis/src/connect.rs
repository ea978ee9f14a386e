//! How a connection begins: a name, an address, a greeting.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use kvtier_guest::Error;
use kvtier_guest::futures_util::future::{Either, select};
use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::wasip3::sockets::ip_name_lookup::{ErrorCode as LookupError, resolve_addresses};
use kvtier_guest::wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket,
};
use redis_protocol::resp2::types::OwnedFrame;

use crate::config::{Address, Link};
use crate::connection::{Broken, Connection, words};
use crate::refusal::{self, Refusal};
use crate::resp;
use crate::watch::Watch;

/// Connects to the first of a host's addresses that lets us in, but for those that are to be avoided.
///
/// # Errors
/// `unavailable` if there is no connection; `invalid-config` if the server refuses the user.
pub(crate) async fn connect(
    address: &Address,
    link: &Link,
    watch: &Watch,
    avoided: &[SocketAddr],
) -> Result<Connection, Error> {
    let failed = |why: String| Error::unavailable(format!("{address}: {why}"));
    let opening = async {
        let mut error = failed("the name has no other address".to_owned());
        // Names are resolved each time: they may have moved.
        for ip in addresses(address.host()).await.map_err(failed)? {
            let peer = SocketAddr::new(ip, address.port());
            if avoided.contains(&peer) {
                continue;
            }
            let connected = match connect_to(peer).await {
                Ok(socket) => enter(Connection::new(address, peer, socket, watch), link).await,
                Err(code) => Err(failed(words(&code))),
            };
            match connected {
                Ok(connection) => return Ok(connection),
                Err(why) => error = why,
            }
        }
        Err(error)
    };
    let timeout = monotonic_clock::wait_for(link.io_timeout.as_nanos() as u64);
    match select(pin!(opening), pin!(timeout)).await {
        Either::Left((opened, _)) => opened,
        Either::Right(_) => Err(failed(format!("no answer within {} ms", link.io_timeout.as_millis()))),
    }
}

/// The commands at the beginning of a connection.
#[derive(Clone, Copy)]
enum Step {
    Authenticate,
    Select,
    Greet,
}

/// Authenticates and selects the database, and has the server answer at least once.
async fn enter(mut connection: Connection, link: &Link) -> Result<Connection, Error> {
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
    // A full server sends a refusal and ends the connection before it reads anything.
    let written = connection.writer.write(out).await;
    for step in steps {
        let reply = match (connection.reader.reply().await, &written) {
            (Ok(reply), _) => reply,
            (Err(_), Err(broken)) => return Err(broken.clone().into_error()),
            (Err(broken), Ok(())) => return Err(broken.into_error()),
        };
        if let OwnedFrame::Error(words) = reply {
            answered(step, &words, &connection.address)?;
        }
    }
    written.map_err(Broken::into_error)?;
    Ok(connection)
}

/// Judges an error that a server answers with at the beginning.
fn answered(step: Step, words: &str, from: &Address) -> Result<(), Error> {
    refusal::greeting(words, from)?;
    let answer = format!("the server at {from} answered: {words}");
    match (step, refusal::refusal(words, from)) {
        (Step::Greet, _) => Ok(()),
        (_, Refusal::Error(error @ (Error::Unavailable(_) | Error::InvalidConfig(_)))) => Err(error),
        // Servers that do not know the command repeat its arguments.
        (Step::Authenticate, _) => {
            let kind = words.split(' ').next().unwrap_or_default();
            Err(refusal::denied(&format!("the server at {from} answered: {kind}")))
        }
        (Step::Select, _) => Err(Error::invalid_config("database", answer)),
    }
}

async fn addresses(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    let resolved = resolve_addresses(host.to_owned()).await.map_err(|code| match code {
        LookupError::AccessDenied => "the name is not granted".to_owned(),
        code => format!("the name cannot be resolved: {code:?}"),
    })?;
    let ip = |address| match address {
        IpAddress::Ipv4(parts) => IpAddr::from(<[u8; 4]>::from(parts)),
        IpAddress::Ipv6(parts) => IpAddr::from(<[u16; 8]>::from(parts)),
    };
    Ok(resolved.into_iter().map(ip).collect())
}

async fn connect_to(peer: SocketAddr) -> Result<TcpSocket, ErrorCode> {
    let port = peer.port();
    let (family, to) = match peer.ip() {
        IpAddr::V4(ip) => {
            let address = Ipv4SocketAddress { port, address: ip.octets().into() };
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(address))
        }
        IpAddr::V6(ip) => {
            let address =
                Ipv6SocketAddress { port, flow_info: 0, address: ip.segments().into(), scope_id: 0 };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    };
    let socket = TcpSocket::create(family)?;
    socket.connect(to).await?;
    Ok(socket)
}
