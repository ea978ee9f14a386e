//! The host functions that a guest may import: buffers, splices, the log.

use std::io::{IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use wasmtime::component::{
    Access, Accessor, Destination, Linker, Resource, Source, StreamConsumer, StreamProducer, StreamReader,
    StreamResult, VecBuffer, WasmList,
};
use wasmtime::{Result, StoreContextMut, format_err};
use wasmtime_wasi::OpenMode;
use wasmtime_wasi::filesystem::{Descriptor, File};

use super::contract::types::Error;
use super::contract::{buffers, files, files_blocking, logging, types};
use super::sandbox::{Host, State};
use crate::limits::{LOG_BYTES_MAX, STREAM_STEP_BYTES};
use crate::transfer::{Claim, Lease, Sealed, Sinks, Sources, TransferError};

const BUFFERS: &str = "kvtier:storage/buffers@0.1.0";

/// Adds the contract's interfaces to a linker that has WASI.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    types::add_to_linker::<_, Host>(linker, |state| state)?;
    buffers::add_to_linker::<_, Host>(linker, |state| state)?;
    files::add_to_linker::<_, Host>(linker, |state| state)?;
    files_blocking::add_to_linker::<_, Host>(linker, |state| state)?;
    logging::add_to_linker::<_, Host>(linker, |state| state)?;
    // The generated glue for these two moves bytes through a vector of its own; these do not.
    linker.allow_shadowing(true);
    let mut buffers = linker.instance(BUFFERS)?;
    buffers.func_wrap("[method]sources.read", read)?;
    buffers.func_wrap("[method]sinks.write", write)?;
    linker.allow_shadowing(false);
    Ok(())
}

type ReadArgs = (Resource<Sources>, u32, u64, u64);

#[expect(clippy::needless_pass_by_value, reason = "the linker calls it so")]
fn read(
    store: StoreContextMut<'_, State>,
    (sources, index, offset, len): ReadArgs,
) -> Result<(std::result::Result<Bytes, Error>,)> {
    let State { table, read_bytes_max, .. } = store.data();
    let sources = table.get(&sources)?;
    check_index(index, sources.count())?;
    if len > *read_bytes_max {
        let text = format!("{len} bytes are more than the {read_bytes_max} of one read");
        return Ok((Err(Error::InvalidArgument(text)),));
    }
    Ok((sources.chunk(index as usize).and_then(|chunk| chunk.bytes(range(offset, len)?)).map_err(refused),))
}

type WriteArgs = (Resource<Sinks>, u32, u64, WasmList<u8>);

#[expect(clippy::needless_pass_by_value, reason = "the linker calls it so")]
fn write(
    store: StoreContextMut<'_, State>,
    (sinks, index, offset, bytes): WriteArgs,
) -> Result<(std::result::Result<(), Error>,)> {
    let sinks = store.data().table.get(&sinks)?;
    check_index(index, sinks.count())?;
    let bytes = bytes.as_le_slice(&store);
    let written = sinks.lease(index as usize).and_then(|mut sink| sink.write(offset as usize, bytes));
    Ok((written.map_err(refused),))
}

fn check_index(index: u32, count: usize) -> Result<()> {
    if (index as usize) < count {
        Ok(())
    } else {
        Err(format_err!("index {index} is out of range: the call has {count} chunks"))
    }
}

fn range(offset: u64, len: u64) -> std::result::Result<std::ops::Range<usize>, TransferError> {
    let end = offset.checked_add(len).ok_or(TransferError::OutOfRange)?;
    Ok(offset as usize..end as usize)
}

fn refused(error: TransferError) -> Error {
    Error::InvalidArgument(error.to_string())
}

impl types::Host for &mut State {}

impl buffers::Host for &mut State {}

impl buffers::HostSources for &mut State {
    fn count(&mut self, sources: Resource<Sources>) -> Result<u32> {
        Ok(self.table.get(&sources)?.count() as u32)
    }

