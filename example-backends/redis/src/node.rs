//! The connections to one server, and how often a dead one is tried.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::wasip3::random::insecure::get_insecure_random_u64;
use kvtier_guest::{Error, info, warn};

use crate::config::{Address, Link};
use crate::connection::Connection;
use crate::turns::{Turn, Turns};
use crate::watch::Watch;

/// The pause after the first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// A server, or several that stand for each other.
pub(crate) struct Node {
    addresses: Vec<Address>,
    /// The one that is in use.
    current: Cell<usize>,
    link: Rc<Link>,
    turns: Rc<Turns>,
    idle: RefCell<Vec<Connection>>,
    down: RefCell<Option<Down>>,
    watch: Watch,
}

/// A server that does not answer.
struct Down {
    cause: Error,
    pause: Duration,
    /// When it is tried again, on the monotonic clock, in nanoseconds.
    retry_at: u64,
}

/// A connection in use. It goes back only if it is kept; else it is closed.
pub(crate) struct Lease {
    pub(crate) connection: Connection,
    /// Whether it was used before, and may have ended since.
    pub(crate) was_idle: bool,
    node: Rc<Node>,
    _turn: Turn,
}

impl Node {
    /// Makes a node of at least one address.
    pub(crate) fn new(addresses: Vec<Address>, link: Rc<Link>) -> Rc<Self> {
        let turns = Turns::new(link.connections);
        let (current, idle, down) = (Cell::new(0), RefCell::default(), RefCell::default());
        Rc::new(Self { addresses, current, link, turns, idle, down, watch: Watch::default() })
    }

    /// Waits for a connection, or makes one.
    ///
    /// # Errors
    /// Those of [`Connection::open`], at once while the server is being left alone.
    pub(crate) async fn lease(self: &Rc<Self>) -> Result<Lease, Error> {
        self.watch.look(monotonic_clock::now(), self.link.io_timeout.as_nanos() as u64);
        let turn = self.turns.next().await;
        let idle = self.idle.borrow_mut().pop();
        let was_idle = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(Lease { connection, was_idle, node: Rc::clone(self), _turn: turn })
    }

    async fn connect(&self) -> Result<Connection, Error> {
        if let Some(down) = &*self.down.borrow()
            && monotonic_clock::now() < down.retry_at
        {
            return Err(down.cause.clone());
        }
        let mut causes = Vec::new();
        for _ in &self.addresses {
            let current = self.current.get();
            match Connection::open(&self.addresses[current], &self.link, &self.watch).await {
                Ok(connection) => {
                    if let Some(down) = self.down.take() {
                        info!("{}: reached again, after: {}", connection.address, down.cause);
                    }
                    return Ok(connection);
                }
                Err(error) => causes.push(error),
            }
            // Unless another call has moved on meanwhile.
            if self.current.get() == current {
                self.current.set((current + 1) % self.addresses.len());
            }
        }
        let cause = one_of(causes);
        self.leave_alone(&cause);
        Err(cause)
    }

    /// Makes the pause before the next try longer. Connections that are idle are not trusted any more.
    pub(crate) fn leave_alone(&self, cause: &Error) {
        self.idle.borrow_mut().clear();
        let mut down = self.down.borrow_mut();
        let now = monotonic_clock::now();
        let pause = match &*down {
            // Several calls may have tried at the same time.
            Some(down) if now < down.retry_at => return,
            Some(down) => (down.pause * 2).min(self.link.reconnect_pause_max),
            None => {
                warn!("left alone for a while: {cause:?}");
                PAUSE_MIN.min(self.link.reconnect_pause_max)
            }
        };
        let pause_ns = pause.as_nanos() as u64;
        let jitter = get_insecure_random_u64() % (pause_ns / 2 + 1);
        *down = Some(Down { cause: cause.clone(), pause, retry_at: now + pause_ns - jitter });
    }

    /// Whether it did not answer when it was tried last.
    pub(crate) fn is_down(&self) -> bool {
        self.down.borrow().is_some()
    }

    /// Closes the connections that are not in use.
    pub(crate) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
    }
}

impl Lease {
    /// Gives the connection back for others to use.
    pub(crate) fn keep(self) {
        let is_current = self.connection.address == self.node.addresses[self.node.current.get()];
        if is_current && self.connection.is_at_rest() {
            self.node.idle.borrow_mut().push(self.connection);
        }
    }

    /// Makes another connection in the place of one that had ended, as the others that were idle may have.
    ///
    /// # Errors
    /// As [`Node::lease`].
    pub(crate) async fn renew(&mut self) -> Result<(), Error> {
        self.node.close_idle();
        self.connection = self.node.connect().await?;
        self.was_idle = false;
        Ok(())
    }
}

/// The error of all alternatives together: what is wrong with the configuration before what may pass.
fn one_of(mut causes: Vec<Error>) -> Error {
    if let Some(index) = causes.iter().position(|cause| matches!(cause, Error::InvalidConfig(_))) {
        return causes.swap_remove(index);
    }
    let words = causes.into_iter().map(|cause| match cause {
        Error::Unavailable(words) | Error::Other(words) => words,
        other => other.to_string(),
    });
    Error::unavailable(words.collect::<Vec<_>>().join("; "))
}
