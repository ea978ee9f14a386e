//! Chunks in Redis: the commands of a call.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use kvtier_guest::futures_util::future::{Either, select};
use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::{ChunkKey, Error, Sinks, Sources, warn};

use crate::cluster::Cluster;
use crate::config::{Config, Link};
use crate::dispatch::Servers;
use crate::items::{Item, renumbered};
use crate::jobs::{Count, Get};
use crate::node::Node;
use crate::set::Set;

/// Largest value that Redis takes, in bytes.
const VALUE_BYTES_MAX: u64 = 512 << 20;
/// From this size on, the backend asks first whether a chunk is present. A chunk of 64 KiB with its trailer is smaller:
/// sending it costs less than asking.
const ASK_FIRST_BYTES: u64 = 128 << 10;
/// Keys of one batch of commands; a prompt may have any number.
const KEYS_AT_ONCE: usize = 512;

/// The chunks of an instance.
pub(crate) struct Store {
    servers: Servers,
    prefix: String,
    ttl: Option<Duration>,
    link: Rc<Link>,
}

impl Store {
    pub(crate) fn new(config: Config) -> Self {
        let Config { servers, cluster, prefix, ttl, link } = config;
        let servers = if cluster {
            Servers::Cluster(Cluster::new(servers, Rc::clone(&link)))
        } else {
            Servers::One(Node::new(servers, Rc::clone(&link)))
        };
        Self { servers, prefix, ttl, link }
    }

    /// Checks that the servers answer and accept the user. Since no other call runs yet that would close silent
    /// connections, this one does it.
    pub(crate) async fn open(&self) -> Result<(), Error> {
        let give_up = async {
            loop {
                monotonic_clock::wait_for(self.link.io_timeout.as_nanos() as u64).await;
                self.servers.look_after();
            }
        };
        match select(pin!(self.ask()), pin!(give_up)).await {
            Either::Left((asked, _)) => asked,
            Either::Right((never, _)) => never,
        }
    }

    async fn ask(&self) -> Result<(), Error> {
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.refresh().await?;
        }
        // With a command that lookups need, since the user may lack the right to others.
        match (self.contains(&[ChunkKey { hi: 0, lo: 0 }]).await, &self.servers) {
            (Err(Error::Unavailable(why)), Servers::Cluster(_)) => {
                // The other nodes can be used without this one.
                warn!("{why}");
                Ok(())
            }
            (asked, _) => asked.map(drop),
        }
    }

    pub(crate) async fn contains(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n_present = 0;
        for keys in keys.chunks(KEYS_AT_ONCE) {
            for n_found in self.read_number(self.items(keys), &[b"EXISTS"]).await {
                if n_found? == 0 {
                    return Ok(n_present);
                }
                n_present += 1;
            }
        }
        Ok(n_present)
    }

    pub(crate) async fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        let mut present = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_AT_ONCE) {
            for n_found in self.read_number(self.items(keys), &[b"EXISTS"]).await {
                present.push(n_found? != 0);
            }
        }
        Ok(present)
    }

    pub(crate) async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n_removed = 0;
        for keys in keys.chunks(KEYS_AT_ONCE) {
            for n_found in self.change(self.items(keys), &[b"UNLINK"]).await {
                n_removed += u32::from(n_found? != 0);
            }
        }
        Ok(n_removed)
    }

    pub(crate) async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        self.servers.run(self.items(keys), &Get { into }).await
    }

    pub(crate) async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let mut stored = vec![Ok(()); keys.len()];
        let mut items = self.items(keys);
        items.retain(|item| {
            let size = data.len(item.index);
            if size > VALUE_BYTES_MAX {
                stored[item.place] = Err(Error::other(format!(
                    "a chunk of {size} bytes: Redis takes none of more than {VALUE_BYTES_MAX}; lower `chunk_size`"
                )));
            }
            size <= VALUE_BYTES_MAX
        });
        let mut doubtful = items;
        if !data.sizes().any(|size| size > ASK_FIRST_BYTES) {
            let is_new = self.set(renumbered(&doubtful), data, false).await;
            let mut known = Vec::new();
            for (item, is_new) in doubtful.into_iter().zip(is_new) {
                match is_new {
                    Ok(true) => {}
                    Ok(false) => known.push(item),
                    Err(error) => stored[item.index as usize] = Err(error),
                }
            }
            doubtful = known;
        }
        let (mut absent, mut present, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        let lengths = self.read_number(renumbered(&doubtful), &[b"STRLEN"]).await;
        for (item, length) in doubtful.into_iter().zip(lengths) {
            match length {
                Ok(0) => absent.push(item),
                Ok(length) if length as u64 == data.len(item.index) => present.push(item),
                Ok(_) => wrong.push(item),
                Err(error) => stored[item.index as usize] = Err(error),
            }
        }
        // A value of another size is not this chunk, and the host would never accept it.
        for (items, replaces) in [(absent, false), (wrong, true)] {
            let is_new = self.set(renumbered(&items), data, replaces).await;
            for (item, is_new) in items.into_iter().zip(is_new) {
                match is_new {
                    Ok(true) => {}
                    Ok(false) => present.push(item),
                    Err(error) => stored[item.index as usize] = Err(error),
                }
            }
        }
        if let Some(ttl) = self.ttl
            && !present.is_empty()
        {
            // The put counts as a use.
            let ttl_ms = ttl.as_millis().to_string();
            let used = self.change(renumbered(&present), &[b"PEXPIRE", ttl_ms.as_bytes()]).await;
            for (item, used) in present.iter().zip(used) {
                stored[item.index as usize] = used.map(drop);
            }
        }
        stored
    }

    /// Stores chunks and returns for each whether it was stored: a present value stays, unless this `replaces` it.
    async fn set(&self, items: Vec<Item>, data: &Sources, replaces: bool) -> Vec<Result<bool, Error>> {
        self.servers.run(items, &Set { data, ttl: self.ttl, replaces }).await
    }

    /// Sends a command with each key that changes nothing, and whose answer is a number.
    async fn read_number(&self, items: Vec<Item>, command: &[&[u8]]) -> Vec<Result<i64, Error>> {
        self.servers.run(items, &Count { command, writes: false }).await
    }

    /// Sends a command with each key that may change what is stored, and whose answer is a number.
    async fn change(&self, items: Vec<Item>, command: &[&[u8]]) -> Vec<Result<i64, Error>> {
        self.servers.run(items, &Count { command, writes: true }).await
    }

    fn items(&self, keys: &[ChunkKey]) -> Vec<Item> {
        let item = |(index, key): (u32, &ChunkKey)| Item {
            place: index as usize,
            index,
            name: format!("{}{key}", self.prefix),
            ask: None,
        };
        (0..).zip(keys).map(item).collect()
    }

    /// Closes the connections.
    pub(crate) fn close(&self) {
        self.servers.close();
    }
}
