//! The entries of a directory, read in batches.
//!
//! WASI's own listings hold a thread until the guest has read the last entry (0.3), or the whole directory in memory
//! (0.2). These read a batch when the guest asks for entries, and hold only an open directory in between.

use std::collections::VecDeque;
use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, StreamProducer, StreamResult, VecBuffer};
use wasmtime_wasi::p3::bindings::filesystem::types::{DirectoryEntry, ErrorCode};

use super::Failure;
use crate::limits::LISTED_AT_ONCE;
use crate::wasm::policy::open_files::OpenFileSlot;
use crate::wasm::state::file_work::{Begun, FileWork};

/// One entry of a directory.
pub(super) struct Entry {
    pub(super) file_type: FileType,
    pub(super) name: String,
}

/// Where to read on in a directory.
enum Position {
    /// Before its first entry.
    Beginning(Arc<File>),
    /// Opened again for this listing, because duplicated descriptors share their position.
    At(Dir),
}

struct Batch {
    entries: Vec<Entry>,
    /// Where to read on; `None` after the last entry.
    rest: Result<Option<Position>, Failure>,
}

impl Position {
    /// Reads the next batch on a thread that may block.
    fn read_on(self, begun: Begun) -> JoinHandle<Batch> {
        spawn_blocking(move || {
            let _begun = begun;
            let mut entries = Vec::new();
            let rest = self.open().and_then(|mut position| {
                let all = read_some(&mut position, &mut entries)?;
                Ok((!all).then_some(Self::At(position)))
            });
            Batch { entries, rest }
        })
    }

    fn open(self) -> Result<Dir, Failure> {
        match self {
            Self::At(position) => Ok(position),
            Self::Beginning(directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
                Ok(Dir::new(opened)?)
            }
        }
    }
}

/// Reads a batch of entries, and reports whether those were the last.
fn read_some(position: &mut Dir, entries: &mut Vec<Entry>) -> Result<bool, Failure> {
    while entries.len() < LISTED_AT_ONCE {
        let Some(entry) = position.read() else { return Ok(true) };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let file_type = match entry.file_type() {
            // Not all file systems keep the type in the directory.
            FileType::Unknown => {
                let stat = rustix::fs::statat(position.fd()?, name, AtFlags::SYMLINK_NOFOLLOW);
                FileType::from_raw_mode(stat?.st_mode)
            }
            known => known,
        };
        let name = name.to_str().map_err(|_| Failure::NotText)?.to_owned();
        entries.push(Entry { file_type, name });
    }
    Ok(false)
}

/// A directory that is being read by WASI 0.2.
pub(super) struct Entries {
    read: VecDeque<Entry>,
    /// Where to read on after these entries, or why that failed; `None` at the end.
    rest: Result<Option<Position>, Failure>,
    _slot: OpenFileSlot,
}

impl Entries {
    pub(super) fn new(directory: Arc<File>, slot: OpenFileSlot) -> Self {
        Self { read: VecDeque::new(), rest: Ok(Some(Position::Beginning(directory))), _slot: slot }
    }

    /// Returns the next entry. `begun` is held while it is read.
    pub(super) async fn next(&mut self, begun: Begun) -> wasmtime::Result<Result<Option<Entry>, Failure>> {
        if self.read.is_empty()
            && let Some(position) = std::mem::replace(&mut self.rest, Ok(None)).transpose()
        {
            let position = match position {
                Ok(position) => position,
                Err(failure) => return Ok(Err(failure)),
            };
            let batch = position.read_on(begun).await?;
            (self.read, self.rest) = (batch.entries.into(), batch.rest);
        }
        match self.read.pop_front() {
            Some(entry) => Ok(Ok(Some(entry))),
            // A batch without entries is the last one.
            None => Ok(std::mem::replace(&mut self.rest, Ok(None)).map(|_| None)),
        }
    }
}

pub(super) type Outcome = Result<(), ErrorCode>;

/// A directory that is being read by WASI 0.3.
pub(super) struct Listing {
    /// Where to read on; `None` while `reading`.
    position: Option<Position>,
    reading: Option<JoinHandle<Batch>>,
    /// Ends with the outcome of the listing.
    outcome: Option<oneshot::Sender<Outcome>>,
    work: Arc<FileWork>,
    _slot: OpenFileSlot,
}

impl Listing {
    pub(super) fn new(
        directory: Arc<File>,
        outcome: oneshot::Sender<Outcome>,
        slot: OpenFileSlot,
        work: Arc<FileWork>,
    ) -> Self {
        let position = Some(Position::Beginning(directory));
        Self { position, reading: None, outcome: Some(outcome), work, _slot: slot }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(sender) = self.outcome.take() {
            // The guest may not want to know.
            let _unheard = sender.send(outcome).is_err();
        }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}

impl<D> StreamProducer<D> for Listing {
    type Item = DirectoryEntry;
    type Buffer = VecBuffer<DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, DirectoryEntry, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let this = &mut *self;
        // The guest asked again while the last entries were on their way.
        if this.outcome.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        if let Some(position) = this.position.take() {
            let Some(begun) = this.work.begin(0) else {
                let refusal = Failure::Pending(this.work.refusal());
                this.end(Err(refusal.into()));
                return Poll::Ready(Ok(StreamResult::Dropped));
            };
            this.reading = Some(position.read_on(begun));
        }
        let Some(reading) = &mut this.reading else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let batch = match Pin::new(reading).poll(cx) {
            Poll::Ready(batch) => batch?,
            // The next poll gets the batch that is being read.
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        this.reading = None;
        if !batch.entries.is_empty() {
            let entries: Vec<_> = batch.entries.into_iter().map(DirectoryEntry::from).collect();
            destination.set_buffer(VecBuffer::from(entries));
        }
        let outcome = match batch.rest {
            Ok(Some(position)) => {
                this.position = Some(position);
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            Ok(None) => Ok(()),
            Err(failure) => Err(failure.into()),
        };
        this.end(outcome);
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}