    fn len(&mut self, sources: Resource<Sources>, index: u32) -> Result<u64> {
        let sources = self.table.get(&sources)?;
        check_index(index, sources.count())?;
        Ok(sources.size_bytes(index as usize).unwrap_or_default() as u64)
    }

    fn read(
        &mut self,
        _: Resource<Sources>,
        _: u32,
        _: u64,
        _: u64,
    ) -> Result<std::result::Result<Vec<u8>, Error>> {
        Err(format_err!("shadowed by a function that moves bytes once"))
    }

    fn drop(&mut self, sources: Resource<Sources>) -> Result<()> {
        self.table.delete(sources)?;
        Ok(())
    }
}

impl<T: Send + 'static> buffers::HostSourcesWithStore<T> for Host {
    fn read_stream(
        mut access: Access<'_, T, Self>,
        sources: Resource<Sources>,
        index: u32,
        offset: u64,
        len: u64,
    ) -> Result<StreamReader<u8>> {
        let sources = access.get().table.get(&sources)?.clone();
        check_index(index, sources.count())?;
        let index = index as usize;
        let range = range(offset, len).unwrap_or(0..0);
        StreamReader::new(&mut access, ChunkStream { sources, index, range })
    }
}

/// Delivers a chunk's bytes from the host's memory, for as long as its call lasts: it holds the chunk only
/// while it copies.
struct ChunkStream {
    sources: Sources,
    index: usize,
    range: std::ops::Range<usize>,
}

impl<D> StreamProducer<D> for ChunkStream {
    type Item = u8;
    type Buffer = VecBuffer<u8>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<'a, D>,
        destination: Destination<'a, u8, Self::Buffer>,
        _: bool,
    ) -> Poll<Result<StreamResult>> {
        let Ok(chunk) = self.sources.chunk(self.index) else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let Ok(pieces) = chunk.pieces(self.range.clone()) else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let mut destination = destination.as_direct(store, STREAM_STEP_BYTES);
        let mut room = destination.remaining();
        let mut n_bytes = 0;
        for piece in pieces {
            let n = room.len().min(piece.len());
            let (filled, rest) = room.split_at_mut(n);
            filled.copy_from_slice(&piece[..n]);
            room = rest;
            n_bytes += n;
        }
        destination.mark_written(n_bytes);
        self.range.start += n_bytes;
        let all = self.range.is_empty();
        Poll::Ready(Ok(if all { StreamResult::Dropped } else { StreamResult::Completed }))
    }
}

impl buffers::HostSinks for &mut State {
    fn count(&mut self, sinks: Resource<Sinks>) -> Result<u32> {
        Ok(self.table.get(&sinks)?.count() as u32)
    }

    fn capacity(&mut self, sinks: Resource<Sinks>, index: u32) -> Result<u64> {
        let sinks = self.table.get(&sinks)?;
        check_index(index, sinks.count())?;
        Ok(sinks.capacity(index as usize).unwrap_or_default() as u64)
    }

    fn write(
        &mut self,
        _: Resource<Sinks>,
        _: u32,
        _: u64,
        _: Vec<u8>,
    ) -> Result<std::result::Result<(), Error>> {
        Err(format_err!("shadowed by a function that moves bytes once"))
    }

    fn drop(&mut self, sinks: Resource<Sinks>) -> Result<()> {
        self.table.delete(sinks)?;
        Ok(())
    }
}

impl<T: Send + 'static> buffers::HostSinksWithStore<T> for Host {
    async fn write_stream(
        accessor: &Accessor<T, Self>,
        sinks: Resource<Sinks>,
        index: u32,
        offset: u64,
        data: StreamReader<u8>,
    ) -> Result<std::result::Result<u64, Error>> {
        let (done, ended) = oneshot::channel();
        let leased = accessor.with(|mut access| -> Result<_> {
            let sinks = access.get().table.get(&sinks)?;
            check_index(index, sinks.count())?;
            match sinks.claim(index as usize) {
                Ok(sink) => {
                    let into = SinkStream {
                        sink: Some(sink),
                        offset: offset as usize,
                        n_bytes: 0,
                        done: Some(done),
                    };
                    data.pipe(&mut access, into)?;
                    Ok(Ok(()))
                }
                Err(error) => Ok(Err(error)),
            }
        })?;
        if let Err(error) = leased {
            return Ok(Err(refused(error)));
        }
        let lost = Err(TransferError::Revoked);
        Ok(ended.await.unwrap_or(lost).map_err(refused))
    }
}

