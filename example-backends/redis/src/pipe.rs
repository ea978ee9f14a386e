//! A connection that many calls share: their commands go out together, and each call reads its own replies when its
//! turn has come.
//!
//! No call holds up another for longer than its replies take to arrive: one whose deadline has passed reads past them.
//! A call that leaves without having read them breaks the connection, since no call owns the next reply.
//!
//! Invariant: commands are in `out`, on the wire and in `queue` in one order, which is that of the replies.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use kvtier_guest::Error;
use kvtier_guest::wit_bindgen::rt::async_support::yield_async;

use crate::connection::{Broken, Connection, Reader, Writer};

/// The connection.
pub(crate) struct Pipe {
    /// Where it leads to.
    pub(crate) peer: SocketAddr,
    /// Commands that have still to be written.
    out: RefCell<Vec<u8>>,
    /// Bytes of `out` that have been taken from it so far.
    n_taken: Cell<u64>,
    /// Is elsewhere while a call writes.
    writer: RefCell<Option<Writer>>,
    /// Is elsewhere while a call reads.
    reader: RefCell<Option<Reader>>,
    /// The calls whose replies are to come; those of the first are next.
    queue: RefCell<VecDeque<Rc<Place>>>,
    /// Bytes of values on their way, in either direction.
    value_bytes: Cell<u64>,
    broken: RefCell<Option<Broken>>,
}

/// A call's place in the queue.
#[derive(Default)]
struct Place {
    waker: RefCell<Option<Waker>>,
}

/// The next step of a call.
enum Step {
    Write,
    Read,
}

impl Pipe {
    pub(crate) fn new(connection: Connection) -> Rc<Self> {
        let Connection { peer, writer, mut reader, .. } = connection;
        reader.share();
        Rc::new(Self {
            peer,
            out: RefCell::default(),
            n_taken: Cell::new(0),
            writer: RefCell::new(Some(writer)),
            reader: RefCell::new(Some(reader)),
            queue: RefCell::default(),
            value_bytes: Cell::new(0),
            broken: RefCell::default(),
        })
    }

    /// Reports whether it can be used.
    pub(crate) fn is_open(&self) -> bool {
        self.broken.borrow().is_none()
    }

    /// Returns how many bytes of values are on their way.
    pub(crate) fn value_bytes(&self) -> u64 {
        self.value_bytes.get()
    }

    /// Sends `commands` and has `read` read the replies to them, all of them. `value_bytes` come or go with them.
    ///
    /// # Errors
    /// The error that broke the connection, also for another call.
    pub(crate) async fn ask<T>(
        &self,
        mut commands: Vec<u8>,
        value_bytes: u64,
        read: impl AsyncFnOnce(&mut Reader) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        // All at once: the order of commands is the order of replies.
        let end = {
            let mut out = self.out.borrow_mut();
            if out.is_empty() {
                *out = commands;
            } else {
                out.append(&mut commands);
            }
            self.n_taken.get() + out.len() as u64
        };
        let place = Rc::new(Place::default());
        self.queue.borrow_mut().push_back(Rc::clone(&place));
        self.value_bytes.set(self.value_bytes.get() + value_bytes);
        let mut stay = Stay { pipe: self, place, value_bytes, has_read: false };
        while let Step::Write = self.step(&stay.place, end).await? {
            self.write().await?;
        }
        let Some(mut reader) = self.reader.take() else { return Err(self.breaks(gone())) };
        let replies = read(&mut reader).await;
        if reader.has_given_up() {
            self.breaks(gone());
        }
        self.reader.replace(Some(reader));
        stay.has_read = true;
        replies.map_err(|broken| self.breaks(broken))
    }

    /// Waits until there is something to do for the call at `place`, whose commands end at `end` of all.
    async fn step(&self, place: &Rc<Place>, end: u64) -> Result<Step, Broken> {
        poll_fn(|cx| {
            if let Some(broken) = &*self.broken.borrow() {
                return Poll::Ready(Err(broken.clone()));
            }
            let queue = self.queue.borrow();
            let can_write = self.writer.borrow().is_some() && !self.out.borrow().is_empty();
            if can_write && self.n_taken.get() < end {
                return Poll::Ready(Ok(Step::Write));
            }
            if queue.front().is_some_and(|first| Rc::ptr_eq(first, place)) {
                if can_write && let Some(last) = queue.back() {
                    // Commands of others, which have come since: not to be waited for here.
                    last.wake();
                }
                return Poll::Ready(Ok(Step::Read));
            }
            if can_write {
                return Poll::Ready(Ok(Step::Write));
            }
            place.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    /// Writes the commands of all calls so far.
    async fn write(&self) -> Result<(), Broken> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        if self.queue.borrow().len() > 1 {
            // Calls come in crowds: those that are about to come write with this one.
            yield_async().await;
        }
        let out = self.out.take();
        self.n_taken.set(self.n_taken.get() + out.len() as u64);
        writer.write(out).await.map_err(|broken| self.breaks(broken))?;
        self.writer.replace(Some(writer));
        Ok(())
    }

    /// Breaks the connection for all calls, and returns why.
    fn breaks(&self, broken: Broken) -> Broken {
        // To the others it is a connection that was lost.
        let for_all = match &broken {
            Broken::Over(error) => Broken::Lost(error.clone()),
            other => other.clone(),
        };
        if self.is_open() {
            self.broken.replace(Some(for_all));
            self.queue.borrow().iter().for_each(|place| place.wake());
        }
        broken
    }
}

impl Place {
    fn wake(&self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// A call's stay in the queue, which ends also if the call does not go on.
struct Stay<'a> {
    pipe: &'a Pipe,
    place: Rc<Place>,
    value_bytes: u64,
    has_read: bool,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let pipe = self.pipe;
        pipe.value_bytes.set(pipe.value_bytes.get() - self.value_bytes);
        pipe.queue.borrow_mut().retain(|place| !Rc::ptr_eq(place, &self.place));
        if !self.has_read {
            pipe.breaks(gone());
        }
        if let Some(next) = pipe.queue.borrow().front() {
            next.wake();
        }
    }
}

/// Returns the error of a connection that ended with a call that held a part of it.
fn gone() -> Broken {
    Broken::Lost(Error::unavailable("the connection was given up by another call"))
}
