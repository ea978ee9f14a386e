//! The connections to one server, and how often a dead one is tried.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use kvtier_guest::sync::{Permit, Semaphore};
use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::{Error, info, warn};

use crate::config::{Address, Link};
use crate::connect;
use crate::connection::Connection;
use crate::elsewhere::Elsewhere;
use crate::pause::Pause;
use crate::pipe::Pipe;
use crate::watch::Watch;

/// Bytes of values of a call whose commands go with those of other calls.
const SHARED_VALUE_BYTES_MAX: u64 = 128 << 10;
/// Bytes of values that may be on their way on the connection that calls share.
const SHARED_WINDOW_BYTES: u64 = 2 << 20;

/// A server, or several that stand for each other.
pub(crate) struct Node {
    addresses: Vec<Address>,
    /// The one that is in use.
    current: Cell<usize>,
    link: Rc<Link>,
    /// The connection for small commands of all calls; none if there may be one connection only.
    shared: Option<Shared>,
    permits: Semaphore,
    idle: RefCell<Vec<Connection>>,
    /// Grows when the connections that there are are not to be used again.
    generation: Cell<u64>,
    down: RefCell<Option<Down>>,
    elsewhere: Elsewhere,
    watch: Watch,
}

struct Shared {
    pipe: RefCell<Option<Rc<Pipe>>>,
    /// One call at a time makes it.
    opening: Semaphore,
}

/// A server that does not answer.
struct Down {
    cause: Error,
    pause: Pause,
}

/// A connection that a call has to itself. It returns to the node only if it is kept, and is closed otherwise.
pub(crate) struct Lease {
    pub(crate) connection: Connection,
    /// It was used before, and may have ended since.
    pub(crate) was_idle: bool,
    node: Rc<Node>,
    /// [`Node::generation`] when it was made.
    pub(crate) generation: u64,
    _permit: Permit,
}

impl Node {
    /// Makes a node of at least one address.
    pub(crate) fn new(addresses: Vec<Address>, link: Rc<Link>) -> Rc<Self> {
        let new = || Shared { pipe: RefCell::default(), opening: Semaphore::new(1) };
        let shared = (link.connections > 1).then(new);
        Rc::new(Self {
            addresses,
            current: Cell::new(0),
            permits: Semaphore::new(link.connections - usize::from(shared.is_some())),
            link,
            shared,
            idle: RefCell::default(),
            generation: Cell::new(0),
            down: RefCell::default(),
            elsewhere: Elsewhere::default(),
            watch: Watch::default(),
        })
    }

    /// Returns the connection that calls share, or makes it, if values of `n_bytes` may go there. `None` if the call
    /// needs a connection to itself.
    ///
    /// # Errors
    /// As [`Node::lease`].
    pub(crate) async fn pipe(&self, n_bytes: u64) -> Result<Option<Rc<Pipe>>, Error> {
        let Some(shared) = &self.shared else { return Ok(None) };
        if n_bytes > SHARED_VALUE_BYTES_MAX {
            return Ok(None);
        }
        self.look_after();
        let pipe = match shared.open() {
            Some(pipe) => pipe,
            None => self.open_pipe(shared).await?,
        };
        let has_room = pipe.value_bytes() + n_bytes <= SHARED_WINDOW_BYTES;
        Ok((n_bytes == 0 || has_room).then_some(pipe))
    }

    async fn open_pipe(&self, shared: &Shared) -> Result<Rc<Pipe>, Error> {
        let _permit = shared.opening.acquire().await;
        if let Some(pipe) = shared.open() {
            return Ok(pipe);
        }
        let pipe = Pipe::new(self.connect().await?);
        shared.pipe.replace(Some(Rc::clone(&pipe)));
        Ok(pipe)
    }

    /// Waits for an exclusive connection, or makes one.
    ///
    /// # Errors
    /// Those of [`connect::connect`], at once while the server is being left alone.
    pub(crate) async fn lease(self: &Rc<Self>) -> Result<Lease, Error> {
        self.look_after();
        let permit = self.permits.acquire().await;
        let idle = self.idle.borrow_mut().pop();
        let was_idle = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let (node, generation) = (Rc::clone(self), self.generation.get());
        Ok(Lease { connection, was_idle, node, generation, _permit: permit })
    }

    /// Closes connections on which nothing has moved for too long.
    pub(crate) fn look_after(&self) {
        self.watch.look(monotonic_clock::now(), self.link.io_timeout.as_nanos() as u64);
    }