/// Fills a sink from a stream, straight out of the writer's memory.
struct SinkStream {
    sink: Option<Claim>,
    offset: usize,
    n_bytes: u64,
    done: Option<oneshot::Sender<std::result::Result<u64, TransferError>>>,
}

impl<D> StreamConsumer<D> for SinkStream {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<'_, D>,
        source: Source<'_, u8>,
        _: bool,
    ) -> Poll<Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let bytes = source.remaining();
        let n_bytes = bytes.len();
        let offset = self.offset;
        let written = match &mut self.sink {
            Some(sink) => sink.write(offset, bytes),
            None => Err(TransferError::Revoked),
        };
        if let Err(error) = written {
            self.finish(Err(error));
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        source.mark_read(n_bytes);
        self.offset += n_bytes;
        self.n_bytes += n_bytes as u64;
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

impl SinkStream {
    fn finish(&mut self, outcome: std::result::Result<u64, TransferError>) {
        // The buffer goes back before the guest hears that the transfer is over.
        self.sink = None;
        if let Some(done) = self.done.take() {
            // The call may have ended; nobody is told then.
            let _unheard = done.send(outcome).is_err();
        }
    }
}

impl Drop for SinkStream {
    fn drop(&mut self) {
        let n_bytes = self.n_bytes;
        self.finish(Ok(n_bytes));
    }
}

impl files::Host for &mut State {}

impl<T: Send + 'static> files::HostWithStore<T> for Host {
    async fn store(
        accessor: &Accessor<T, Self>,
        chunks: Resource<Sources>,
        index: u32,
        file: Resource<Descriptor>,
        at: u64,
    ) -> Result<std::result::Result<u64, Error>> {
        match accessor.with(|mut access| access.get().splice_out(&chunks, index, &file))? {
            Ok((slots, chunk, file)) => off_thread(slots, move || write_at(&chunk, &file, at)).await,
            Err(error) => Ok(Err(error)),
        }
    }

    async fn load(
        accessor: &Accessor<T, Self>,
        buffers: Resource<Sinks>,
        index: u32,
        file: Resource<Descriptor>,
        at: u64,
    ) -> Result<std::result::Result<u64, Error>> {
        match accessor.with(|mut access| access.get().splice_in(&buffers, index, &file))? {
            Ok((slots, sink, file)) => off_thread(slots, move || read_at(sink, &file, at)).await,
            Err(error) => Ok(Err(error)),
        }
    }
}

impl files_blocking::Host for &mut State {
    async fn store(
        &mut self,
        chunks: Resource<Sources>,
        index: u32,
        file: Resource<Descriptor>,
        at: u64,
    ) -> Result<std::result::Result<u64, Error>> {
        match self.splice_out(&chunks, index, &file)? {
            Ok((slots, chunk, file)) => off_thread(slots, move || write_at(&chunk, &file, at)).await,
            Err(error) => Ok(Err(error)),
        }
    }

    async fn load(
        &mut self,
        buffers: Resource<Sinks>,
        index: u32,
        file: Resource<Descriptor>,
        at: u64,
    ) -> Result<std::result::Result<u64, Error>> {
        match self.splice_in(&buffers, index, &file)? {
            Ok((slots, sink, file)) => off_thread(slots, move || read_at(sink, &file, at)).await,
            Err(error) => Ok(Err(error)),
        }
    }
}

/// What a splice needs: the backend's slots, the memory, the file.
type Splice<T> = std::result::Result<(Arc<Semaphore>, T, File), Error>;

