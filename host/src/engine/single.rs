//! One backend without an engine or a chain.

use std::sync::Arc;

use super::BuildError;
use crate::config::{BackendConfig, Config};
use crate::key::Namespace;
use crate::layout::EngineMetadata;
use crate::runtime::{Control, unbudgeted};
use crate::tier::{Liveness, Tier};
use crate::wasm::{Compilation, EngineFacts, LaneThreads, WasmTier};

/// Starts one backend without a chain and returns it when it is open. Conformance checks use it to call a backend
/// through the [`Tier`] trait.
///
/// It uses from `config` how components are compiled and the number of lane threads; `metadata` goes to the backend's
/// constructor. The backend's answers are not verified: the caller makes [`Sources`](crate::tier::Sources) and
/// [`Sinks`](crate::tier::Sinks) with a [`Sealer`](crate::tier::Sealer) over [`Namespace::new`], and checks each sink.
/// End it with [`Tier::close`].
///
/// # Errors
/// [`BuildError::Load`] if the backend cannot be loaded, [`BuildError::Threads`] and [`BuildError::Control`] if threads
/// cannot be started.
pub async fn start_backend(
    config: &Config,
    backend: BackendConfig,
    metadata: EngineMetadata,
    liveness: Arc<dyn Liveness>,
) -> Result<Arc<dyn Tier>, BuildError> {
    let threads = LaneThreads::start(config.lane_threads, Compilation::new(config))?;
    let control = Control::start().map_err(BuildError::Control)?;
    let namespace = Namespace::new(&metadata);
    let facts = EngineFacts { dst_device: "cpu".to_owned(), metadata: (&metadata).into(), namespace };
    let name = backend.name.clone();
    let (tier, outcome) = unbudgeted(WasmTier::start(backend, facts, threads, control, liveness)).await;
    outcome.map_err(|source| BuildError::Load { backend: name, source })?;
    Ok(Arc::new(tier))
}
