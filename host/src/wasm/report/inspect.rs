//! Inspecting a component without running it.

use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::config::Sha256Digest;
use crate::limits::COMPONENT_BYTES_MAX;
use crate::text::foreign_text;
use crate::wasm::class::{self, ClassReport};
use crate::wasm::component::{ComponentError, Source, ensure_light};
use crate::wasm::engine::{Traps, engine_config};

/// What a component is, exports and imports.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspection {
    /// The file's digest, as `digest` pins it.
    pub digest: Sha256Digest,
    /// The file's size in bytes.
    pub size_bytes: u64,
    /// The version of the contract that the component imports; `None` if it imports none of it.
    pub contract_version: Option<String>,
    /// The exported classes.
    pub classes: Vec<ClassReport>,
    /// The imported interfaces, each with the grant that it needs; `None` if it needs none.
    pub imports: Vec<(String, Option<&'static str>)>,
}

/// Reads and compiles a component, and reports on it. Runs none of its code.
///
/// # Errors
/// [`ComponentError`]
pub fn inspect(path: &Path) -> Result<Inspection, ComponentError> {
    let source = Source::read(path, COMPONENT_BYTES_MAX, None)?;
    ensure_light(path, &source)?;
    let Source { bytes, digest } = source;
    let invalid = |error: wasmtime::Error| ComponentError::invalid(path, &error);
    let engine = Engine::new(&engine_config(Traps::Checks)).map_err(invalid)?;
    let component = Component::from_binary(&engine, &bytes).map_err(invalid)?;
    Ok(Inspection::new(&engine, &component, digest, bytes.len() as u64))
}

impl Inspection {
    /// Reports on a compiled component. The author chooses the names in it, so they are made harmless here.
    pub(in crate::wasm) fn new(
        engine: &Engine,
        component: &Component,
        digest: Sha256Digest,
        size_bytes: u64,
    ) -> Self {
        let ty = component.component_type();
        let imports: Vec<_> =
            ty.imports(engine).map(|(name, _)| (foreign_text(name), grant_for(name))).collect();
        let contract =
            imports.iter().find_map(|(name, _)| name.strip_prefix("kvtier:storage/")?.split_once('@'));
        Self {
            digest,
            size_bytes,
            contract_version: contract.map(|(_, version)| version.to_owned()),
            classes: class::list(engine, component),
            imports,
        }
    }
}

/// Returns the grant without which an interface returns "denied" or has nothing to show.
fn grant_for(import: &str) -> Option<&'static str> {
    let interface = import.split('@').next().unwrap_or(import);
    match interface {
        _ if interface.starts_with("wasi:filesystem/") => Some("allow.fs"),
        _ if ["wasi:sockets/", "wasi:http/"].iter().any(|package| interface.starts_with(package)) => {
            Some("allow.net")
        }
        "wasi:cli/environment" => Some("allow.env"),
        "kvtier:storage/files"
        | "kvtier:storage/files-blocking"
        | "kvtier:storage/directory"
        | "kvtier:storage/directory-blocking" => Some("allow.fs"),
        _ => None,
    }
}
