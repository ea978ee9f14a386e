//! `kvtier compose`: a backend in front of another one, as one component.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kvtier::__internal::wasm::{digest_of, read_component};
use kvtier::BackendLimits;
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, PackageId};

use super::output_file::OutputFile;
use super::print;
use crate::args::ComposeArgs;
use crate::format::bytes as size;

/// The interface that joins two components, without its version.
const BACKEND: &str = "kvtier:storage/backend";

/// Joins two components, writes the result, and prints its size and digest.
///
/// # Errors
/// If a file cannot be read, if the components do not fit, or if the result cannot be written; the message names the
/// file and what it lacks.
pub fn compose(args: &ComposeArgs, out: &mut impl Write) -> Result<()> {
    let output = OutputFile::begin(&args.out, "component", &[&args.outer, &args.inner])?;
    let Composed { bytes, is_open } = join(&args.outer, &args.inner)?;
    output.finish(&bytes)?;
    let (path, digest) = (args.out.display(), digest_of(&bytes));
    print(out, &format!("{path}: {}, {digest}\n", size(bytes.len() as u64)))?;
    if is_open {
        let inner = args.inner.display();
        print(
            out,
            &format!("{inner} also imports {BACKEND}: compose {path} with a backend that stores chunks\n"),
        )?;
    }
    Ok(())
}

/// A component that was joined of two.
struct Composed {
    bytes: Vec<u8>,
    /// Whether it imports a backend nevertheless.
    is_open: bool,
}

fn join(outer_path: &Path, inner_path: &Path) -> Result<Composed> {
    let mut graph = CompositionGraph::new();
    let outer = add(&mut graph, "kvtier:outer", outer_path)?;
    let inner = add(&mut graph, "kvtier:inner", inner_path)?;
    let (import, export) = (import_of(&graph, outer), export_of(&graph, inner));
    let is_open = import_of(&graph, inner).is_some();
    let Some(import) = import else {
        let hint = if is_open {
            format!("; {} does, so give it first", inner_path.display())
        } else {
            String::new()
        };
        bail!("{} does not import {BACKEND}, so no backend fits behind it{hint}", outer_path.display());
    };
    let Some(export) = export else {
        bail!(
            "{} does not export {BACKEND}; a backend behind another one exports the contract's interface itself, as \
             the world storage-backend does",
            inner_path.display()
        );
    };
    let (front, behind) = (graph.instantiate(outer), graph.instantiate(inner));
    let backend = graph.alias_instance_export(behind, &export)?;
    let (outer_shown, inner_shown) = (outer_path.display(), inner_path.display());
    let joined = graph.set_instantiation_argument(front, &import, backend);
    joined.with_context(|| {
        format!(
            "{inner_shown} exports {export}, which is not what {outer_shown} imports as {import}; build both with the \
             same version of the contract"
        )
    })?;
    for name in exports(&graph, outer) {
        let exported = graph.alias_instance_export(front, &name)?;
        graph.export(exported, &name)?;
    }
    let encoded = graph.encode(EncodeOptions::default());
    let bytes = encoded.with_context(|| format!("cannot join {outer_shown} and {inner_shown}"))?;
    Ok(Composed { bytes, is_open })
}

/// Reads a component.
fn add(graph: &mut CompositionGraph, name: &str, path: &Path) -> Result<PackageId> {
    // The library's message supposes a configuration, where a relative path has another meaning.
    std::fs::metadata(path).with_context(|| format!("cannot open the component {}", path.display()))?;
    let bytes = read_component(path, BackendLimits::default().component_bytes)?;
    let package = Package::from_bytes(name, None, bytes, graph.types_mut());
    let package =
        package.with_context(|| format!("{} is not a component that can be joined", path.display()))?;
    Ok(graph.register_package(package)?)
}

fn import_of(graph: &CompositionGraph, package: PackageId) -> Option<String> {
    let mut names = graph.types()[graph[package].ty()].imports.keys();
    names.find(|name| is_backend(name)).cloned()
}

fn export_of(graph: &CompositionGraph, package: PackageId) -> Option<String> {
    exports(graph, package).into_iter().find(|name| is_backend(name))
}

fn exports(graph: &CompositionGraph, package: PackageId) -> Vec<String> {
    graph.types()[graph[package].ty()].exports.keys().cloned().collect()
}

fn is_backend(name: &str) -> bool {
    name.split('@').next() == Some(BACKEND)
}
