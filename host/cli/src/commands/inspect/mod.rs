//! What `kvtier inspect` shows of a component.
//!
//! [`Inspection`] is what there is to know, [`look`] asks the host library for it, [`render`] makes its text.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kvtier::wasm;

/// What is known of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The file's name.
    pub file: String,
    /// Its digest, `sha256:` and 64 hex digits.
    pub digest: String,
    /// Its size.
    pub size_bytes: u64,
    /// The version of the contract that it was built against, if it imports any of it.
    pub contract_version: Option<String>,
    /// Its exported classes.
    pub classes: Vec<Class>,
    /// Its imports, in the component's order.
    pub imports: Vec<Import>,
}

/// An exported class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// As the configuration names it.
    pub name: String,
    /// The interface that exports it.
    pub interface: String,
    /// The contract's constructor and methods, in its order.
    pub methods: Vec<Method>,
}

/// A method of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// How it stands to the contract.
    pub standing: Standing,
}

/// How a method stands to the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As the contract has it, `async func`.
    Fulfilled,
    /// As the contract has it, but plain `func`: one call at a time.
    Blocking,
    /// A required method that the class does not have.
    Missing,
    /// A method with another signature.
    Mismatch {
        /// What the contract has.
        expected: String,
        /// What the class has.
        found: String,
    },
}

impl Standing {
    fn is_fault(&self) -> bool {
        matches!(self, Self::Missing | Self::Mismatch { .. })
    }
}

/// An import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The interface's full name.
    pub name: String,
    /// The configuration's key that grants it, if it needs a grant.
    pub grant: Option<String>,
    /// Whether kvtier offers it at all.
    pub known: bool,
}

impl Class {
    /// Answers whether the class fulfils the contract: every method is there, and all are of one style.
    pub fn fulfils(&self) -> bool {
        !self.is_mixed() && !self.methods.iter().any(|method| method.standing.is_fault())
    }

    fn is_mixed(&self) -> bool {
        let has = |standing| self.methods.iter().any(|method| method.standing == standing);
        has(Standing::Fulfilled) && has(Standing::Blocking)
    }
}

/// Looks into the component at `path`. None of its code runs.
///
/// # Errors
/// When the file cannot be read or is no component; the message names it.
pub fn look(path: &Path) -> Result<Inspection> {
    // The library speaks of configurations, where a relative path has another meaning.
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
        let standing = match &method.found {
            None => Standing::Missing,
            Some(found) if method.flaw().is_some() => {
                Standing::Mismatch { expected: method.expected.to_owned(), found: found.clone() }
            }
            Some(_) if method.asynchronous || (index == 0 && !plain) => Standing::Fulfilled,
            Some(_) => Standing::Blocking,
        };
        Method { name: method.name.to_owned(), standing }
    });
    Class { name: report.name.clone(), interface: report.interface.clone(), methods: methods.collect() }
}

/// Refuses a component that no configuration can use.
///
/// # Errors
/// When no class fulfils the contract, and when kvtier does not offer an import.
pub fn ensure_usable(inspection: &Inspection) -> Result<()> {
    let Inspection { file, classes, imports, .. } = inspection;
    ensure!(classes.iter().any(Class::fulfils), "component {file}: no class fulfils the contract");
    let unknown = imports.iter().find(|import| !import.known);
    ensure!(
        unknown.is_none(),
        "component {file} imports {}, which kvtier does not offer",
        unknown.map_or("", |import| &import.name)
    );
    Ok(())
}

