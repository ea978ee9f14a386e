//! Chunks in Redis: the commands of a call, sent to the servers that have its keys.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use kvtier_guest::futures_util::future::join_all;
use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::{ChunkKey, Error, Sinks, Sources, warn};
use redis_protocol::resp2::types::OwnedFrame;

use crate::cluster::Cluster;
use crate::config::{Address, Config};
use crate::connection::{Broken, Connection};
use crate::node::Node;
use crate::resp::{self, Refusal};
use crate::slots::slot_of;

/// Largest value that Redis takes, in bytes.
const VALUE_BYTES_MAX: u64 = 512 << 20;
/// From this size on it is asked first whether a chunk is there, so that it is not sent in vain.
const ASK_FIRST_BYTES: u64 = 64 << 10;
/// Bytes of values that may be on their way to us on one connection: the server holds in memory what it sends.
const WINDOW_BYTES: u64 = 8 << 20;
/// Keys that are asked for at a time, of a prompt of any length.
const KEYS_AT_ONCE: usize = 512;
/// How often a key may be sent elsewhere in one call.
const REDIRECTIONS_MAX: u32 = 5;
/// The first pause while a cluster is changing; it doubles.
const CHANGE_PAUSE: Duration = Duration::from_millis(20);

/// The chunks of an instance.
pub(crate) struct Store {
    servers: Servers,
    prefix: String,
    ttl: Option<Duration>,
}

enum Servers {
    One(Rc<Node>),
    Cluster(Cluster),
}

/// A chunk of a call.
struct Item {
    /// Its place among those that are asked for together.
    place: usize,
    /// Its place in the call.
    index: u32,
    /// Its key in Redis.
    name: String,
    /// The node that is to be asked, though another has the slot.
    ask: Option<Address>,
}

/// The answers to items, in their order, as far as they have come.
type Answers<T> = Vec<Result<T, Refusal>>;

impl Store {
    pub(crate) fn new(config: Config) -> Self {
        let Config { servers, cluster, prefix, ttl, link } = config;
        let servers = if cluster {
            Servers::Cluster(Cluster::new(servers, link))
        } else {
            Servers::One(Node::new(servers, link))
        };
        Self { servers, prefix, ttl }
    }

