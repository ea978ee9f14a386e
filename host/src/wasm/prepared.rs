//! A backend's class, linked and checked, with everything that its stores share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use wasmtime::component::InstancePre;

use super::class::Class;
use super::contract::types;
use super::imports::http::HttpClient;
use super::policy::Denials;
use super::policy::external::ExternalInputs;
use super::policy::network::NetPolicy;
use super::state::blocking_files::BlockingFiles;
use super::state::file_work::FileWork;
use super::state::log::BackendLog;
use super::state::ownership::Owners;
use super::state::{GuestState, Stores};
use super::threads::backend::BackendThreads;
use super::threads::{LaneThreads, Spawner};
use crate::config::{BackendConfig, Facts, OwnDirectory};
use crate::key::Namespace;
use crate::layout::BackendMetadata;

/// What a class's constructor learns about the engine.
#[derive(Clone, Debug)]
pub struct EngineFacts {
    /// The device that chunks are copied to, for instance `cuda:0`, or `cpu`.
    pub dst_device: String,
    /// The engine's metadata.
    pub(crate) metadata: BackendMetadata,
    /// The namespace of requests without tags.
    pub namespace: Namespace,
}

impl EngineFacts {
    /// Replaces the placeholders in a backend's configuration, see [`BackendConfig::fill`].
    pub(super) fn fill(&self, config: &mut BackendConfig) -> Vec<OwnDirectory> {
        config.fill(&Facts {
            worker_id: self.metadata.worker_id,
            world_size: self.metadata.world_size,
            model: &self.metadata.model_name,
            namespace: &self.namespace.to_string(),
        })
    }
}

/// What is kept for a backend for as long as it is configured, across its instances.
#[derive(Clone)]
pub(super) struct BackendShared {
    pub(super) log: Arc<BackendLog>,
    pub(super) blocking_files: Arc<BlockingFiles>,
    pub(super) denials: Arc<Denials>,
    pub(super) stores: Arc<Stores>,
    /// Host memory that is held for the stores besides their linear memory, in bytes.
    pub(super) held: Arc<AtomicU64>,
    pub(super) file_work: Arc<FileWork>,
    /// Splices that may run at a time.
    pub(super) splices: Arc<Semaphore>,
    pub(super) backend_threads: Arc<BackendThreads>,
    /// Which of its instances own directories.
    pub(super) owners: Arc<Owners>,
}

/// A backend's class, linked and checked, ready for any number of instances.
pub(super) struct Prepared {
    pub(super) name: String,
    pub(super) config: BackendConfig,
    pub(super) class: Class,
    pub(super) pre: InstancePre<GuestState>,
    pub(super) limits: LaneLimits,
    pub(super) net: NetPolicy,
    pub(super) http: HttpClient,
    pub(super) shared: BackendShared,
    pub(super) external: Arc<ExternalInputs>,
    pub(super) facts: EngineFacts,
    pub(super) threads: LaneThreads,
    /// The threads that run guests.
    pub(super) lanes: Spawner,
    /// The threads for blocking work.
    pub(super) own: Handle,
}

/// The limits that a lane enforces.
#[derive(Clone, Copy)]
pub(super) struct LaneLimits {
    pub(super) calls_in_flight_max: usize,
    pub(super) abandoned_calls_max: usize,
    pub(super) lane_stall: Duration,
    pub(super) open_timeout: Duration,
}

impl Prepared {
    pub(super) fn init(&self) -> types::Init {
        let metadata = &self.facts.metadata;
        types::Init {
            backend_name: self.name.clone(),
            dst_device: self.facts.dst_device.clone(),
            metadata: types::EngineMetadata {
                model_name: metadata.model_name.clone(),
                world_size: metadata.world_size,
                worker_id: metadata.worker_id,
                kv_dtype: metadata.kv_dtype.clone(),
                kv_shape: metadata.kv_shape.clone(),
                chunk_size: metadata.chunk_size,
            },
            namespace: self.facts.namespace.to_string(),
            config: self.external.given().settings.clone(),
        }
    }
}
