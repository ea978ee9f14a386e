//! What a configured backend could reach, compared with what its component imports. Runs none of its code.

use wasmtime::Engine;

use super::inspect::Inspection;
use crate::config::BackendConfig;
use crate::wasm::class::{self, ClassError};
use crate::wasm::component::{Compilation, ComponentError, Loader};
use crate::wasm::engine::engine_config;
use crate::wasm::offers;
use crate::wasm::policy::overlap::{self, OverlapError};

/// One backend of a configuration, compared with its component.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Review {
    /// The component.
    pub inspection: Inspection,
    /// Whether the class is in blocking style, or why it cannot be used.
    pub class: Result<bool, ClassError>,
    /// Whether the configuration pins the file's digest. If not, any file at that path is run.
    pub pinned: bool,
    /// A grant through which the backend could leave its sandbox. The backend does not load with it.
    pub overlap: Option<OverlapError>,
    /// The imports that this host does not offer. The component does not load with any of them.
    pub not_offered: Vec<String>,
    /// Imports and grants, one entry for each key of grants, also where both are empty.
    pub reaches: Vec<Reach>,
    /// The limits that differ from their defaults.
    pub limits: Vec<Limit>,
}

/// One kind of target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The key that grants it.
    pub key: &'static str,
    /// The interfaces that the component imports for it.
    pub imported: Vec<String>,
    /// The grants. Values of variables are left out.
    pub granted: Vec<String>,
}

/// The effect of imports and grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewResult {
    /// Neither imported nor granted.
    Unused,
    /// Imported and granted: the component reaches what the grants name.
    Granted,
    /// Imported and not granted: attempts are denied.
    Denied,
    /// Granted and not imported: the component cannot use it.
    NotNeeded,
}

/// A limit that differs from its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its name below `limits.`.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// Its default.
    pub default: u64,
}

impl Reach {
    /// Returns the effect.
    #[must_use]
    pub fn result(&self) -> ReviewResult {
        match (self.imported.is_empty(), self.granted.is_empty()) {
            (true, true) => ReviewResult::Unused,
            (false, false) => ReviewResult::Granted,
            (false, true) => ReviewResult::Denied,
            (true, false) => ReviewResult::NotNeeded,
        }
    }
}

impl Review {
    /// Reports whether the backend can be loaded, as far as this is known without running it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.class.is_ok() && self.not_offered.is_empty() && self.overlap.is_none()
    }
}

/// Compares a backend's grants with its component's imports. The component is loaded as the engine loads it: it must
/// have the size and digest that the configuration allows, is compiled by the configured compiler, and is kept in its
/// cache.
///
/// # Errors
/// [`ComponentError`], if the component cannot be read or compiled, or is not the pinned one.
pub fn review(compilation: &Compilation, config: &BackendConfig) -> Result<Review, ComponentError> {
    let path = &config.module_path;
    let engine = Engine::new(&engine_config(compilation.traps))
        .map_err(|error| ComponentError::invalid(path, &error))?;
    let loaded = Loader::new(engine.clone(), compilation.clone()).load(
        path,
        config.limits.component_bytes,
        config.digest.as_ref(),
    )?;
    let inspection = Inspection::new(&engine, &loaded.component, loaded.digest, loaded.component_bytes);
    let not_offered = inspection.imports.iter().map(|(name, _)| name).filter(|name| !offers(name));
    let changed = config.limits.changed().into_iter();
    Ok(Review {
        class: class::check(&inspection.classes, &config.class_name).map(|(_, blocking)| blocking),
        pinned: config.digest.is_some(),
        overlap: overlap::check(&config.allow, compilation.cache_directory(), compilation.compiler_program())
            .err(),
        not_offered: not_offered.cloned().collect(),
        reaches: reaches(config, &inspection),
        limits: changed.map(|(name, value, default)| Limit { name, value, default }).collect(),
        inspection,
    })
}

fn reaches(config: &BackendConfig, inspection: &Inspection) -> Vec<Reach> {
    let allow = &config.allow;
    let imported = |key: &str| {
        let asking = inspection.imports.iter().filter(|(_, grant)| *grant == Some(key));
        asking.map(|(name, _)| name.clone()).collect()
    };
    let reach = |key, granted| Reach { key, imported: imported(key), granted };
    vec![
        reach("allow.fs", allow.fs.iter().map(ToString::to_string).collect()),
        reach("allow.net", allow.net.iter().map(ToString::to_string).collect()),
        reach("allow.env", allow.env.iter().map(|grant| grant.name().to_owned()).collect()),
    ]
}
