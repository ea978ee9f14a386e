//! `streams`: a chunk's bytes as a stream, from a source or into a sink, without a copy in guest memory.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use wasmtime::component::{
    Access, Accessor, Destination, Resource, Source, StreamConsumer, StreamProducer, StreamReader,
    StreamResult, VecBuffer,
};
use wasmtime::{Result, StoreContextMut};

use super::{check_index, range, refused, run_off_lane};
use crate::copies::{Pass, note};
use crate::limits::{LANE_BYTES_MAX, STREAM_STEP_BYTES};
use crate::transfer::{Claim, Sinks, Sources, TransferError};
use crate::wasm::contract::streams;
use crate::wasm::contract::types::Error;
use crate::wasm::state::{Storage, StorageView};

impl streams::Host for StorageView<'_> {}

impl<T: Send + 'static> streams::HostWithStore<T> for Storage {
    fn read_stream(
        mut access: Access<'_, T, Self>,
        sources: Resource<Sources>,
        index: u32,
        offset: u64,
        len: u64,
    ) -> Result<StreamReader<u8>> {
        let StorageView { table, threads, .. } = access.get();
        let (sources, lanes) = (table.get(&sources)?.clone(), threads.lanes.clone());
        check_index(index, sources.count())?;
        let index = index as usize;
        let size_bytes = sources.size_bytes(index).unwrap_or_default();
        let range = range(offset, len).ok().filter(|range| range.end <= size_bytes).unwrap_or(0..0);
        StreamReader::new(&mut access, ChunkStream::new(sources, index, range, lanes))
    }

    async fn write_stream(
        accessor: &Accessor<T, Self>,
        sinks: Resource<Sinks>,
        index: u32,
        offset: u64,
        data: StreamReader<u8>,
    ) -> Result<std::result::Result<u64, Error>> {
        let (done, ended) = oneshot::channel();
        let leased = accessor.with(|mut access| -> Result<_> {
            let view = access.get();
            let sinks = view.table.get(&sinks)?;
            check_index(index, sinks.count())?;
            match sinks.claim(index as usize) {
                Ok(sink) => {
                    data.pipe(&mut access, SinkStream::new(sink, offset as usize, done))?;
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

/// Delivers a chunk's bytes from the host's memory until its call ends. It holds the chunk only while it copies.
pub(super) struct ChunkStream {
    sources: Sources,
    index: usize,
    range: Range<usize>,
    lanes: Handle,
    /// Bytes moved since it last yielded. A reader on the host asks for more without a pause.
    n_bytes_at_a_stretch: usize,
}

impl ChunkStream {
    pub(super) fn new(sources: Sources, index: usize, range: Range<usize>, lanes: Handle) -> Self {
        Self { sources, index, range, lanes, n_bytes_at_a_stretch: 0 }
    }
}

impl<D> StreamProducer<D> for ChunkStream {
    type Item = u8;
    type Buffer = VecBuffer<u8>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'a, D>,
        destination: Destination<'a, u8, Self::Buffer>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        if self.n_bytes_at_a_stretch >= LANE_BYTES_MAX && !finish {
            self.n_bytes_at_a_stretch = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Ok(chunk) = self.sources.chunk(self.index) else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let mut destination = destination.as_direct(store, STREAM_STEP_BYTES);
        let mut room = destination.remaining();
        // Only as much is taken, and hashed, as there is room for.
        let end = self.range.end.min(self.range.start + room.len());
        let range = self.range.start..end;
        let n_bytes_to_read = chunk.n_bytes_to_read(&range);
        let Ok(pieces) = run_off_lane(&self.lanes, n_bytes_to_read, || chunk.pieces(range)) else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let mut n_bytes = 0;
        for piece in pieces {
            let (filled, rest) = room.split_at_mut(piece.len());
            filled.copy_from_slice(piece);
            note(Pass::Copy, piece);
            room = rest;
            n_bytes += piece.len();
        }
        destination.mark_written(n_bytes);
        self.range.start += n_bytes;
        self.n_bytes_at_a_stretch += n_bytes;
        let all = self.range.is_empty();
        Poll::Ready(Ok(if all { StreamResult::Dropped } else { StreamResult::Completed }))
    }
}

/// Fills a sink from a stream, directly from the writer's memory.
pub(super) struct SinkStream {
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
        // Limited, because the buffer is locked while it is filled.
        let bytes = source.remaining();
        let bytes = &bytes[..bytes.len().min(STREAM_STEP_BYTES)];
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
    pub(super) fn new(
        sink: Claim,
        offset: usize,
        done: oneshot::Sender<std::result::Result<u64, TransferError>>,
    ) -> Self {
        Self { sink: Some(sink), offset, n_bytes: 0, done: Some(done) }
    }

    fn finish(&mut self, outcome: std::result::Result<u64, TransferError>) {
        // The buffer goes back before the guest learns that the transfer is over.
        self.sink = None;
        if let Some(done) = self.done.take() {
            // The call may have ended.
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