impl State {
    fn splice_out(
        &self,
        chunks: &Resource<Sources>,
        index: u32,
        file: &Resource<Descriptor>,
    ) -> Result<Splice<Sealed>> {
        let sources = self.table.get(chunks)?;
        check_index(index, sources.count())?;
        let chunk = sources.chunk(index as usize).map_err(refused);
        let file = self.open_file(file, OpenMode::WRITE)?;
        Ok(chunk.and_then(|chunk| Ok((Arc::clone(&self.splices), chunk, file?))))
    }

    fn splice_in(
        &self,
        buffers: &Resource<Sinks>,
        index: u32,
        file: &Resource<Descriptor>,
    ) -> Result<Splice<Lease>> {
        let sinks = self.table.get(buffers)?;
        check_index(index, sinks.count())?;
        let file = match self.open_file(file, OpenMode::READ)? {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let lease = sinks.lease(index as usize);
        Ok(lease.map(|sink| (Arc::clone(&self.splices), sink, file)).map_err(refused))
    }

    /// Looks a file up and checks that it may be used so: the descriptor's rights are not enforced for us.
    fn open_file(
        &self,
        file: &Resource<Descriptor>,
        mode: OpenMode,
    ) -> Result<std::result::Result<File, Error>> {
        let writes = mode.contains(OpenMode::WRITE);
        Ok(match self.table.get(file)? {
            Descriptor::File(file)
                if file.open_mode.contains(mode) && !(writes && file.perms.write_not_permitted()) =>
            {
                Ok(file.clone())
            }
            Descriptor::File(_) => {
                let wanted = if writes { "writing" } else { "reading" };
                Err(Error::InvalidArgument(format!("the file is not open for {wanted}")))
            }
            Descriptor::Dir(_) => Err(Error::InvalidArgument("a directory is no file".into())),
        })
    }
}

/// Runs blocking work where it holds up no lane, as soon as the backend has a slot for it.
async fn off_thread<T: Send + 'static>(
    slots: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let slot = slots.acquire_owned().await;
    let work = move || {
        let _slot = slot;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| format_err!("{error}"))
}

fn write_at(chunk: &Sealed, file: &File, at: u64) -> std::result::Result<u64, Error> {
    let size = chunk.size_bytes();
    let mut done = 0;
    while done < size {
        let pieces = chunk.pieces(done..size).map_err(refused)?.map(IoSlice::new);
        match rustix::io::pwritev(&*file.file, &pieces, at.saturating_add(done as u64)) {
            Ok(0) => return Err(Error::Other("the file takes no more bytes".into())),
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io_error(error)),
        }
    }
    Ok(size as u64)
}

fn read_at(mut sink: Lease, file: &File, at: u64) -> std::result::Result<u64, Error> {
    let capacity = sink.capacity();
    let mut done = 0;
    while done < capacity {
        let mut pieces = sink.pieces_mut(done..capacity).map_err(refused)?.map(IoSliceMut::new);
        match rustix::io::preadv(&*file.file, &mut pieces, at.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io_error(error)),
        }
    }
    sink.mark_written(0..done).map_err(refused)?;
    Ok(done as u64)
}

fn io_error(error: rustix::io::Errno) -> Error {
    use rustix::io::Errno;
    match error {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Error::NoSpace,
        other => Error::Other(std::io::Error::from(other).to_string()),
    }
}

impl logging::Host for &mut State {
    fn log(&mut self, level: logging::Level, message: String) -> Result<()> {
        let level = match level {
            logging::Level::Trace => tracing::Level::TRACE,
            logging::Level::Debug => tracing::Level::DEBUG,
            logging::Level::Info => tracing::Level::INFO,
            logging::Level::Warn => tracing::Level::WARN,
            logging::Level::Error => tracing::Level::ERROR,
        };
        // No more of it is ever shown.
        let message = self.witness.secrets().hide_beginning(&message, LOG_BYTES_MAX + 4);
        if level == tracing::Level::ERROR {
            self.note_error(&message);
        }
        self.log.write(level, &message);
        Ok(())
    }
}