    /// Finds out whether the servers are there and let us in.
    pub(crate) async fn open(&self) -> Result<(), Error> {
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.refresh().await?;
        }
        // With a command that is needed anyway, for the user may have no right to others.
        match (self.contains(&[ChunkKey { hi: 0, lo: 0 }]).await, &self.servers) {
            (Err(Error::Unavailable(why)), Servers::Cluster(_)) => {
                // A node less is no reason to do without the others.
                warn!("{why}");
                Ok(())
            }
            (asked, _) => asked.map(drop),
        }
    }

    pub(crate) async fn contains(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n_present = 0;
        for keys in keys.chunks(KEYS_AT_ONCE) {
            for n_found in self.count(self.items(keys), &[b"EXISTS"]).await {
                if n_found? == 0 {
                    return Ok(n_present);
                }
                n_present += 1;
            }
        }
        Ok(n_present)
    }

    pub(crate) async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n_removed = 0;
        for keys in keys.chunks(KEYS_AT_ONCE) {
            for n_found in self.count(self.items(keys), &[b"UNLINK"]).await {
                n_removed += u32::from(n_found? != 0);
            }
        }
        Ok(n_removed)
    }

    pub(crate) async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let get = async |connection: &mut Connection, items: &[Item], answers: &mut Answers<Option<u64>>| {
            let size = |item: &Item| into.capacity(item.index);
            let (mut n_sent, mut awaited_bytes) = (0, 0);
            for (n_read, item) in items.iter().enumerate() {
                let first = n_sent;
                while let Some(next) = items.get(n_sent)
                    && (n_sent == n_read || awaited_bytes + size(next) <= WINDOW_BYTES)
                {
                    awaited_bytes += size(next);
                    n_sent += 1;
                }
                send(connection, &items[first..n_sent], &[b"GET"]).await?;
                asked(connection, item).await?;
                answers.push(connection.read_value(into, item.index).await?);
                awaited_bytes -= size(item);
            }
            Ok(())
        };
        let is_wanted = || if keys.is_empty() { Ok(()) } else { into.write(0, 0, &[]) };
        self.run(self.items(keys), is_wanted, get).await
    }

    pub(crate) async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let mut stored = vec![Ok(()); keys.len()];
        let mut items = self.items(keys);
        items.retain(|item| {
            let fits = data.len(item.index) <= VALUE_BYTES_MAX;
            if !fits {
                stored[item.place] = Err(Error::NoSpace);
            }
            fits
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
        let lengths = self.count(renumbered(&doubtful), &[b"STRLEN"]).await;
        for (item, length) in doubtful.into_iter().zip(lengths) {
            match length {
                Ok(0) => absent.push(item),
                Ok(length) if length as u64 == data.len(item.index) => present.push(item),
                Ok(_) => wrong.push(item),
                Err(error) => stored[item.index as usize] = Err(error),
            }
        }
        // What has another size is no chunk of ours, and would never be served.
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
            let used = self.count(renumbered(&present), &[b"PEXPIRE", ttl_ms.as_bytes()]).await;
            for (item, used) in present.iter().zip(used) {
                stored[item.index as usize] = used.map(drop);
            }
        }
        stored
    }

    /// Stores chunks and says for each whether it did: what is there stays, unless this `replaces`.
    async fn set(&self, items: Vec<Item>, data: &Sources, replaces: bool) -> Vec<Result<bool, Error>> {
        let set = async |connection: &mut Connection, items: &[Item], answers: &mut Answers<bool>| {
            let mut out = Vec::new();
            for item in items {
                asking(&mut out, item);
                connection.write_set(&mut out, (&item.name, replaces), self.ttl, data, item.index).await?;
            }
            connection.write(out).await?;
            for item in items {
                asked(connection, item).await?;
                answers.push(match connection.reply().await? {
                    OwnedFrame::SimpleString(_) => Ok(true),
                    OwnedFrame::Null => Ok(false),
                    OwnedFrame::Error(words) => Err(resp::refusal(&words, &connection.address)),
                    other => return Err(connection.faulty(&resp::unexpected(&other))),
                });
            }
            Ok(())
        };
        let is_wanted = || if data.count() == 0 { Ok(()) } else { data.read(0, 0, 0).map(drop) };
        self.run(items, is_wanted, set).await
    }

    /// Sends a command with each key, whose answer is a number.
    async fn count(&self, items: Vec<Item>, command: &[&[u8]]) -> Vec<Result<i64, Error>> {
        let count = async |connection: &mut Connection, items: &[Item], answers: &mut Answers<i64>| {
            send(connection, items, command).await?;
            for item in items {
                asked(connection, item).await?;
                answers.push(match connection.reply().await? {
                    OwnedFrame::Integer(number) => Ok(number),
                    OwnedFrame::Error(words) => Err(resp::refusal(&words, &connection.address)),
                    other => return Err(connection.faulty(&resp::unexpected(&other))),
                });
            }
            Ok(())
        };
        self.run(items, || Ok(()), count).await
    }

    /// Has `work` done for all items, by the servers that have them, side by side, and returns the answers in order.
    /// Where a cluster sends a key elsewhere, it is followed. `is_wanted` fails when the call is over, which may be
    /// before its turn comes.
    async fn run<T>(
        &self,
        items: Vec<Item>,
        is_wanted: impl Fn() -> Result<(), Error>,
        work: impl AsyncFn(&mut Connection, &[Item], &mut Answers<T>) -> Result<(), Broken>,
    ) -> Vec<Result<T, Error>> {
        let mut done: Vec<Option<Result<T, Error>>> = items.iter().map(|_| None).collect();
        let mut open = items;
        for n_redirections in 0..=REDIRECTIONS_MAX {
            let mut refused = Vec::new();
            let groups = self.by_node(std::mem::take(&mut open), &mut refused);
            let at_work = groups.iter().map(|(node, items)| on_node(node, items, &is_wanted, &work));
            let answers = join_all(at_work).await;
            let items = groups.into_iter().flat_map(|(_, items)| items);
            for (item, answer) in items.zip(answers.into_iter().flatten()) {
                match answer {
                    Ok(answer) => done[item.place] = Some(Ok(answer)),
                    Err(refusal) => refused.push((item, refusal)),
                }
            }
            let is_last = n_redirections == REDIRECTIONS_MAX;
            let followed = match &self.servers {
                Servers::Cluster(cluster) if !is_last => follow(cluster, refused, n_redirections).await,
                _ => refused.into_iter().map(|(item, refusal)| (item, Some(refusal.into_error()))).collect(),
            };
            for (item, error) in followed {
                match error {
                    Some(error) => done[item.place] = Some(Err(error)),
                    None => open.push(item),
                }
            }
            if open.is_empty() {
                break;
            }
        }
        let unanswered = || Err(Error::other("a chunk has no answer"));
        done.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    /// Sorts items by the servers that are to be asked.
    fn by_node(&self, items: Vec<Item>, refused: &mut Vec<(Item, Refusal)>) -> Vec<(Rc<Node>, Vec<Item>)> {
        let cluster = match &self.servers {
            Servers::One(_) if items.is_empty() => return Vec::new(),
            Servers::One(node) => return vec![(Rc::clone(node), items)],
            Servers::Cluster(cluster) => cluster,
        };
        let mut groups: HashMap<Address, Vec<Item>> = HashMap::new();
        for item in items {
            match item.ask.clone().map_or_else(|| cluster.owner(slot_of(&item.name)), Ok) {
                Ok(address) => groups.entry(address).or_default().push(item),
                Err(error) => refused.push((item, Refusal::Later(error))),
            }
        }
        groups.into_iter().map(|(address, items)| (cluster.node(&address), items)).collect()
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
        match &self.servers {
            Servers::One(node) => node.close_idle(),
            Servers::Cluster(cluster) => cluster.close(),
        }
    }
}