    async fn connect(&self) -> Result<Connection, Error> {
        if let Some(down) = &*self.down.borrow()
            && down.pause.lasts(monotonic_clock::now())
        {
            return Err(down.cause.clone());
        }
        let avoided = self.elsewhere.peers();
        let mut connected = self.first_that_answers(&avoided).await;
        if connected.is_err() && !avoided.is_empty() {
            self.elsewhere.give_up(monotonic_clock::now(), self.link.reconnect_pause_max);
            connected = self.first_that_answers(&[]).await;
        }
        match &connected {
            Ok(connection) => {
                if let Some(down) = self.down.take() {
                    info!("{}: reached again, after: {}", connection.address, down.cause);
                }
            }
            Err(cause) => self.leave_alone(cause),
        }
        connected
    }

    async fn first_that_answers(&self, avoided: &[SocketAddr]) -> Result<Connection, Error> {
        let mut causes = Vec::new();
        for _ in &self.addresses {
            let current = self.current.get();
            match connect::connect(&self.addresses[current], &self.link, &self.watch, avoided).await {
                Ok(connection) => return Ok(connection),
                Err(error) => causes.push(error),
            }
            // Unless another call has moved on.
            if self.current.get() == current && self.addresses.len() > 1 {
                self.current.set((current + 1) % self.addresses.len());
                self.let_go();
            }
        }
        Err(one_of(causes))
    }

    /// Lengthens the pause before the next try, and drops idle connections, which are not trusted any more.
    pub(crate) fn leave_alone(&self, cause: &Error) {
        self.idle.borrow_mut().clear();
        let mut down = self.down.borrow_mut();
        let (now, before) = (monotonic_clock::now(), down.as_ref().map(|down| down.pause));
        match before {
            // Several calls may have tried at the same time.
            Some(pause) if pause.lasts(now) => return,
            Some(_) => {}
            None => warn!("left alone for a while: {cause:?}"),
        }
        let pause = Pause::after(before, now, self.link.reconnect_pause_max);
        *down = Some(Down { cause: cause.clone(), pause });
    }

    /// Leaves a server that refused in favour of another, with `cause`, over a connection of `generation`. Reports
    /// whether there may be another to try.
    pub(crate) fn leave(&self, peer: SocketAddr, generation: u64, cause: &Error) -> bool {
        if self.elsewhere.given_up(monotonic_clock::now()).is_some() {
            return false;
        }
        self.elsewhere.note(peer, cause);
        if generation == self.generation.get() {
            self.let_go();
        }
        true
    }

    /// Returns why nothing can be written now, if all servers have refused.
    pub(crate) fn refuses_writes(&self) -> Option<Error> {
        self.elsewhere.given_up(monotonic_clock::now())
    }

    /// Notes that a server takes writes.
    pub(crate) fn takes_writes(&self, peer: SocketAddr) {
        self.elsewhere.found(peer);
    }

    /// Returns the generation: connections of an older one may no longer be used.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Reports whether it did not answer when it was tried last.
    pub(crate) fn is_down(&self) -> bool {
        self.down.borrow().is_some()
    }

    /// Uses no connection again of those that there are. Calls end on theirs.
    pub(crate) fn let_go(&self) {
        self.generation.set(self.generation.get() + 1);
        self.idle.borrow_mut().clear();
        if let Some(shared) = &self.shared {
            shared.pipe.take();
        }
    }
}

impl Shared {
    /// Returns the connection if there is one that can be used.
    fn open(&self) -> Option<Rc<Pipe>> {
        self.pipe.borrow().clone().filter(|pipe| pipe.is_open())
    }
}

impl Lease {
    /// Returns the connection to the node, for others to use.
    pub(crate) fn keep(self) {
        if self.generation == self.node.generation.get() && self.connection.reader.is_at_rest() {
            self.node.idle.borrow_mut().push(self.connection);
        }
    }

    /// Makes another connection, to replace one that was closed; other idle connections may be closed too.
    ///
    /// # Errors
    /// As [`Node::lease`].
    pub(crate) async fn renew(&mut self) -> Result<(), Error> {
        self.node.idle.borrow_mut().clear();
        self.connection = self.node.connect().await?;
        self.was_idle = false;
        self.generation = self.node.generation.get();
        Ok(())
    }
}

/// Returns the error of all alternatives together: what is wrong with the configuration before what may pass.
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
