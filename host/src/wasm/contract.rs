//! The contract, bound: generated traits for imports, and typed functions for a class's methods.
//!
//! The only place that names generated types.

use rustix::io::Errno;
use wasmtime::component::{Instance, ResourceAny, TypedFunc};
use wasmtime::{AsContextMut, Store};

use super::class::Class;
use crate::key::ChunkKey;
use crate::tier::{Pinning, TierError};
use crate::transfer::{Sinks, Sources};

mod generated {
    #![allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated")]
    wasmtime::component::bindgen!({
        path: "wit",
        additional_derives: [PartialEq],
        world: "kvtier:storage/imports",
        imports: {
            "kvtier:storage/streams.read-stream": store | trappable,
            "kvtier:storage/files-blocking.store": async | trappable,
            "kvtier:storage/files-blocking.load": async | trappable,
            "kvtier:storage/files-blocking.store-all": async | trappable,
            "kvtier:storage/files-blocking.load-all": async | trappable,
            "kvtier:storage/files-blocking.try-direct": async | trappable,
            "kvtier:storage/files-blocking.keep-capacity": async | trappable,
            "kvtier:storage/directory-blocking.store-all": async | trappable,
            "kvtier:storage/directory-blocking.load-all": async | trappable,
            "kvtier:storage/directory-blocking.list": async | trappable,
            "kvtier:storage/directory-blocking.remove": async | trappable,
            "kvtier:storage/directory-blocking.read": async | trappable,
            "kvtier:storage/directory-blocking.write": async | trappable,
            default: trappable,
        },
        with: {
            "kvtier:storage/buffers.sources": crate::transfer::Sources,
            "kvtier:storage/buffers.sinks": crate::transfer::Sinks,
            "wasi:filesystem/types@0.3.0": wasmtime_wasi::p3::bindings::filesystem::types,
            "wasi:filesystem/types@0.2.1": wasmtime_wasi::p2::bindings::filesystem::types,
        },
    });
}

pub(super) use generated::kvtier::storage::{
    buffers, directory, directory_blocking, files, files_blocking, limits, logging, streams, types,
};

type Reply<T> = (Result<T, types::Error>,);
type Keys = Vec<types::ChunkKey>;
type Presence = TypedFunc<(ResourceAny, Keys), Reply<Vec<bool>>>;
type Counting = TypedFunc<(ResourceAny, Keys), Reply<u32>>;
type Putting =
    TypedFunc<(ResourceAny, Keys, wasmtime::component::Resource<Sources>), (Vec<Result<(), types::Error>>,)>;
type Getting = TypedFunc<
    (ResourceAny, Keys, wasmtime::component::Resource<Sinks>),
    (Vec<Result<Option<u64>, types::Error>>,),
>;

/// The constructor and the methods of a class in one instance, with their types checked.
pub(super) struct Bound {
    pub(super) constructor: TypedFunc<(types::Init,), Reply<ResourceAny>>,
    pub(super) open: TypedFunc<(ResourceAny,), Reply<()>>,
    pub(super) contains: TypedFunc<(ResourceAny, Keys, types::Pinning), Reply<u32>>,
    pub(super) put: Putting,
    pub(super) get: Getting,
    pub(super) pin: Counting,
    pub(super) unpin: Counting,
    pub(super) remove: Counting,
    pub(super) close: TypedFunc<(ResourceAny,), Reply<()>>,
    /// `None` if the class does not have this optional method.
    pub(super) present: Option<Presence>,
}

impl Bound {
    /// Binds the methods. This finds a mismatch that the static check missed.
    pub(super) fn new<T: Send + 'static>(
        class: &Class,
        store: &mut Store<T>,
        instance: &Instance,
    ) -> wasmtime::Result<Self> {
        let mut store = store.as_context_mut();
        macro_rules! bind {
            ($method:ident) => {
                instance.get_typed_func(&mut store, class.export(stringify!($method)))?
            };
        }
        let present = class.present.as_ref().map(|export| instance.get_typed_func(&mut store, export));
        Ok(Self {
            present: present.transpose()?,
            constructor: bind!(constructor),
            open: bind!(open),
            contains: bind!(contains),
            put: bind!(put),
            get: bind!(get),
            pin: bind!(pin),
            unpin: bind!(unpin),
            remove: bind!(remove),
            close: bind!(close),
        })
    }
}

/// Lowers keys.
pub(super) fn keys(keys: &[ChunkKey]) -> Keys {
    keys.iter().map(|key| types::ChunkKey { hi: key.hi, lo: key.lo }).collect()
}

impl From<Pinning> for types::Pinning {
    fn from(pinning: Pinning) -> Self {
        match pinning {
            Pinning::None => Self::None,
            Pinning::Pin => Self::Pin,
        }
    }
}

/// The text is still the guest's: [`DenialLog::explain`](super::policy::DenialLog::explain) makes it harmless.
impl From<types::Error> for TierError {
    fn from(error: types::Error) -> Self {
        match error {
            types::Error::Unavailable(text) => Self::Unavailable(text),
            types::Error::InvalidConfig(text) => Self::InvalidConfig(text),
            types::Error::InvalidArgument(text) => Self::InvalidArgument(text),
            types::Error::NoSpace => Self::NoSpace,
            types::Error::Corrupt(text) => Self::Corrupt(text),
            types::Error::Unsupported => Self::Unsupported,
            types::Error::Other(text) => Self::Other(text),
        }
    }
}

/// Returns the contract's error for one of the system's.
pub(super) fn failed(error: &std::io::Error) -> types::Error {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => types::Error::NoSpace,
        _ => types::Error::Other(error.to_string()),
    }
}