/// The same items, to be asked for once more.
fn renumbered(items: &[Item]) -> Vec<Item> {
    let item =
        |(place, item): (usize, &Item)| Item { place, index: item.index, name: item.name.clone(), ask: None };
    items.iter().enumerate().map(item).collect()
}

/// Has `work` done by one server, and returns an answer for each item.
async fn on_node<T>(
    node: &Rc<Node>,
    items: &[Item],
    is_wanted: &impl Fn() -> Result<(), Error>,
    work: &impl AsyncFn(&mut Connection, &[Item], &mut Answers<T>) -> Result<(), Broken>,
) -> Answers<T> {
    let mut answers = Vec::with_capacity(items.len());
    let refusal = match node.lease().await {
        Ok(lease) if let Err(error) = is_wanted() => {
            lease.keep();
            Refusal::Error(error)
        }
        Ok(mut lease) => {
            let mut worked = work(&mut lease.connection, items, &mut answers).await;
            if let Err(Broken::Lost(_)) = worked
                && lease.was_idle
                && answers.is_empty()
            {
                // It may have ended long ago. All commands may be repeated.
                worked = match lease.renew().await {
                    Ok(()) => work(&mut lease.connection, items, &mut answers).await,
                    Err(error) => Err(Broken::Lost(error)),
                };
            }
            match worked {
                Ok(()) => {
                    lease.keep();
                    return answers;
                }
                Err(Broken::Over(error)) => Refusal::Error(error),
                Err(Broken::Lost(error)) => Refusal::Lost(error),
                Err(Broken::Faulty(error)) => {
                    node.leave_alone(&error);
                    Refusal::Lost(error)
                }
            }
        }
        Err(error @ Error::InvalidConfig(_)) => Refusal::Error(error),
        Err(error) => Refusal::Lost(error),
    };
    answers.resize_with(items.len(), || Err(refusal.clone()));
    answers
}

/// Does what refusals call for. Returns the items that are to be tried again, and the others with their errors.
async fn follow(
    cluster: &Cluster,
    refused: Vec<(Item, Refusal)>,
    n_redirections: u32,
) -> Vec<(Item, Option<Error>)> {
    let (mut is_changing, mut has_moved) = (false, false);
    for (item, refusal) in &refused {
        match refusal {
            Refusal::Moved(to) => {
                cluster.moved(slot_of(&item.name), to.clone());
                has_moved = true;
            }
            Refusal::Lost(_) => has_moved = true,
            Refusal::Later(_) => (is_changing, has_moved) = (true, true),
            Refusal::Ask(_) | Refusal::Error(_) => {}
        }
    }
    let before: Vec<_> = refused.iter().map(|(item, _)| cluster.owner(slot_of(&item.name)).ok()).collect();
    if is_changing {
        monotonic_clock::wait_for((CHANGE_PAUSE * (1 << n_redirections)).as_nanos() as u64).await;
    }
    if has_moved {
        // If nobody answers, what was refused says why.
        drop(cluster.refresh().await);
    }
    let followed = refused.into_iter().zip(before).map(|((mut item, refusal), before)| {
        item.ask = None;
        match refusal {
            Refusal::Error(error) => (item, Some(error)),
            // A node that is gone is asked again only if another has taken its place.
            Refusal::Lost(error) if cluster.owner(slot_of(&item.name)).ok() == before => (item, Some(error)),
            Refusal::Ask(to) => {
                item.ask = Some(to);
                (item, None)
            }
            Refusal::Moved(_) | Refusal::Lost(_) | Refusal::Later(_) => (item, None),
        }
    });
    followed.collect()
}

/// Sends `command` with the key of each item as its first argument.
async fn send(connection: &mut Connection, items: &[Item], command: &[&[u8]]) -> Result<(), Broken> {
    let mut out = Vec::new();
    for item in items {
        asking(&mut out, item);
        resp::begin(&mut out, command.len() + 1);
        resp::bulk(&mut out, command[0]);
        resp::bulk(&mut out, item.name.as_bytes());
        for argument in &command[1..] {
            resp::bulk(&mut out, argument);
        }
    }
    connection.write(out).await
}

/// Tells a node that it was asked for although it does not have the slot.
fn asking(out: &mut Vec<u8>, item: &Item) {
    if item.ask.is_some() {
        resp::command(out, &[b"ASKING"]);
    }
}

/// Reads the reply to that.
async fn asked(connection: &mut Connection, item: &Item) -> Result<(), Broken> {
    if item.ask.is_some() {
        connection.reply().await?;
    }
    Ok(())
}
