//! A class that breaks one sentence of the contract on purpose: `config.fault` names it, by the name that `kvtier
//! check` has for it. Without a fault it keeps all of them.

mod disk;
mod faults;
mod store;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use kvtier_guest::prelude::*;
use kvtier_guest::wasip3::clocks::monotonic_clock;

use disk::Disk;
use faults::Fault;
use store::{Store, When};

/// Where a directory is granted.
const DIRECTORY: &str = "/data";

/// As long as calls of this class overlap, where a fault needs it.
const PAUSE: Duration = Duration::from_millis(30);

/// Keeps `config.capacity` bytes of chunks in memory, evicts those used longest ago, and breaks `config.fault`. For
/// faults that show after a restart it keeps its chunks in files, too.
pub struct BrokenBackend {
    fault: Fault,
    store: RefCell<Store>,
    disk: Option<Disk>,
    /// Keys whose put is under way.
    under_way: RefCell<BTreeSet<ChunkKey>>,
    n_calls: Cell<u64>,
}

impl StorageBackend for BrokenBackend {
    fn new(init: Init) -> Result<Self, Error> {
        let fault = Fault::from_init(&init)?;
        if let Err(error) = init.only(&["fault", "capacity"]) {
            let silent = Error::InvalidConfig("something is wrong".to_owned());
            return Err(if fault.is("unknown-setting") { silent } else { error });
        }
        if fault.is("starts") {
            return Err(Error::other("it does not start"));
        }
        if fault.is("missing-grant") {
            std::fs::metadata(DIRECTORY).expect("there is always a directory");
        }
        let capacity_bytes = init.bytes("capacity")?.unwrap_or(4 << 20);
        let mut store = Store::new(fault, capacity_bytes);
        let disk =
            if fault.shows_after_restart() { Some(Disk::open(DIRECTORY, fault, &mut store)?) } else { None };
        Ok(Self {
            fault,
            store: RefCell::new(store),
            disk,
            under_way: RefCell::default(),
            n_calls: Cell::new(0),
        })
    }

    fn lanes_max() -> u32 {
        1
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if self.fault.is("empty-lists") && keys.is_empty() {
            return Err(Error::InvalidArgument("no keys".to_owned()));
        }
        if self.fault.is("no-leaks") {
            Box::leak(vec![0_u8; 128].into_boxed_slice());
        }
        if self.fault.is("long-lists") && keys.len() > 1000 {
            return Ok(0);
        }
        Ok(self.store.borrow_mut().contains(keys, pinning))
    }

    async fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        let store = self.store.borrow();
        let mut has_gap = false;
        let present = keys.iter().map(|key| {
            has_gap |= !store.has(key);
            if self.fault.is("present-each") { !has_gap } else { store.has(key) }
        });
        Ok(present.collect())
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let call = self.store.borrow_mut().next_call();
        let mut results = Vec::new();
        for chunk in data.chunks(keys) {
            results.push(self.put_one(call, chunk).await);
        }
        if self.fault.is("one-result-per-key") {
            results.truncate(1);
        }
        results
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let mut seen = BTreeSet::new();
        let mut results = Vec::new();
        for sink in into.chunks(keys) {
            let is_repeated = !seen.insert(sink.key());
            let is_left_out = self.fault.is("repeated-get") && is_repeated;
            results.push(if is_left_out { Ok(None) } else { self.get_one(sink) });
        }
        let is_larger = |result: &Result<Option<u64>, Error>, index: u32| matches!(result, Ok(Some(length)) if *length > into.capacity(index));
        let has_larger = results.iter().zip(0..).any(|(result, index)| is_larger(result, index));
        if self.fault.is("others-not-affected") && has_larger && results.len() > 1 {
            results.fill(Ok(None));
        }
        if self.fault.is("get-order") {
            results.sort_by_key(|result| *result == Ok(None));
        }
        results
    }

    async fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        Ok(self.store.borrow_mut().pin(keys, When::Asked))
    }

    async fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        if self.fault.is("pins-alike") {
            return Err(Error::Unsupported);
        }
        Ok(self.store.borrow_mut().unpin(keys))
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let removed = self.store.borrow_mut().remove(keys);
        if let Some(disk) = &self.disk
            && !self.fault.is("removed-stays-removed")
        {
            for key in keys {
                disk.remove(*key);
            }
        }
        Ok(removed)
    }

    async fn close(&self) -> Result<(), Error> {
        if self.fault.is("close") {
            return Err(Error::other("it does not close"));
        }
        self.disk.as_ref().map_or(Ok(()), Disk::close)
    }
}

