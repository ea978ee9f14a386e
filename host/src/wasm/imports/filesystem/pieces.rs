//! Streams from and to open files of WASI 0.3, piece by piece.
//!
//! WASI's own streams leave a piece in the queue of the backend's threads when they are dropped; here the piece counts
//! as a pending operation until a thread takes it up. A guest that reads a few bytes makes the host hold only those.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::ReadWriteFlags;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime::component::{
    Destination, FutureReader, LinkerInstance, Resource, Source, StreamConsumer, StreamProducer,
    StreamReader, StreamResult, VecBuffer,
};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p3::bindings::filesystem::types::{ErrorCode, Filesize};

use super::Failure;
use super::listing::Outcome;
use crate::limits::FILE_PIECE_BYTES;
use crate::wasm::state::GuestState;
use crate::wasm::state::file_work::FileWork;

type Fd = Resource<Descriptor>;

pub(super) fn add_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    instance.func_wrap("[method]descriptor.read-via-stream", |mut store, (fd, at): (Fd, Filesize)| {
        let files = store.data_mut().files();
        let work = Arc::clone(files.file_work);
        let (sender, outcome) = oneshot::channel();
        let stream = match files.table.get(&fd)? {
            Descriptor::File(file) => {
                let file = Arc::clone(&file.file);
                let reading = Reading { file, at, work, piece: None, outcome: Some(sender) };
                StreamReader::new(&mut store, reading)?
            }
            Descriptor::Dir(_) => {
                let _received = sender.send(Err(ErrorCode::IsDirectory));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok(((stream, FutureReader::new(&mut store, outcome)?),))
    })?;
    instance.func_wrap(
        "[method]descriptor.write-via-stream",
        |store, (fd, data, at): (Fd, StreamReader<u8>, Filesize)| {
            Ok((write(store, &fd, data, WritePosition::At(at))?,))
        },
    )?;
    instance.func_wrap("[method]descriptor.append-via-stream", |store, (fd, data): (Fd, StreamReader<u8>)| {
        Ok((write(store, &fd, data, WritePosition::End)?,))
    })
}

fn write(
    mut store: StoreContextMut<'_, GuestState>,
    fd: &Fd,
    mut data: StreamReader<u8>,
    position: WritePosition,
) -> Result<FutureReader<Outcome>> {
    let files = store.data_mut().files();
    let work = Arc::clone(files.file_work);
    let (sender, outcome) = oneshot::channel();
    let file = match files.table.get(fd)? {
        Descriptor::File(file) if file.perms.write_not_permitted() => Err(ErrorCode::NotPermitted),
        Descriptor::File(file) => Ok(Arc::clone(&file.file)),
        Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor),
    };
    match file {
        Ok(file) => {
            data.pipe(&mut store, Writing { file, position, work, piece: None, outcome: Some(sender) })?;
        }
        Err(code) => {
            data.close(&mut store)?;
            let _received = sender.send(Err(code));
        }
    }
    FutureReader::new(&mut store, outcome)
}

/// Delivers a file's bytes.
struct Reading {
    file: Arc<File>,
    at: u64,
    work: Arc<FileWork>,
    /// The read that is under way.
    piece: Option<JoinHandle<io::Result<Vec<u8>>>>,
    /// Receives the outcome.
    outcome: Option<oneshot::Sender<Outcome>>,
}

/// Ends the stream with an outcome, which the guest may have dropped.
fn end(sender: &mut Option<oneshot::Sender<Outcome>>, outcome: Outcome) -> Poll<Result<StreamResult>> {
    if let Some(sender) = sender.take() {
        let _unreceived = sender.send(outcome).is_err();
    }
    Poll::Ready(Ok(StreamResult::Dropped))
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ended = end(&mut self.outcome, Ok(()));
    }
}

