//! Runs a backend's logic under `cargo test`, on the author's machine and without a host.
//!
//! Switch the feature `testing` on for tests only:
//!
//! ```toml
//! [dev-dependencies]
//! kvtier-guest = { version = "0.1", features = ["testing"] }
//! ```
//!
//! [`sources`] and [`sinks`] make buffers that check what the host checks. Files, streams and sockets exist in
//! components only: a test that reaches one of them panics.
//!
//! ```
//! use kvtier_guest::prelude::*;
//! use kvtier_guest::testing::{block_on, init, keys, sinks, sources};
//! # use std::{cell::RefCell, collections::HashMap};
//! # struct MapBackend(RefCell<HashMap<ChunkKey, Vec<u8>>>);
//! # impl ChunkStore for MapBackend {
//! #     fn from_init(_init: Init) -> Result<Self, Error> { Ok(Self(RefCell::default())) }
//! #     async fn has(&self, key: ChunkKey) -> Result<bool, Error> { Ok(self.0.borrow().contains_key(&key)) }
//! #     async fn put_one(&self, chunk: Source<'_>) -> Result<(), Error> {
//! #         self.0.borrow_mut().insert(chunk.key(), chunk.read()?);
//! #         Ok(())
//! #     }
//! #     async fn get_one(&self, into: Sink<'_>) -> Result<Option<u64>, Error> {
//! #         self.0.borrow().get(&into.key()).map_or(Ok(None), |bytes| into.write(bytes))
//! #     }
//! #     async fn remove_one(&self, _: ChunkKey) -> Result<bool, Error> { Ok(false) }
//! # }
//!
//! let backend = MapBackend::new(init([])).unwrap();
//! let keys = keys(2);
//! assert_eq!(block_on(backend.put(&keys[..1], &sources(["first"]))), [Ok(())]);
//!
//! let into = sinks([16, 16]);
//! let results = block_on(backend.get(&keys, &into));
//! assert_eq!(into.fetched(&results), [Ok(Some(b"first".to_vec())), Ok(None)]);
//! ```

#[doc(hidden)]
pub mod buffers;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use crate::{ChunkKey, EngineMetadata, Init, Sinks, Sources};

/// Returns what a constructor is given: a small model's metadata, and `settings` as `config.*`.
pub fn init<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Init {
    Init {
        backend_name: "test".to_owned(),
        dst_device: "cpu".to_owned(),
        metadata: EngineMetadata {
            model_name: "test-model".to_owned(),
            world_size: 1,
            worker_id: 0,
            kv_dtype: "bfloat16".to_owned(),
            kv_shape: vec![2, 2, 256, 8, 128],
            chunk_size: 256,
        },
        namespace: "0".repeat(32),
        config: settings.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    }
}

/// Returns `n` different keys, the same ones each time.
pub fn keys(n: u64) -> Vec<ChunkKey> {
    // As evenly spread as those of the host, which are digests.
    (0..n).map(|lo| ChunkKey { hi: lo.wrapping_mul(0x9e37_79b9_7f4a_7c15), lo }).collect()
}

/// Returns the chunks of a put.
pub fn sources<C: Into<Vec<u8>>>(chunks: impl IntoIterator<Item = C>) -> Sources {
    Sources::of(chunks.into_iter().map(Into::into).collect())
}

/// Returns the buffers of a get, with these capacities in bytes.
pub fn sinks(capacities: impl IntoIterator<Item = u64>) -> Sinks {
    Sinks::of(capacities.into_iter().collect())
}

/// Runs a method of a backend to its end.
///
/// # Panics
/// Panics if the method waits and nothing in the test can wake it, such as a lock that the test itself holds.
pub fn block_on<T>(method: impl Future<Output = T>) -> T {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Arc::clone(&woken).into();
    let mut method = pin!(method);
    loop {
        if let Poll::Ready(result) = method.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        assert!(woken.0.swap(false, Ordering::Relaxed), "the method waits for something that never comes");
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{block_on, init, keys};

    #[test]
    fn settings_are_read_like_those_of_a_host() {
        let init = init([("capacity", "1KiB"), ("root", "/data")]);
        assert_eq!(init.bytes("capacity"), Ok(Some(1024)));
        assert_eq!(init.require("root"), Ok("/data"));
        assert_eq!(init.get("none"), None);
    }

    #[test]
    fn keys_differ_and_stay_the_same() {
        let mut many = keys(100);
        assert_eq!(many[..3], keys(3));
        many.sort();
        many.dedup();
        assert_eq!(many.len(), 100);
    }

    #[test]
    fn a_method_that_yields_goes_on() {
        let each = block_on(crate::each(&keys(3), async |index, _| index));
        assert_eq!(each, [0, 1, 2]);
    }

    #[test]
    #[should_panic(expected = "never comes")]
    fn a_method_that_waits_for_nothing_fails_the_test() {
        block_on(std::future::pending::<()>());
    }
}
