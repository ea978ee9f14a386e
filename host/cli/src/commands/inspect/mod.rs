//! `kvtier inspect`: what a component exports and imports.
//!
//! [`look`] asks the host library and returns an [`Inspection`]; [`render`] makes its text.

mod text;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kvtier::__internal::wasm;
use serde_json::{Value, json};

pub use self::text::render;
use super::{print, print_json};

/// The exports and imports of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The file's name.
    pub file: String,
    /// The digest of its bytes: `sha256:` and 64 hex digits.
    pub digest: String,
    /// Its size.
    pub size_bytes: u64,
    /// The version of the contract that it imports from, if any.
    pub contract_version: Option<String>,
    /// Its exported classes.
    pub classes: Vec<Class>,
    /// Its imports, in the component's order.
    pub imports: Vec<Import>,
}

/// An exported class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name in the configuration.
    pub name: String,
    /// The interface that exports it.
    pub interface: String,
    /// The constructor and the methods of the contract, in its order.
    pub methods: Vec<Method>,
}

/// A method of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// How well it fits the contract.
    pub fit: Fit,
}

/// How well a method fits the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// It has the contract's signature and is an `async func`.
    Fulfilled,
    /// It has the contract's signature but is a plain `func`: one call at a time.
    Blocking,
    /// The class lacks this required method.
    Missing,
    /// It has another signature.
    Mismatch {
        /// The contract's signature.
        expected: String,
        /// The class's signature.
        found: String,
    },
}

impl Fit {
    fn is_fault(&self) -> bool {
        matches!(self, Self::Missing | Self::Mismatch { .. })
    }
}

/// An import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The interface's full name.
    pub name: String,
    /// The configuration key that grants it, if it needs a grant.
    pub grant: Option<String>,
    /// Whether kvtier offers it.
    pub known: bool,
}

impl Class {
    /// Reports whether the class fulfils the contract: it has every method, and all in one style.
    pub fn fulfils(&self) -> bool {
        !self.is_mixed() && !self.methods.iter().any(|method| method.fit.is_fault())
    }

    fn is_mixed(&self) -> bool {
        let has = |fit| self.methods.iter().any(|method| method.fit == fit);
        has(Fit::Fulfilled) && has(Fit::Blocking)
    }
}

/// Prints what a component exports and imports.
///
/// # Errors
/// If it cannot be read, if no configuration can use it, or if `out` cannot be written.
pub fn inspect(path: &Path, as_json: bool, out: &mut impl Write) -> Result<()> {
    let inspection = look(path)?;
    if as_json {
        print_json(out, &json(&inspection))?;
    } else {
        print(out, &render(&inspection))?;
    }
    ensure_usable(&inspection)
}

/// Inspects the component at `path` without running its code.
///
/// # Errors
/// If the file cannot be read or is not a component; the message names it.
pub fn look(path: &Path) -> Result<Inspection> {
    // The library's message supposes a configuration, where a relative path has another meaning.
    std::fs::metadata(path).with_context(|| format!("cannot open the component {}", path.display()))?;
    let found = wasm::inspect(path)?;
    let imports = found.imports.into_iter().map(|(name, grant)| {
        let known = wasm::offers(&name);
        Import { name, grant: grant.map(str::to_owned), known }
    });
    Ok(Inspection {
        file: path.display().to_string(),
        digest: found.digest.to_string(),
        size_bytes: found.size_bytes,
        contract_version: found.contract_version.map(|version| format!("kvtier:storage@{version}")),
        classes: found.classes.iter().map(class).collect(),
        imports: imports.collect(),
    })
}

fn class(report: &wasm::ClassReport) -> Class {
    // A constructor is a plain function in either style.
    let plain = report.methods.iter().skip(1).all(|method| !method.asynchronous);
    let methods = report.methods.iter().enumerate().map(|(index, method)| {
        let fit = match &method.found {
            None => Fit::Missing,
            Some(found) if method.flaw().is_some() => {
                Fit::Mismatch { expected: method.expected.to_owned(), found: found.clone() }
            }
            Some(_) if method.asynchronous || (index == 0 && !plain) => Fit::Fulfilled,
            Some(_) => Fit::Blocking,
        };
        Method { name: method.name.to_owned(), fit }
    });
    Class { name: report.name.clone(), interface: report.interface.clone(), methods: methods.collect() }
}

impl Inspection {
    /// Reports whether an import is the backend that this component wraps: the contract's template for backends, or an
    /// interface that the component also exports a class from.
    fn wraps(&self, import: &Import) -> bool {
        wasm::is_backend(&import.name) || self.classes.iter().any(|class| class.interface == import.name)
    }
}

/// Refuses a component that no configuration can use.
///
/// # Errors
/// If the component wraps another backend that it was not composed with, if no class fulfils the contract, or if kvtier
/// does not offer an import.
pub fn ensure_usable(inspection: &Inspection) -> Result<()> {
    let Inspection { file, classes, imports, .. } = inspection;
    if let Some(import) = imports.iter().find(|import| inspection.wraps(import)) {
        bail!(
            "component {file} imports {}: it wraps another backend, so compose it with that backend's component first, \
             for instance with `kvtier compose {file} BACKEND.wasm --out COMPOSED.wasm`",
            import.name
        );
    }
    ensure!(classes.iter().any(Class::fulfils), "component {file}: no class fulfils the contract");
    let unknown = imports.iter().find(|import| !import.known);
    ensure!(
        unknown.is_none(),
        "component {file} imports {}, which kvtier does not offer",
        unknown.map_or("", |import| &import.name)
    );
    Ok(())
}

/// Renders an inspection as JSON. Its field names are an interface: scripts read them.
fn json(inspection: &Inspection) -> Value {
    let method = |Method { name, fit }: &Method| match fit {
        Fit::Fulfilled => json!({ "name": name, "fit": "async" }),
        Fit::Blocking => json!({ "name": name, "fit": "blocking" }),
        Fit::Missing => json!({ "name": name, "fit": "missing" }),
        Fit::Mismatch { expected, found } => {
            json!({ "name": name, "fit": "mismatch", "expected": expected, "found": found })
        }
    };
    let class = |class: &Class| {
        json!({
            "name": class.name,
            "interface": class.interface,
            "fulfils": class.fulfils(),
            "methods": class.methods.iter().map(method).collect::<Vec<_>>(),
        })
    };
    let import =
        |Import { name, grant, known }: &Import| json!({ "name": name, "grant": grant, "offered": known });
    json!({
        "file": inspection.file,
        "digest": inspection.digest,
        "size_bytes": inspection.size_bytes,
        "contract": inspection.contract_version,
        "classes": inspection.classes.iter().map(class).collect::<Vec<_>>(),
        "imports": inspection.imports.iter().map(import).collect::<Vec<_>>(),
    })
}
