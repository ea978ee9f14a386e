//! Loading the configured backends.

use std::sync::Arc;

use super::BuildError;
use crate::clock::Clock;
use crate::config::{BackendConfig, Config, OnLoadError};
use crate::key::Namespace;
use crate::layout::BackendMetadata;
use crate::manager::{Breakers, MadeTier, NewBackend, TierFactory};
use crate::runtime::Control;
use crate::tier::{Liveness, Tier};
use crate::wasm::{Compilation, EngineFacts, LaneThreads, WasmTier};

/// Loads the configured backends.
pub(super) async fn load(
    config: &Config,
    dst_device: &str,
    metadata: &BackendMetadata,
    namespace: Namespace,
    control: &Control,
    clock: &Clock,
) -> Result<Vec<NewBackend>, BuildError> {
    if config.backends.is_empty() {
        return Ok(Vec::new());
    }
    let facts = EngineFacts { dst_device: dst_device.to_owned(), metadata: metadata.clone(), namespace };
    let threads = LaneThreads::start(config.lane_threads, Compilation::new(config))?;
    let starting = config.backends.iter().map(|backend| {
        let breakers = Arc::new(Breakers::new(&backend.name, backend.breaker, clock));
        let make = factory(backend.clone(), facts.clone(), threads.clone(), control.clone());
        let (tier, loading) = WasmTier::begin(
            backend.clone(),
            facts.clone(),
            threads.clone(),
            control.clone(),
            breakers.attach(),
        );
        async move {
            let outcome = match config.on_load_error {
                OnLoadError::Fail => Some(loading.outcome().await),
                // Compiling may take minutes, and the other backends do not wait for it.
                OnLoadError::Continue => loading.outcome_unless_compiled().await,
            };
            (breakers, make, tier, outcome)
        }
    });
    let mut backends = Vec::new();
    let started = futures::future::join_all(starting).await;
    for (backend, (breakers, factory, tier, outcome)) in config.backends.iter().zip(started) {
        let name = backend.name.clone();
        match outcome {
            None => {
                tracing::info!(backend = %name, "its component is being compiled; the engine starts without it");
            }
            Some(Ok(())) => tracing::info!(backend = %name, class = %backend.class_name, "backend ready"),
            Some(Err(source)) if config.on_load_error == OnLoadError::Fail => {
                return Err(BuildError::Load { backend: name, source });
            }
            Some(Err(error)) => {
                tracing::error!(backend = %name, %error, "backend not loaded; trying again in the background");
            }
        }
        backends.push(NewBackend { name, tier: Arc::new(tier), factory: Some(factory), breakers });
    }
    Ok(backends)
}

/// Makes the factory that creates a backend again.
fn factory(
    backend: BackendConfig,
    facts: EngineFacts,
    threads: LaneThreads,
    control: Control,
) -> TierFactory {
    Arc::new(move |liveness: Arc<dyn Liveness>| -> MadeTier {
        let starting =
            WasmTier::start(backend.clone(), facts.clone(), threads.clone(), control.clone(), liveness);
        Box::pin(async move {
            let (tier, outcome) = starting.await;
            (Arc::new(tier) as Arc<dyn Tier>, outcome.map_err(|error| error.to_string()))
        })
    })
}
