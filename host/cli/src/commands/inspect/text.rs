//! An inspection as text.

use super::{Class, Fit, Inspection, Method};
use crate::format::{bytes, indented};
use crate::table::table;

/// Renders an inspection as text.
pub fn render(inspection: &Inspection) -> String {
    let Inspection { file, digest, size_bytes, contract_version, classes, imports } = inspection;
    let facts = [
        ["digest", digest],
        ["size", &bytes(*size_bytes)],
        ["contract", contract_version.as_deref().unwrap_or("none imported")],
    ];
    let mut text = format!("{file}\n{}", indented(&table(&[], 2, facts)));
    if classes.is_empty() {
        text += "\nno class: the component exports no resource; in Rust, `kvtier_guest::export!(ThingBackend)` exports one\n";
    }
    let is_composed = !imports.iter().any(|import| inspection.wraps(import));
    text.extend(classes.iter().map(|one| class(one, is_composed)));
    text += "\nimports\n";
    if imports.is_empty() {
        text += "  none\n";
    }
    let rows = imports.iter().map(|import| {
        let grant = match &import.grant {
            _ if inspection.wraps(import) => "NOT COMPOSED with the backend that this one wraps".to_owned(),
            _ if !import.known => "NOT OFFERED by this kvtier".to_owned(),
            Some(grant) => format!("granted by {grant}"),
            None => String::new(),
        };
        [import.name.clone(), grant]
    });
    text + &indented(&table(&[], 2, rows))
}

fn class(class: &Class, is_composed: bool) -> String {
    let outcome = match (class.fulfils(), is_composed) {
        (true, true) => "fulfils the contract",
        (true, false) => "fulfils the contract once the component is composed",
        (false, _) => "does NOT fulfil the contract",
    };
    let mixed = if class.is_mixed() {
        "  some methods are async and some are not; make all of them async, or none\n"
    } else {
        ""
    };
    let rows = class.methods.iter().flat_map(|Method { name, fit }| {
        let lines = match fit {
            Fit::Fulfilled => vec!["ok".to_owned()],
            Fit::Blocking => vec!["ok, blocking: one call at a time".to_owned()],
            Fit::Missing => vec!["MISSING".to_owned()],
            Fit::Mismatch { expected, found } => {
                vec!["MISMATCH".to_owned(), format!("expected  {expected}"), format!("found     {found}")]
            }
        };
        lines.into_iter().enumerate().map(move |(index, line)| {
            let name = if index == 0 { name.clone() } else { String::new() };
            [name, line]
        })
    });
    let Class { name, interface, .. } = class;
    format!("\nclass {name} ({interface}): {outcome}\n{mixed}{}", indented(&table(&[], 2, rows)))
}

#[cfg(test)]
mod tests {
    use super::super::{Import, ensure_usable};
    use super::*;

    fn method(name: &str, fit: Fit) -> Method {
        Method { name: name.into(), fit }
    }

    #[test]
    fn classes_methods_imports_and_grants_are_listed() {
        let mismatch = Fit::Mismatch { expected: "func() -> u32".into(), found: "func()".into() };
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
                    methods: vec![method("put", Fit::Fulfilled), method("get", Fit::Fulfilled)],
                },
                Class {
                    name: "PlainBackend".into(),
                    interface: "a:b/c".into(),
                    methods: vec![method("put", Fit::Blocking)],
                },
                Class {
                    name: "MixedBackend".into(),
                    interface: "a:b/c".into(),
                    methods: vec![method("put", Fit::Blocking), method("get", Fit::Fulfilled)],
                },
                Class {
                    name: "BadBackend".into(),
                    interface: "a:b/c".into(),
                    methods: vec![method("put", Fit::Missing), method("remove", mismatch)],
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
  put  ok
  get  ok

class PlainBackend (a:b/c): fulfils the contract
  put  ok, blocking: one call at a time

class MixedBackend (a:b/c): does NOT fulfil the contract
  some methods are async and some are not; make all of them async, or none
  put  ok, blocking: one call at a time
  get  ok

class BadBackend (a:b/c): does NOT fulfil the contract
  put     MISSING
  remove  MISMATCH
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
        for name in ["kvtier:storage/backend@0.1.0", "a:b/c"] {
            let mut wrapper = inspection.clone();
            wrapper.imports = vec![import(name, None, false)];
            assert!(render(&wrapper).contains(&format!("  {name}  NOT COMPOSED with the backend")), "{name}");
            let refusal = format!(
                "component x.wasm imports {name}: it wraps another backend, so compose it with that backend's component \
                 first, for instance with `kvtier compose x.wasm BACKEND.wasm --out COMPOSED.wasm`"
            );
            assert_eq!(ensure_usable(&wrapper).map_err(|error| error.to_string()), Err(refusal));
        }
        let classless = usable(|inspection| _ = inspection.classes.drain(..2));
        assert_eq!(classless, Err("component x.wasm: no class fulfils the contract".into()));
    }
}
