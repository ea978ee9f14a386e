//! A cluster's nodes: found by asking one that is known, and again when keys have moved.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use kvtier_guest::sync::Semaphore;
use kvtier_guest::{Error, info};
use redis_protocol::resp2::types::OwnedFrame;

use crate::config::{Address, Link};
use crate::connection::{Broken, Connection};
use crate::node::Node;
use crate::refusal::{self, Refusal};
use crate::resp;
use crate::slots::SlotMap;

/// The nodes that own slots, and the seeds.
pub(crate) struct Cluster {
    seeds: Vec<Address>,
    link: Rc<Link>,
    nodes: RefCell<HashMap<Address, Rc<Node>>>,
    slots: RefCell<SlotMap>,
    /// One call at a time asks for the slots; those that wait take its answer.
    asking: Semaphore,
    /// The number of requests for them, and the error of the last one.
    n_asked: Cell<u64>,
    last_error: RefCell<Option<Error>>,
}

impl Cluster {
    pub(crate) fn new(seeds: Vec<Address>, link: Rc<Link>) -> Self {
        let (nodes, slots, last_error) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { seeds, link, nodes, slots, asking: Semaphore::new(1), n_asked: Cell::new(0), last_error }
    }

    /// Returns the address of the node that has a slot.
    ///
    /// # Errors
    /// `unavailable` if no node has it.
    pub(crate) fn owner(&self, slot: u16) -> Result<Address, Error> {
        let owner = self.slots.borrow().owner(slot).cloned();
        owner.ok_or_else(|| Error::unavailable(format!("no node of the cluster has slot {slot}")))
    }

    /// Returns the node at an address, known or not.
    pub(crate) fn node(&self, address: &Address) -> Rc<Node> {
        let mut nodes = self.nodes.borrow_mut();
        let node = nodes
            .entry(address.clone())
            .or_insert_with(|| Node::new(vec![address.clone()], Rc::clone(&self.link)));
        Rc::clone(node)
    }

    /// Notes the owner of a slot that a node named.
    pub(crate) fn moved(&self, slot: u16, to: Address) {
        self.slots.borrow_mut().assign(slot, to);
    }

    /// Asks for the slots anew: a node that is known, or a seed.
    ///
    /// # Errors
    /// The first of those that the nodes give, if none of them answers.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let n_asked = self.n_asked.get();
        let _permit = self.asking.acquire().await;
        // Calls that waited get the same result.
        if self.n_asked.get() != n_asked {
            return self.last_error.borrow().clone().map_or(Ok(()), Err);
        }
        let refreshed = self.ask_all().await;
        self.n_asked.set(n_asked + 1);
        *self.last_error.borrow_mut() = refreshed.clone().err();
        refreshed
    }

    async fn ask_all(&self) -> Result<(), Error> {
        let mut known: Vec<Address> = self.slots.borrow().owners().to_vec();
        known.extend(self.seeds.iter().filter(|&seed| !known.contains(seed)).cloned().collect::<Vec<_>>());
        // Those that do not answer come last.
        known.sort_by_key(|address| self.node(address).is_down());
        let mut first_error = None;
        for address in known {
            match self.ask(&address).await {
                Ok(slots) => {
                    self.replace(slots);
                    return Ok(());
                }
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| Error::unavailable("no node of the cluster is known")))
    }

    async fn ask(&self, address: &Address) -> Result<SlotMap, Error> {
        let node = self.node(address);
        let mut lease = node.lease().await?;
        let mut asked = ask_for_slots(&mut lease.connection).await;
        if let Err(Broken::Lost(_)) = asked
            && lease.was_idle
        {
            lease.renew().await?;
            asked = ask_for_slots(&mut lease.connection).await;
        }
        match asked {
            Ok(slots) => {
                lease.keep();
                slots
            }
            Err(broken) => {
                let error = broken.into_error();
                node.leave_alone(&error);
                Err(error)
            }
        }
    }

    fn replace(&self, slots: SlotMap) {
        let owners = slots.owners();
        let is_known = |address: &Address| owners.contains(address) || self.seeds.contains(address);
        self.nodes.borrow_mut().retain(|address, _| is_known(address));
        let is_same = {
            let before = self.slots.borrow();
            before.owners().len() == owners.len()
                && owners.iter().all(|owner| before.owners().contains(owner))
        };
        if !is_same {
            let owners: Vec<_> = owners.iter().map(ToString::to_string).collect();
            info!("cluster: chunks are at {}", owners.join(", "));
        }
        self.slots.replace(slots);
    }

    /// Closes connections on which nothing has moved for too long.
    pub(crate) fn look_after(&self) {
        self.nodes.borrow().values().for_each(|node| node.look_after());
    }

    /// Closes the connections that are not in use.
    pub(crate) fn close(&self) {
        self.nodes.borrow().values().for_each(|node| node.let_go());
    }
}

async fn ask_for_slots(connection: &mut Connection) -> Result<Result<SlotMap, Error>, Broken> {
    let mut out = Vec::new();
    resp::command(&mut out, &[b"CLUSTER", b"SLOTS"]);
    connection.writer.write(out).await?;
    match connection.reader.reply().await? {
        OwnedFrame::Error(words) => Ok(Err(match refusal::refusal(&words, &connection.address) {
            Refusal::Error(Error::Other(answer)) => Error::invalid_config("cluster", answer),
            refused => refused.into_error(),
        })),
        reply => {
            SlotMap::parse(&reply, &connection.address).map(Ok).map_err(|why| connection.reader.faulty(&why))
        }
    }
}