/// Renders an inspection as text.
pub fn render(inspection: &Inspection) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |line: std::fmt::Arguments| writeln!(text, "{line}").unwrap_or_default();
    line(format_args!("{}", inspection.file));
    line(format_args!("  digest    {}", inspection.digest));
    line(format_args!("  size      {}", crate::format::bytes(inspection.size_bytes)));
    let version = inspection.contract_version.as_deref().unwrap_or("none imported");
    line(format_args!("  contract  {version}"));
    if inspection.classes.is_empty() {
        line(format_args!("\nno class: the component exports no resource"));
    }
    for class in &inspection.classes {
        let verdict = if class.fulfils() { "fulfils the contract" } else { "does NOT fulfil the contract" };
        line(format_args!("\nclass {} ({}): {verdict}", class.name, class.interface));
        if class.is_mixed() {
            line(format_args!("  some methods are async and some are not; make all of them async, or none"));
        }
        for Method { name, standing } in &class.methods {
            match standing {
                Standing::Fulfilled => line(format_args!("  {name:<12} ok")),
                Standing::Blocking => line(format_args!("  {name:<12} ok, blocking: one call at a time")),
                Standing::Missing => line(format_args!("  {name:<12} MISSING")),
                Standing::Mismatch { expected, found } => {
                    line(format_args!("  {name:<12} MISMATCH"));
                    line(format_args!("      expected  {expected}"));
                    line(format_args!("      found     {found}"));
                }
            }
        }
    }
    line(format_args!("\nimports"));
    if inspection.imports.is_empty() {
        line(format_args!("  none"));
    }
    let width = inspection.imports.iter().map(|import| import.name.len()).max().unwrap_or(0);
    for Import { name, grant, known } in &inspection.imports {
        match grant {
            _ if !known => line(format_args!("  {name:<width$}  NOT OFFERED by this kvtier")),
            Some(grant) => line(format_args!("  {name:<width$}  granted by {grant}")),
            None => line(format_args!("  {name}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(name: &str, standing: Standing) -> Method {
        Method { name: name.into(), standing }
    }

    #[test]
    fn classes_methods_imports_and_grants_are_listed() {
        let mismatch = Standing::Mismatch { expected: "func() -> u32".into(), found: "func()".into() };
        let import = |name: &str, grant: Option<&str>, known| Import {
            name: name.into(),
            grant: grant.map(str::to_owned),
            known,
        };
        let inspection = Inspection {
            file: "x.wasm".into(),
            digest: "sha256:00".into(),
            size_bytes: 2048,
            contract_version: Some("kvtier:storage@0.1.0".into()),
            classes: vec![
                Class {
                    name: "GoodBackend".into(),
                    interface: "a:b/c".into(),
                    methods: vec![method("put", Standing::Fulfilled), method("get", Standing::Fulfilled)],
                },
                Class {
                    name: "PlainBackend".into(),
                    interface: "a:b/c".into(),
                    methods: vec![method("put", Standing::Blocking)],
                },
                Class {
                    name: "MixedBackend".into(),
                    interface: "a:b/c".into(),
                    methods: vec![method("put", Standing::Blocking), method("get", Standing::Fulfilled)],
                },
                Class {
                    name: "BadBackend".into(),
                    interface: "a:b/c".into(),
                    methods: vec![method("put", Standing::Missing), method("remove", mismatch)],
                },
            ],
            imports: vec![
                import("kvtier:storage/buffers@0.1.0", None, true),
                import("wasi:sockets/tcp@0.2.0", Some("allow.net"), true),
                import("x:y/z", None, false),
            ],
        };
        let expected = "\
x.wasm
  digest    sha256:00
  size      2.0 KiB
  contract  kvtier:storage@0.1.0

class GoodBackend (a:b/c): fulfils the contract
  put          ok
  get          ok

class PlainBackend (a:b/c): fulfils the contract
  put          ok, blocking: one call at a time

class MixedBackend (a:b/c): does NOT fulfil the contract
  some methods are async and some are not; make all of them async, or none
  put          ok, blocking: one call at a time
  get          ok

class BadBackend (a:b/c): does NOT fulfil the contract
  put          MISSING
  remove       MISMATCH
      expected  func() -> u32
      found     func()

imports
  kvtier:storage/buffers@0.1.0
  wasi:sockets/tcp@0.2.0        granted by allow.net
  x:y/z                         NOT OFFERED by this kvtier
";
        assert_eq!(render(&inspection), expected);
        assert_eq!(
            inspection.classes.iter().map(Class::fulfils).collect::<Vec<_>>(),
            [true, true, false, false]
        );

        let usable = |change: fn(&mut Inspection)| {
            let mut inspection = inspection.clone();
            change(&mut inspection);
            ensure_usable(&inspection).map_err(|error| error.to_string())
        };
        let unknown = "component x.wasm imports x:y/z, which kvtier does not offer";
        assert_eq!(usable(|_| {}), Err(unknown.into()));
        assert_eq!(usable(|inspection| _ = inspection.imports.pop()), Ok(()));
        let classless = usable(|inspection| _ = inspection.classes.drain(..2));
        assert_eq!(classless, Err("component x.wasm: no class fulfils the contract".into()));
    }
}
