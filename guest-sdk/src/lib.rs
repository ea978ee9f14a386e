#![doc = include_str!("../README.md")]

#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated from the contract, which has the documentation"
)]
pub mod bindings;

mod backend;
mod backoff;
mod buffers;
mod chunk_store;
mod chunks;
pub mod directory;
mod each;
mod error;
pub mod files;
mod init;
mod key;
mod logging;
pub mod lru;
mod ownership;
mod part;
mod plain;
pub mod sync;
#[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
pub mod testing;
mod value;

pub use backend::{BlockingBackend, StorageBackend};
pub use backoff::Backoff;
pub use bindings::kvtier::storage::buffers::{Sinks, Sources};
pub use bindings::kvtier::storage::logging::Level;
pub use bindings::kvtier::storage::types::{
    Caching, ChunkKey, DirectoryEntry, EngineMetadata, EntryKind, Error, FileToLoad, FileToStore, Init,
    Ownership, Pinning,
};
pub use buffers::{COPY_BYTES_MAX, check_memory, try_direct, try_direct_blocking};
pub use chunk_store::ChunkStore;
pub use chunks::{Sink, Source};
pub use each::{AT_ONCE_MAX, each, each_bounded};
pub use logging::{Repeated, log};
pub use ownership::{keep_capacity, keep_capacity_blocking};
pub use part::Part;
pub use value::Value;

pub use futures_util;
pub use futures_util::{join, try_join};
pub use wasip2;
pub use wasip3;
pub use wit_bindgen;

/// Exports classes of a component by their Rust names. Once per component.
///
/// ```text
/// kvtier_guest::export!(ExternalLogBackend);                    // implements `StorageBackend`
/// kvtier_guest::export!(MemoryBackend, lru::LruMemoryBackend);  // two classes in one component
/// kvtier_guest::export!(blocking FileBackend, NetBackend);      // the first is a `BlockingBackend`
/// kvtier_guest::export!(inner StoreBackend);                    // can stand behind a middleware
/// ```
///
/// The operator selects a class by its Rust name, `class_name: ExternalLogBackend`. In the component it is the resource
/// `external-log-backend`. A word begins at a capital letter that follows a lower-case letter or a digit, and at a
/// capital letter that is followed by a lower-case letter: `MyHTTPBackend` is `my-http-backend`, `S3Backend` is
/// `s3-backend`. Names begin with a capital letter and consist of ASCII letters and digits. Two classes of one
/// component may not have the same name in that form, and the contract's own names (`Init`, `ChunkKey`, `Error`,
/// `Sources`, `Sinks`) are taken.
///
/// A class behind the word `inner` is exported from the contract's own interface `backend`, which a middleware imports,
/// and is called `Backend` there, whatever its Rust name is: one class of a component at most. The host does not see
/// its [`StorageBackend::lanes_max`] and [`StorageBackend::present`]. It needs the feature `spawn`.
pub use kvtier_guest_macros::export;

/// What nearly every backend needs: `use kvtier_guest::prelude::*;`.
pub mod prelude {
    pub use crate::{
        BlockingBackend, ChunkKey, ChunkStore, Error, Init, Level, Pinning, Sink, Sinks, Source, Sources,
        StorageBackend, debug, each, each_bounded, error, info, trace, warn,
    };
}

/// For the code that `export!` writes.
#[doc(hidden)]
pub mod __private {
    use std::sync::Once;

    /// Lets a call of another component end after its answer. wasmtime 48 never forgets a call that ends with it.
    #[cfg(feature = "spawn")]
    pub fn end_late() {
        wit_bindgen::spawn_local(wit_bindgen::yield_async());
    }

    /// Sends the message of a panic to the host's log: a guest has no standard error.
    pub fn install_panic_hook() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|panic| crate::error!("{panic}")));
        });
    }
}
