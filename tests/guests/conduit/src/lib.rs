//! A class that hands chunks through from and to sockets, as streams that it does not look into, however slowly they
//! come.

use std::net::SocketAddrV4;

use kvtier_guest::prelude::*;
use kvtier_guest::wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket,
};

/// Contains everything; each chunk is what the server at `config.address` sends until it hangs up. A put sends it
/// there.
pub struct ConduitBackend {
    address: SocketAddrV4,
}

fn network<T>(outcome: Result<T, ErrorCode>) -> Result<T, Error> {
    outcome.map_err(|code| Error::unavailable(format!("{code:?}")))
}

impl ConduitBackend {
    async fn connect(&self) -> Result<TcpSocket, Error> {
        let socket = network(TcpSocket::create(IpAddressFamily::Ipv4))?;
        let [a, b, c, d] = self.address.ip().octets();
        let address = Ipv4SocketAddress { port: self.address.port(), address: (a, b, c, d) };
        network(socket.connect(IpSocketAddress::Ipv4(address)).await)?;
        Ok(socket)
    }

    async fn receive(&self, into: &Sinks, index: u32) -> Result<Option<u64>, Error> {
        let socket = self.connect().await?;
        let (bytes, _ended) = socket.receive();
        let outcome = into.write_stream(index, 0, bytes).await;
        info!("the transfer ended: {outcome:?}");
        outcome.map(Some)
    }

    async fn send(&self, data: &Sources, index: u32) -> Result<(), Error> {
        let socket = self.connect().await?;
        network(socket.send(data.read_stream(index, 0, data.len(index))).await)
    }
}

impl StorageBackend for ConduitBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&["address"])?;
        let address = init.parse("address")?;
        Ok(Self { address: address.ok_or_else(|| Error::invalid_config("address", "is missing"))? })
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        Ok(keys.len() as u32)
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        each(keys, async |index, _| self.send(data, index).await).await
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        each(keys, async |index, _| self.receive(into, index).await).await
    }
}

kvtier_guest::export!(ConduitBackend);
