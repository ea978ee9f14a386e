//! Behaviours of answers: what is returned is wrong.

use kvtier_guest::bindings::wit_stream;
use kvtier_guest::futures_util::future::join;
use kvtier_guest::wasip2::sockets::instance_network::instance_network;
use kvtier_guest::wasip2::sockets::ip_name_lookup::resolve_addresses;
use kvtier_guest::{ChunkKey, Error, Sinks, Sources, info};

use twox_hash::XxHash3_128;

use crate::class::Behaviour;
use crate::settings::{Results, Settings};
use crate::store::Store;

/// Returns one result too few, one too many, none, or very many.
#[derive(Default)]
pub(crate) struct WrongCount;

impl Behaviour for WrongCount {
    fn results<T>(&self, settings: &Settings, results: &mut Vec<Result<T, Error>>) {
        match settings.results {
            Results::Short => _ = results.pop(),
            Results::Long => results.push(Err(Error::other("one too many"))),
            Results::Empty => results.clear(),
            Results::Flood => {
                be_denied();
                results.clear();
                results.resize_with(FLOOD, || Err(Error::other("")));
            }
        }
    }
}

/// As many as fit into the default of `limits.hostcall_bytes`, about.
const FLOOD: usize = 400_000;

/// Asks for names that are not granted, as long as they are shown.
fn be_denied() {
    let network = instance_network();
    for first in ['a', 'b', 'c', 'd'] {
        let name = format!("{first}{}", "\u{10ffff}".repeat(199));
        drop(resolve_addresses(&network, &name));
    }
}

/// Claims to hold everything, and to have written what it has not.
#[derive(Default)]
pub(crate) struct Overclaim;

impl Behaviour for Overclaim {
    fn contained(&self, _run: u32) -> u32 {
        u32::MAX
    }

    fn bytes(&self, _store: &Store, _key: &ChunkKey) -> Option<Vec<u8>> {
        None
    }

    fn missing(&self, into: &Sinks, index: u32) -> Option<u64> {
        Some(into.capacity(index))
    }
}

/// Has what was put, and delivers none of it.
#[derive(Default)]
pub(crate) struct Phantom;

impl Behaviour for Phantom {
    fn bytes(&self, _store: &Store, _key: &ChunkKey) -> Option<Vec<u8>> {
        None
    }
}

/// Flips a bit in the middle.
#[derive(Default)]
pub(crate) struct WrongBytes;

impl Behaviour for WrongBytes {
    fn bytes(&self, store: &Store, key: &ChunkKey) -> Option<Vec<u8>> {
        let mut bytes = store.bytes(key)?;
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        Some(bytes)
    }
}

/// Returns bytes that it made up, as many as asked for.
#[derive(Default)]
pub(crate) struct Garbage;

impl Behaviour for Garbage {
    fn bytes(&self, store: &Store, key: &ChunkKey) -> Option<Vec<u8>> {
        let n_bytes = store.bytes(key)?.len();
        Some((0..n_bytes).map(|n| (n as u8).wrapping_mul(31) ^ key.lo as u8).collect())
    }
}

/// Flips a bit and computes the checksum anew, as anybody can who has read how chunks are sealed.
#[derive(Default)]
pub(crate) struct Forge;

impl Behaviour for Forge {
    fn bytes(&self, store: &Store, key: &ChunkKey) -> Option<Vec<u8>> {
        let mut bytes = store.bytes(key)?;
        let n_payload = bytes.len() - 64;
        let (payload, trailer) = bytes.split_at_mut(n_payload);
        payload[0] ^= 1;
        let mut checked = trailer[..48].to_vec();
        checked.extend(XxHash3_128::oneshot(payload).to_le_bytes());
        trailer[48..].copy_from_slice(&XxHash3_128::oneshot(&checked).to_le_bytes());
        Some(bytes)
    }
}

/// Writes the first half of a chunk and claims the whole.
#[derive(Default)]
pub(crate) struct Half;

impl Behaviour for Half {
    async fn write(&self, bytes: Vec<u8>, into: &Sinks, index: u32) -> Result<u64, Error> {
        into.write(index, 0, &bytes[..bytes.len() / 2])?;
        Ok(bytes.len() as u64)
    }
}

/// Writes one byte more than the buffer holds, and logs the answer.
#[derive(Default)]
pub(crate) struct PastEnd;

impl Behaviour for PastEnd {
    async fn write(&self, mut bytes: Vec<u8>, into: &Sinks, index: u32) -> Result<u64, Error> {
        bytes.push(0);
        into.write(index, 0, &bytes)?;
        Ok(bytes.len() as u64)
    }
}

/// Returns the bytes of another key, whole and sound; its own as long as it has only one.
#[derive(Default)]
pub(crate) struct Swapped;

impl Behaviour for Swapped {
    fn bytes(&self, store: &Store, key: &ChunkKey) -> Option<Vec<u8>> {
        let own = store.bytes(key)?;
        Some(store.other_bytes(key).unwrap_or(own))
    }
}

/// Writes and reports one byte less.
#[derive(Default)]
pub(crate) struct Short;

impl Behaviour for Short {
    async fn write(&self, bytes: Vec<u8>, into: &Sinks, index: u32) -> Result<u64, Error> {
        let n = bytes.len().saturating_sub(1);
        into.write(index, 0, &bytes[..n])?;
        Ok(n as u64)
    }
}

/// Writes into a buffer while a stream into the same buffer is open. Logs what the second writer was told; it would
/// have written zeros.
#[derive(Default)]
pub(crate) struct Reentrant;

impl Behaviour for Reentrant {
    async fn write(&self, bytes: Vec<u8>, into: &Sinks, index: u32) -> Result<u64, Error> {
        let (mut sender, receiver) = wit_stream::new::<u8>();
        let zeros = vec![0; bytes.len()];
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        let (head, tail) = (head.to_vec(), tail.to_vec());
        let interrupt = async {
            sender.write_all(head).await;
            let second = into.write(index, 0, &zeros);
            info!("second write: {second:?}");
            sender.write_all(tail).await;
            drop(sender);
        };
        join(into.write_stream(index, 0, receiver), interrupt).await.0
    }
}

/// Works, and moves all bytes by stream.
#[derive(Default)]
pub(crate) struct Streams;

impl Behaviour for Streams {
    async fn read(&self, data: &Sources, index: u32) -> Result<Vec<u8>, Error> {
        Ok(data.read_stream(index, 0, data.len(index)).collect().await)
    }

    async fn write(&self, bytes: Vec<u8>, into: &Sinks, index: u32) -> Result<u64, Error> {
        let (mut sender, receiver) = wit_stream::new::<u8>();
        let send = async {
            let unsent = sender.write_all(bytes).await;
            drop(sender);
            unsent.len()
        };
        let (written, n_unsent) = join(into.write_stream(index, 0, receiver), send).await;
        if n_unsent > 0 { Err(Error::other(format!("{n_unsent} bytes were not taken"))) } else { written }
    }
}
