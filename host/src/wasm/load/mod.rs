//! From a backend's configuration to a class that is linked and checked.

mod error;

use std::io::PipeReader;
use std::sync::Arc;

use tokio::runtime::Handle;
use wasmtime::component::Linker;

pub use self::error::LoadError;
use super::class::Class;
use super::component::{ComponentError, Progress};
use super::cpu_time::CpuTime;
use super::imports::http::HttpClient;
use super::policy::external::ExternalInputs;
use super::policy::network::system_resolver;
use super::policy::overlap;
use super::prepared::{BackendShared, EngineFacts, LaneLimits, Prepared};
use super::threads::LaneThreads;
use super::{imports, is_backend, offers};
use crate::config::{BackendConfig, OwnDirectory};
use crate::runtime::Control;
use crate::text::foreign_text;
use crate::tier::{Liveness, TierNote};

/// Everything that a backend is made of each time that it is loaded.
#[derive(Clone)]
pub(super) struct LoadRequest {
    pub(super) config: BackendConfig,
    pub(super) facts: EngineFacts,
    pub(super) threads: LaneThreads,
    pub(super) control: Control,
    pub(super) shared: BackendShared,
    pub(super) liveness: Arc<dyn Liveness>,
    /// Directories to make before the first instance opens them.
    pub(super) directories: Vec<OwnDirectory>,
}

impl LoadRequest {
    /// Reads, compiles, checks and links the component on a thread that may block. Also returns facts for the status.
    /// Calls `compiling` if the component has to be compiled, and adds the processor time of all this to `cpu_time`.
    pub(super) async fn prepare(
        &self,
        compiling: impl Fn() -> Option<PipeReader> + Send + 'static,
        cpu_time: &Arc<CpuTime>,
    ) -> Result<(Prepared, Vec<TierNote>), LoadError> {
        let (request, cpu_time) = (self.clone(), Arc::clone(cpu_time));
        let own = self.shared.backend_threads.handle().map_err(LoadError::Threads)?;
        let prepared = own.clone().spawn_blocking(move || {
            let progress = Progress { compiling: &compiling, cpu_time: &cpu_time };
            cpu_time.during(|| prepare(request, own, &progress))
        });
        prepared.await.unwrap_or(Err(LoadError::Ended))
    }
}

fn prepare(
    request: LoadRequest,
    own: Handle,
    progress: &Progress<'_>,
) -> Result<(Prepared, Vec<TierNote>), LoadError> {
    let LoadRequest { config, facts, threads, shared, directories, liveness, .. } = request;
    let path = &config.module_path;
    let engine = threads.engine();
    for directory in &directories {
        directory.make().map_err(LoadError::Directory)?;
    }
    let compilation = threads.loader().compilation();
    overlap::check(&config.allow, compilation.cache_directory(), compilation.compiler_program())?;
    overlap::warn_of_unpinned(&config);
    let max_bytes = config.limits.component_bytes;
    let loaded = threads.loader().load_with_progress(path, max_bytes, config.digest.as_ref(), progress)?;
    let unlinkable = |error: wasmtime::Error| ComponentError::unlinkable(path, &error);
    let component_type = loaded.component.component_type();
    if let Some((import, _)) = component_type.imports(engine).find(|(import, _)| !offers(import)) {
        let (path, import) = (path.clone(), foreign_text(import));
        return Err(if is_backend(&import) {
            LoadError::NotComposed { path, import }
        } else {
            LoadError::NotOffered { path, import }
        });
    }
    let class = Class::find(engine, &loaded.component, &config.class_name)
        .map_err(|source| LoadError::Class { path: path.clone(), source })?;
    let mut linker = Linker::new(engine);
    imports::add_to_linker(&mut linker).map_err(unlinkable)?;
    let pre = linker.instantiate_pre(&loaded.component).map_err(unlinkable)?;
    let external = ExternalInputs::new(&config, liveness, own.clone(), Arc::new(system_resolver))?;
    let notes = vec![
        TierNote::new("digest", loaded.digest.to_string()),
        TierNote::new("code", loaded.origin.to_string()),
        TierNote::new("style", if class.blocking { "blocking" } else { "async" }),
    ];
    let limits = LaneLimits {
        calls_in_flight_max: config.limits.calls_in_flight_max,
        // Otherwise expired calls could take all slots, and no further call could exceed the limit.
        abandoned_calls_max: config
            .limits
            .abandoned_calls_max
            .min(config.limits.calls_in_flight_max.saturating_sub(1)),
        lane_stall: config.limits.lane_stall,
        open_timeout: config.limits.open_timeout,
    };
    let net = external.net.clone();
    let http = HttpClient::new(&config, &net)?;
    let lanes = threads.spawner();
    let name = config.name.clone();
    Ok((
        Prepared {
            name,
            config,
            class,
            pre,
            limits,
            net,
            http,
            shared,
            external,
            facts,
            threads,
            lanes,
            own,
        },
        notes,
    ))
}
