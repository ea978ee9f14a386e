//! From a backend's configuration to a class that is linked and checked.

use std::io::PipeReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use wasmtime::component::{InstancePre, Linker};

use super::class::{Class, ClassError};
use super::component::{ComponentError, Progress, foreign_text};
use super::contract::types;
use super::imports::http::{HttpClient, TlsError};
use super::imports::storage::ownership::Owners;
use super::policy::network::{NetError, NetPolicy, system_resolver};
use super::policy::outside::Outside;
use super::policy::overlap::{self, OverlapError};
use super::policy::{Denials, Witness};
use super::spent::Spent;
use super::state::file_work::FileWork;
use super::state::log::BackendLog;
use super::state::{self, State, Stores};
use super::threads::backend::OwnThreads;
use super::threads::{LaneThreads, Spawner};
use super::{CONTRACT_VERSION, imports, offers};
use crate::config::{BackendConfig, Facts, OwnDirectory, SecretError};
use crate::key::Namespace;
use crate::layout::EngineMetadata;
use crate::runtime::Control;
use crate::tier::Liveness;

/// What a class's constructor is told of the engine.
#[derive(Clone, Debug)]
pub struct EngineFacts {
    /// The device that chunks are copied to, for instance `cuda:0`, or `cpu`.
    pub dst_device: String,
    /// The engine's metadata.
    pub metadata: EngineMetadata,
    /// The namespace of requests without tags.
    pub namespace: Namespace,
}

/// Why a backend cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The component's file.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The class.
    #[error("component `{}`: {source}", path.display())]
    Class {
        /// The component's file.
        path: PathBuf,
        /// What is wrong with the class.
        source: ClassError,
    },
    /// The component imports what this host does not offer.
    #[error(
        "component `{}` imports `{import}`, which this host does not offer: it offers WASI 0.2 and 0.3, and \
         kvtier:storage@{CONTRACT_VERSION}; build the component without what needs it",
        path.display()
    )]
    NotOffered {
        /// The component's file.
        path: PathBuf,
        /// The interface.
        import: String,
    },
    /// A secret that the configuration names.
    #[error("secrets.{key}: {source}")]
    Secret {
        /// The key of the configuration.
        key: String,
        /// Why it cannot be had.
        source: SecretError,
    },
    /// A secret that is no text.
    #[error("secrets.{0} is not UTF-8 text, and constructors take text")]
    SecretNotText(String),
    /// A directory in `allow.fs` with a placeholder in its path.
    #[error("allow.fs grants a directory that cannot be made: {0}; make it, or correct the grant")]
    Directory(#[source] std::io::Error),
    /// A directory in `allow.fs`.
    #[error(transparent)]
    Overlap(#[from] OverlapError),
    /// A host name in `allow.net`.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The certificates in `tls.ca_file`.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system grants the backend no threads.
    #[error(
        "threads for the backend's files cannot be started: {0}; raise ulimit -u (threads) or ulimit -v (their stacks)"
    )]
    Threads(std::io::Error),
    /// Loading ended before there was an outcome.
    #[error(
        "loading ended before it was done: the engine is gone, or the host's side panicked; if so, please report it"
    )]
    Ended,
    /// The configuration has more lanes than the class may have.
    #[error(
        "lanes is {configured}, and class `{class}` states that it may have {stated} at most; set lanes to {stated}"
    )]
    TooManyLanes {
        /// The class.
        class: String,
        /// What the configuration says.
        configured: usize,
        /// What the class says.
        stated: u32,
    },
    /// The class does not say how many lanes it may have, though it has a method for it.
    #[error(
        "lanes is more than 1, and class `{class}` does not say in lanes-max how many it may have: {cause}"
    )]
    LanesUnknown {
        /// The class.
        class: String,
        /// What went wrong.
        cause: String,
    },
    /// The first instance could not be made, constructed or opened.
    #[error("class `{class}` did not start: {cause}")]
    NotStarted {
        /// The class.
        class: String,
        /// What went wrong.
        cause: String,
    },
}

/// All that a backend is made of, each time that it is loaded.
#[derive(Clone)]
pub(super) struct Recipe {
    pub(super) config: BackendConfig,
    pub(super) facts: EngineFacts,
    pub(super) threads: LaneThreads,
    pub(super) control: Control,
    pub(super) record: Record,
    pub(super) liveness: Arc<dyn Liveness>,
    /// Directories to make before the first instance opens them.
    pub(super) directories: Vec<OwnDirectory>,
}

/// What is kept of a backend as long as it is configured, whatever becomes of its instances.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) log: Arc<BackendLog>,
    pub(super) denials: Arc<Denials>,
    pub(super) stores: Arc<Stores>,
    /// What the host holds for the stores, beside their linear memory, in bytes.
    pub(super) held: Arc<AtomicU64>,
    pub(super) file_work: Arc<FileWork>,
    /// Splices that may run at a time.
    pub(super) splices: Arc<Semaphore>,
    pub(super) own_threads: Arc<OwnThreads>,
    /// Which of its instances own directories.
    pub(super) owners: Arc<Owners>,
}

