//! The entries of a directory, read some at a time.
//!
//! WASI's own lists hold a thread from beginning to end, as long as the guest likes to take (0.3), or the whole
//! directory in memory (0.2). These read some entries when they are asked for them, and hold but an open directory in
//! between.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, StreamProducer, StreamResult, VecBuffer};
use wasmtime_wasi::p3::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::p3::would_block;
use crate::limits::LISTED_AT_ONCE;
use crate::wasm::policy::open_files::OpenFileSlot;
use crate::wasm::state::file_work::{Begun, FileWork};

/// One entry of a directory.
pub(super) struct Entry {
    pub(super) kind: FileType,
    pub(super) name: String,
}

/// Why a directory is not read on.
pub(super) enum Failed {
    System(io::Error),
    /// A name is no UTF-8.
    NotText,
}

impl From<rustix::io::Errno> for Failed {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

/// Where to read on in a directory.
enum Position {
    /// Before its first entry.
    Beginning(Arc<File>),
    /// It is open anew, because descriptors that are made of each other share their position.
    At(Dir),
}

struct Batch {
    entries: Vec<Entry>,
    /// Where to read on, if that was not all.
    rest: Result<Option<Position>, Failed>,
}

impl Position {
    /// Reads on, on a thread that may block.
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

    fn open(self) -> Result<Dir, Failed> {
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

/// Reads some entries, and tells whether those were the last.
fn read_some(position: &mut Dir, entries: &mut Vec<Entry>) -> Result<bool, Failed> {
    while entries.len() < LISTED_AT_ONCE {
        let Some(entry) = position.read() else { return Ok(true) };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Not all file systems say it.
            FileType::Unknown => {
                let stat = rustix::fs::statat(position.fd()?, name, AtFlags::SYMLINK_NOFOLLOW);
                FileType::from_raw_mode(stat?.st_mode)
            }
            known => known,
        };
        let name = name.to_str().map_err(|_| Failed::NotText)?.to_owned();
        entries.push(Entry { kind, name });
    }
    Ok(false)
}

/// A directory that is being read by WASI 0.2.
pub(super) struct Entries {
    read: VecDeque<Entry>,
    /// Where to read on behind these, or why that is not possible; nothing at the end.
    rest: Result<Option<Position>, Failed>,
    _place: OpenFileSlot,
}

impl Entries {
    pub(super) fn new(directory: Arc<File>, place: OpenFileSlot) -> Self {
        Self { read: VecDeque::new(), rest: Ok(Some(Position::Beginning(directory))), _place: place }
    }

    /// Returns the next entry. `begun` is held while it is read.
    pub(super) async fn next(&mut self, begun: Begun) -> wasmtime::Result<Result<Option<Entry>, Failed>> {
        if self.read.is_empty()
            && let Some(position) = std::mem::replace(&mut self.rest, Ok(None)).transpose()
        {
            let position = match position {
                Ok(position) => position,
                Err(failed) => return Ok(Err(failed)),
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
    /// Where to read on; nothing while `reading`.
    position: Option<Position>,
    reading: Option<JoinHandle<Batch>>,
    /// Hears how it went.
    outcome: Option<oneshot::Sender<Outcome>>,
    work: Arc<FileWork>,
    _place: OpenFileSlot,
}

impl Listing {
    pub(super) fn new(
        directory: Arc<File>,
        outcome: oneshot::Sender<Outcome>,
        place: OpenFileSlot,
        work: Arc<FileWork>,
    ) -> Self {
        let position = Some(Position::Beginning(directory));
        Self { position, reading: None, outcome: Some(outcome), work, _place: place }
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
        // Asked once more while the last entries were still on their way.
        if this.outcome.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        if let Some(position) = this.position.take() {
            let Some(begun) = this.work.begin(0) else {
                let refusal = would_block(this.work.refusal());
                this.end(Err(refusal));
                return Poll::Ready(Ok(StreamResult::Dropped));
            };
            this.reading = Some(position.read_on(begun));
        }
        let Some(reading) = &mut this.reading else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let batch = match Pin::new(reading).poll(cx) {
            Poll::Ready(batch) => batch?,
            // What is being read is there for the next time.
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        this.reading = None;
        if !batch.entries.is_empty() {
            let entry = |Entry { kind, name }| DirectoryEntry { type_: descriptor_type(kind), name };
            let entries: Vec<_> = batch.entries.into_iter().map(entry).collect();
            destination.set_buffer(VecBuffer::from(entries));
        }
        let outcome = match batch.rest {
            Ok(Some(position)) => {
                this.position = Some(position);
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            Ok(None) => Ok(()),
            Err(Failed::System(error)) => Err(error.into()),
            Err(Failed::NotText) => Err(ErrorCode::IllegalByteSequence),
        };
        this.end(outcome);
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

fn descriptor_type(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Other(None),
    }
}
