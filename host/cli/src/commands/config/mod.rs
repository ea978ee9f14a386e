//! `kvtier config`: what each backend of a configuration asks for, what it is granted, and the difference.
//!
//! [`look`] asks the host library and returns [`Findings`]; [`render`] makes their text.

mod json;
mod text;

use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use kvtier::__internal::wasm;
use kvtier::__internal::wasm::Compilation;
use kvtier::{BackendConfig, ComponentError, ShownSetting};

pub use self::text::render;
use super::{print, print_json, read_config};
use crate::Adapt;

/// A backend of the configuration, and the facts about its component.
#[derive(Debug)]
pub struct Reviewed {
    /// The backend.
    pub config: BackendConfig,
    /// The grants that its component needs, or why the component cannot be loaded.
    pub review: Result<wasm::Review, ComponentError>,
}

/// The facts about a configuration.
#[derive(Debug)]
pub struct Findings {
    /// Warnings, for instance about tiers that kvtier does not have.
    pub warnings: Vec<String>,
    /// The settings in force, without secrets.
    pub settings: Vec<ShownSetting>,
    /// Its backends, in search order.
    pub backends: Vec<Reviewed>,
}

/// Prints what the backends of a configuration ask for and are granted. `adapt` fits the
/// configuration to this program.
///
/// # Errors
/// If the configuration is invalid, if a backend cannot be loaded, or if `out` cannot be written.
pub fn config(path: Option<&Path>, as_json: bool, adapt: Adapt<'_>, out: &mut impl Write) -> Result<()> {
    let findings = look(path, adapt)?;
    if as_json {
        print_json(out, &json::render(&findings))?;
    } else {
        print(out, &render(&findings))?;
    }
    ensure_usable(&findings)
}

/// Reads a configuration, or without a path that of the environment, and inspects the components of its backends. Runs
/// none of their code and reads no secret.
///
/// # Errors
/// If the configuration is invalid.
pub fn look(path: Option<&Path>, adapt: Adapt<'_>) -> Result<Findings> {
    let read = read_config(path)?;
    let mut config = read.config;
    let settings = config.shown();
    adapt(&mut config);
    let compilation = Compilation::new(&config);
    let reviewed = config.backends.into_iter().map(|backend| {
        let review = wasm::review(&compilation, &backend);
        Reviewed { config: backend, review }
    });
    Ok(Findings { warnings: read.warnings, settings, backends: reviewed.collect() })
}

/// Refuses a configuration with a backend that cannot be loaded.
///
/// # Errors
/// Names the backends.
pub fn ensure_usable(findings: &Findings) -> Result<()> {
    let backends = &findings.backends;
    let unusable =
        backends.iter().filter(|backend| !backend.review.as_ref().is_ok_and(wasm::Review::is_usable));
    let names: Vec<_> = unusable.map(|backend| backend.config.name.as_str()).collect();
    ensure!(names.is_empty(), "cannot be loaded: {}", names.join(", "));
    Ok(())
}
