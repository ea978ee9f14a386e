//! Streams from and to open files of WASI 0.3, piece by piece.
//!
//! WASI's own leave a piece in the queue of the backend's threads when they are dropped; here it counts as a pending
//! operation until a thread has come to it. A guest that wants a few bytes makes the host hold no more than these.

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

use super::listing::Outcome;
use super::p3::would_block;
use crate::limits::FILE_PIECE_BYTES;
use crate::wasm::state::GuestState;
use crate::wasm::state::file_work::FileWork;

type Fd = Resource<Descriptor>;

pub(super) fn add_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    instance.func_wrap("[method]descriptor.read-via-stream", |mut store, (fd, at): (Fd, Filesize)| {
        let state: &GuestState = store.data();
        let work = Arc::clone(&state.budgets.file_work);
        let (outcome, heard) = oneshot::channel();
        let stream = match state.table.get(&fd)? {
            Descriptor::File(file) => {
                let file = Arc::clone(&file.file);
                let reading = Reading { file, at, work, piece: None, outcome: Some(outcome) };
                StreamReader::new(&mut store, reading)?
            }
            Descriptor::Dir(_) => {
                let _heard = outcome.send(Err(ErrorCode::IsDirectory));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok(((stream, FutureReader::new(&mut store, heard)?),))
    })?;
    instance.func_wrap(
        "[method]descriptor.write-via-stream",
        |store, (fd, data, at): (Fd, StreamReader<u8>, Filesize)| {
            Ok((write(store, &fd, data, Whither::At(at))?,))
        },
    )?;
    instance.func_wrap("[method]descriptor.append-via-stream", |store, (fd, data): (Fd, StreamReader<u8>)| {
        Ok((write(store, &fd, data, Whither::End)?,))
    })
}

fn write(
    mut store: StoreContextMut<'_, GuestState>,
    fd: &Fd,
    mut data: StreamReader<u8>,
    whither: Whither,
) -> Result<FutureReader<Outcome>> {
    let state: &GuestState = store.data();
    let work = Arc::clone(&state.budgets.file_work);
    let (outcome, heard) = oneshot::channel();
    let file = match state.table.get(fd)? {
        Descriptor::File(file) if file.perms.write_not_permitted() => Err(ErrorCode::NotPermitted),
        Descriptor::File(file) => Ok(Arc::clone(&file.file)),
        Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor),
    };
    match file {
        Ok(file) => {
            data.pipe(&mut store, Writing { file, whither, work, piece: None, outcome: Some(outcome) })?;
        }
        Err(code) => {
            data.close(&mut store)?;
            let _heard = outcome.send(Err(code));
        }
    }
    FutureReader::new(&mut store, heard)
}

/// Delivers a file's bytes.
struct Reading {
    file: Arc<File>,
    at: u64,
    work: Arc<FileWork>,
    /// What is being read.
    piece: Option<JoinHandle<io::Result<Vec<u8>>>>,
    /// Hears how it went.
    outcome: Option<oneshot::Sender<Outcome>>,
}

/// Tells the guest how it went, if it wants to know, and ends the stream.
fn end(outcome: &mut Option<oneshot::Sender<Outcome>>, told: Outcome) -> Poll<Result<StreamResult>> {
    if let Some(sender) = outcome.take() {
        let _unheard = sender.send(told).is_err();
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
                let refusal = would_block(this.work.refusal());
                return end(&mut this.outcome, Err(refusal));
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
            // What is being read is there for the next time.
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

/// Where bytes are written.
#[derive(Clone, Copy)]
enum Whither {
    At(u64),
    End,
}

/// Takes bytes for a file.
struct Writing {
    file: Arc<File>,
    whither: Whither,
    work: Arc<FileWork>,
    /// What is being written.
    piece: Option<JoinHandle<io::Result<usize>>>,
    /// Hears how it went.
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
                let refusal = would_block(this.work.refusal());
                return end(&mut this.outcome, Err(refusal));
            };
            let (file, whither) = (Arc::clone(&this.file), this.whither);
            this.piece = Some(spawn_blocking(move || {
                let _begun = begun;
                match whither {
                    Whither::At(at) => file.write_at(&bytes, at),
                    Whither::End => {
                        let bytes = [IoSlice::new(&bytes)];
                        Ok(rustix::io::pwritev2(&file, &bytes, 0, ReadWriteFlags::APPEND)?)
                    }
                }
            }));
        }
        let Some(piece) = &mut this.piece else { return end(&mut this.outcome, Ok(())) };
        if finish {
            // What no thread has come to is not written. The rest is waited for: how much of it is, must be told.
            piece.abort();
        }
        let written = ready!(Pin::new(piece).poll(cx));
        this.piece = None;
        match written {
            Ok(Ok(n_bytes)) => {
                if let Whither::At(at) = &mut this.whither {
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
