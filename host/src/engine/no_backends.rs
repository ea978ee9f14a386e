//! Replaces the loading of backends in a library without components: refuses a configuration that has any.

use super::BuildError;
use crate::clock::Clock;
use crate::config::Config;
use crate::key::Namespace;
use crate::layout::BackendMetadata;
use crate::manager::NewBackend;
use crate::runtime::Control;

/// Returns no backends.
///
/// # Errors
/// [`BuildError::WithoutComponents`] if any is configured.
pub(super) async fn load(
    config: &Config,
    _: &str,
    _: &BackendMetadata,
    _: Namespace,
    _: &Control,
    _: &Clock,
) -> Result<Vec<NewBackend>, BuildError> {
    match config.backends.first() {
        Some(backend) => Err(BuildError::WithoutComponents(backend.name.clone())),
        None => Ok(Vec::new()),
    }
}