/// A backend's class, linked and checked, ready for any number of instances.
pub(super) struct Prepared {
    pub(super) name: String,
    pub(super) config: BackendConfig,
    pub(super) class: Class,
    pub(super) pre: InstancePre<State>,
    pub(super) limits: LaneLimits,
    pub(super) net: NetPolicy,
    pub(super) http: HttpClient,
    pub(super) record: Record,
    pub(super) outside: Arc<Outside>,
    pub(super) facts: EngineFacts,
    pub(super) threads: LaneThreads,
    /// Where guests run.
    pub(super) lanes: Spawner,
    /// Where what blocks runs.
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

impl Prepared {
    pub(super) fn new_store(&self, memory_bytes: Arc<AtomicU64>) -> wasmtime::Result<wasmtime::Store<State>> {
        let witness = Witness::new(&self.record.denials, &self.outside.given().secrets);
        state::new_store(self, &witness, memory_bytes)
    }

    pub(super) fn init(&self) -> types::Init {
        let metadata = &self.facts.metadata;
        types::Init {
            backend_name: self.name.clone(),
            dst_device: self.facts.dst_device.clone(),
            metadata: types::EngineMetadata {
                model_name: metadata.model_name.clone(),
                world_size: metadata.world_size,
                worker_id: metadata.worker_id,
                kv_dtype: metadata.kv_dtype.name().into(),
                kv_shape: metadata.kv_shape.extents().into(),
                chunk_size: metadata.kv_shape.chunk_size() as u32,
            },
            namespace: self.facts.namespace.to_string(),
            config: self.outside.given().settings.clone(),
        }
    }
}

impl Recipe {
    /// Reads, compiles, checks and links the component, on a thread that may block. Returns facts for the status as
    /// well. Calls `compiling` if the component has to be compiled, and adds to `spent` what all this costs.
    pub(super) async fn prepare(
        &self,
        compiling: impl Fn() -> Option<PipeReader> + Send + 'static,
        spent: &Arc<Spent>,
    ) -> Result<(Prepared, Vec<(String, String)>), LoadError> {
        let (recipe, spent) = (self.clone(), Arc::clone(spent));
        let own = self.record.own_threads.handle().map_err(LoadError::Threads)?;
        let prepared = own.clone().spawn_blocking(move || {
            let progress = Progress { compiling: &compiling, spent: &spent };
            spent.during(|| prepare(recipe, own, &progress))
        });
        prepared.await.unwrap_or(Err(LoadError::Ended))
    }
}

fn prepare(
    recipe: Recipe,
    own: Handle,
    progress: &Progress<'_>,
) -> Result<(Prepared, Vec<(String, String)>), LoadError> {
    let Recipe { config, facts, threads, record, directories, liveness, .. } = recipe;
    let path = &config.module_path;
    let engine = threads.engine();
    for directory in &directories {
        directory.make().map_err(LoadError::Directory)?;
    }
    overlap::check(&config.allow, threads.loader().compilation())?;
    overlap::warn_of_unpinned(&config);
    let max_bytes = config.limits.component_bytes;
    let loaded = threads.loader().load_telling(path, max_bytes, config.digest.as_ref(), progress)?;
    let unlinkable = |error: wasmtime::Error| ComponentError::unlinkable(path, &error);
    let component_type = loaded.component.component_type();
    if let Some((import, _)) = component_type.imports(engine).find(|(import, _)| !offers(import)) {
        return Err(LoadError::NotOffered { path: path.clone(), import: foreign_text(import) });
    }
    let class = Class::find(engine, &loaded.component, &config.class_name)
        .map_err(|source| LoadError::Class { path: path.clone(), source })?;
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(unlinkable)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker).map_err(unlinkable)?;
    imports::http::add_to_linker(&mut linker).map_err(unlinkable)?;
    imports::add_to_linker(&mut linker).map_err(unlinkable)?;
    imports::storage::add_to_linker(&mut linker).map_err(unlinkable)?;
    let pre = linker.instantiate_pre(&loaded.component).map_err(unlinkable)?;
    let outside = Outside::new(&config, liveness, own.clone(), Arc::new(system_resolver))?;
    let notes = vec![
        ("digest".to_owned(), loaded.digest.to_string()),
        ("code".to_owned(), loaded.origin.to_string()),
        ("style".to_owned(), if class.blocking { "blocking" } else { "async" }.to_owned()),
    ];
    let limits = LaneLimits {
        calls_in_flight_max: config.limits.calls_in_flight_max,
        // Else expired calls could take all places, and no further one would go in to be the one too many.
        abandoned_calls_max: config
            .limits
            .abandoned_calls_max
            .min(config.limits.calls_in_flight_max.saturating_sub(1)),
        lane_stall: config.limits.lane_stall,
        open_timeout: config.limits.open_timeout,
    };
    let net = outside.net.clone();
    let http = HttpClient::new(&config, &net)?;
    let lanes = threads.spawner();
    let name = config.name.clone();
    Ok((
        Prepared { name, config, class, pre, limits, net, http, record, outside, facts, threads, lanes, own },
        notes,
    ))
}