impl<D> StreamProducer<D> for Reading {
    type Item = u8;
    type Buffer = VecBuffer<u8>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, u8, Self::Buffer>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        let this = &mut *self;
        if this.piece.is_none() {
            let n_bytes = destination.remaining(&mut store).unwrap_or(FILE_PIECE_BYTES).min(FILE_PIECE_BYTES);
            if n_bytes == 0 {
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            let Some(begun) = this.work.begin(0) else {
                let refusal = Failure::Pending(this.work.refusal());
                return end(&mut this.outcome, Err(refusal.into()));
            };
            let (file, at) = (Arc::clone(&this.file), this.at);
            this.piece = Some(spawn_blocking(move || {
                let _begun = begun;
                let mut bytes = vec![0; n_bytes];
                let n_read = file.read_at(&mut bytes, at)?;
                bytes.truncate(n_read);
                Ok(bytes)
            }));
        }
        let Some(piece) = &mut this.piece else { return end(&mut this.outcome, Ok(())) };
        let read = match Pin::new(piece).poll(cx) {
            Poll::Ready(read) => read?,
            // The next poll gets the piece that is being read.
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        this.piece = None;
        match read {
            Ok(bytes) if bytes.is_empty() => end(&mut this.outcome, Ok(())),
            Ok(bytes) => match this.at.checked_add(bytes.len() as u64) {
                Some(at) => {
                    this.at = at;
                    destination.set_buffer(VecBuffer::from(bytes));
                    Poll::Ready(Ok(StreamResult::Completed))
                }
                None => end(&mut this.outcome, Err(ErrorCode::Overflow)),
            },
            Err(error) => end(&mut this.outcome, Err(error.into())),
        }
    }
}

/// Where the next bytes are written.
#[derive(Clone, Copy)]
enum WritePosition {
    At(u64),
    End,
}

/// Takes bytes for a file.
struct Writing {
    file: Arc<File>,
    position: WritePosition,
    work: Arc<FileWork>,
    /// The write that is under way.
    piece: Option<JoinHandle<io::Result<usize>>>,
    /// Receives the outcome.
    outcome: Option<oneshot::Sender<Outcome>>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ended = end(&mut self.outcome, Ok(()));
    }
}

impl<D> StreamConsumer<D> for Writing {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, D>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        let this = &mut *self;
        let mut source = source.as_direct(store);
        if this.piece.is_none() {
            let bytes = source.remaining();
            let bytes = bytes[..bytes.len().min(FILE_PIECE_BYTES)].to_vec();
            if bytes.is_empty() {
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            let Some(begun) = this.work.begin(0) else {
                let refusal = Failure::Pending(this.work.refusal());
                return end(&mut this.outcome, Err(refusal.into()));
            };
            let (file, position) = (Arc::clone(&this.file), this.position);
            this.piece = Some(spawn_blocking(move || {
                let _begun = begun;
                match position {
                    WritePosition::At(at) => file.write_at(&bytes, at),
                    WritePosition::End => {
                        let bytes = [IoSlice::new(&bytes)];
                        Ok(rustix::io::pwritev2(&file, &bytes, 0, ReadWriteFlags::APPEND)?)
                    }
                }
            }));
        }
        let Some(piece) = &mut this.piece else { return end(&mut this.outcome, Ok(())) };
        if finish {
            // A piece that no thread has taken up is not written. Any other is waited for, because the guest has to
            // learn how much of it was written.
            piece.abort();
        }
        let written = ready!(Pin::new(piece).poll(cx));
        this.piece = None;
        match written {
            Ok(Ok(n_bytes)) => {
                if let WritePosition::At(at) = &mut this.position {
                    match at.checked_add(n_bytes as u64) {
                        Some(end) => *at = end,
                        None => return end(&mut this.outcome, Err(ErrorCode::Overflow)),
                    }
                }
                source.mark_read(n_bytes);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Ok(Err(error)) => end(&mut this.outcome, Err(error.into())),
            Err(error) if error.is_cancelled() => Poll::Ready(Ok(StreamResult::Cancelled)),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