impl BrokenBackend {
    async fn put_one(&self, call: u64, chunk: Source<'_>) -> Result<(), Error> {
        let key = chunk.key();
        if self.fault.is("overlapping-calls") {
            if !self.under_way.borrow_mut().insert(key) {
                return Err(Error::other("another call has the key"));
            }
            pause().await;
            self.under_way.borrow_mut().remove(&key);
        }
        if self.fault.is("many-calls") {
            self.n_calls.set(self.n_calls.get() + 1);
            let n_calls = self.n_calls.get();
            pause().await;
            self.n_calls.set(self.n_calls.get() - 1);
            if n_calls > 64 {
                return Err(Error::Unavailable("no connection is free".to_owned()));
            }
        }
        if let Some(answer) = self.store.borrow_mut().again(call, key) {
            return answer;
        }
        let size_bytes = chunk.len();
        assert!(!self.fault.is("size-64-mib") || size_bytes < 32 << 20, "no chunk is as large as this");
        for evicted in self.store.borrow_mut().make_room(call, key, size_bytes)? {
            if let Some(disk) = &self.disk {
                disk.remove(evicted);
            }
        }
        if self.fault.is("abandoned-calls") {
            pause().await;
            self.store.borrow_mut().insert(call, key, chunk.read().expect("the call is not over"));
            return Ok(());
        }
        if self.fault.is("whole-or-nothing") {
            let half = chunk.read_at(0, size_bytes / 2)?;
            self.store.borrow_mut().insert(call, key, half);
            pause().await;
        }
        let mut bytes = chunk.read()?;
        if self.fault.is("put-then-get") {
            bytes[0] ^= 1;
        }
        if self.fault.is("sizes") {
            bytes.truncate(1 << 20);
        }
        if let Some(disk) = &self.disk {
            if self.fault.is("dies-within-put") {
                disk.write(key, &bytes[..bytes.len() / 2])?;
                pause().await;
            }
            disk.write(key, &bytes)?;
        }
        self.store.borrow_mut().insert(call, key, bytes);
        Ok(())
    }

    fn get_one(&self, sink: Sink<'_>) -> Result<Option<u64>, Error> {
        let mut store = self.store.borrow_mut();
        if self.fault.is("refused-is-absent") && store.was_refused(&sink.key()) {
            return Err(Error::Corrupt("there are no bytes".to_owned()));
        }
        let Some(bytes) = store.bytes(&sink.key()) else {
            return if self.fault.is("get-absent") { Err(Error::other("it is not here")) } else { Ok(None) };
        };
        let size_bytes = bytes.len() as u64;
        if self.fault.is("shorter-than-buffer") && size_bytes < sink.capacity() {
            return Err(Error::Corrupt("the length is another".to_owned()));
        }
        if self.fault.is("larger-than-buffer") && size_bytes > sink.capacity() {
            sink.write_at(0, bytes)?;
        }
        let length = sink.write(bytes)?;
        if self.fault.is("get-length") { Ok(Some(size_bytes - 64)) } else { Ok(length) }
    }
}

async fn pause() {
    monotonic_clock::wait_for(PAUSE.as_nanos() as u64).await;
}

kvtier_guest::export!(BrokenBackend);
