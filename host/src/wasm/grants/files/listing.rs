//! The entries of a directory as a stream of WASI 0.3.
//!
//! WASI's own holds a thread from beginning to end, as long as the guest likes to take. This one reads some entries
//! when it is asked for them, and holds but an open directory in between.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, StreamProducer, StreamResult, VecBuffer};
use wasmtime_wasi::p3::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::super::open_files::Place;
use crate::limits::LISTED_AT_ONCE;

pub(super) type Outcome = Result<(), ErrorCode>;

/// A directory that is being read.
pub(super) struct Listing {
    directory: Arc<File>,
    /// Where to read on; nothing before the first entry, and while `reading`.
    position: Option<Dir>,
    reading: Option<JoinHandle<Batch>>,
    /// Hears how it went.
    outcome: Option<oneshot::Sender<Outcome>>,
    _place: Place,
}

struct Batch {
    entries: Vec<DirectoryEntry>,
    /// Where to read on, if that was not all.
    rest: Result<Option<Dir>, ErrorCode>,
}

impl Listing {
    pub(super) fn new(directory: Arc<File>, outcome: oneshot::Sender<Outcome>, place: Place) -> Self {
        Self { directory, position: None, reading: None, outcome: Some(outcome), _place: place }
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
        let reading = this.reading.get_or_insert_with(|| {
            let (directory, position) = (Arc::clone(&this.directory), this.position.take());
            tokio::task::spawn_blocking(move || read_on(&directory, position))
        });
        let batch = match Pin::new(reading).poll(cx) {
            Poll::Ready(batch) => batch?,
            // What is being read is there for the next time.
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        this.reading = None;
        if !batch.entries.is_empty() {
            destination.set_buffer(VecBuffer::from(batch.entries));
        }
        let outcome = match batch.rest {
            Ok(Some(position)) => {
                this.position = Some(position);
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            Ok(None) => Ok(()),
            Err(code) => Err(code),
        };
        this.end(outcome);
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

fn read_on(directory: &File, position: Option<Dir>) -> Batch {
    let mut entries = Vec::new();
    let rest = position.map_or_else(|| open(directory), Ok).and_then(|mut position| {
        let all = read_some(directory, &mut position, &mut entries)?;
        Ok((!all).then_some(position))
    });
    Batch { entries, rest }
}

/// Opens the directory anew, because descriptors that are made of each other share their position.
fn open(directory: &File) -> Result<Dir, ErrorCode> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, ".", flags, Mode::empty());
    opened.and_then(Dir::new).map_err(failed)
}

/// Reads some entries, and tells whether those were the last.
fn read_some(
    directory: &File,
    position: &mut Dir,
    entries: &mut Vec<DirectoryEntry>,
) -> Result<bool, ErrorCode> {
    while entries.len() < LISTED_AT_ONCE {
        let Some(entry) = position.read() else { return Ok(true) };
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Not all file systems say it.
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
                FileType::from_raw_mode(stat.map_err(failed)?.st_mode)
            }
            known => known,
        };
        let name = name.to_str().map_err(|_| ErrorCode::IllegalByteSequence)?.to_owned();
        entries.push(DirectoryEntry { type_: descriptor_type(kind), name });
    }
    Ok(false)
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

fn failed(error: rustix::io::Errno) -> ErrorCode {
    io::Error::from(error).into()
}
