//! Classes: finding the resource that `class_name` names among a component's exports, and checking its constructor and
//! methods against the contract, method by method, before any of its code runs.

mod error;
mod name;
mod wit_type;

use wasmtime::Engine;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex};

pub use self::error::ClassError;
pub use self::name::kebab;
use self::name::pascal;
use self::wit_type::Printer;
use crate::limits::SIGNATURE_BYTES_MAX;
use crate::text::{escaped, foreign_text};

/// The methods of the contract, the constructor first, with their parameters (without `self`) and
/// results as [`Printer`] prints them.
const METHODS: [(&str, &str); 9] = [
    ("constructor", "(init: init) -> result<own<self>, error>"),
    ("open", "() -> result<_, error>"),
    ("contains", "(keys: list<chunk-key>, pinning: pinning) -> result<u32, error>"),
    ("put", "(keys: list<chunk-key>, data: own<sources>) -> list<result<_, error>>"),
    ("get", "(keys: list<chunk-key>, into: own<sinks>) -> list<result<option<u64>, error>>"),
    ("pin", "(keys: list<chunk-key>) -> result<u32, error>"),
    ("unpin", "(keys: list<chunk-key>) -> result<u32, error>"),
    ("remove", "(keys: list<chunk-key>) -> result<u32, error>"),
    ("close", "() -> result<_, error>"),
];

/// A static method that a class may have, and its signature.
const LANES_MAX: (&str, &str) = ("lanes-max", "() -> u32");

/// A method that a class may have, and its signature.
const PRESENT: (&str, &str) = ("present", "(keys: list<chunk-key>) -> result<list<bool>, error>");

/// A class that fulfils the contract, ready to be bound in any instance of its component.
pub(super) struct Class {
    exports: [ComponentExportIndex; METHODS.len()],
    /// The function that returns how many lanes the class may have, if there is one.
    pub(super) lanes_max: Option<ComponentExportIndex>,
    /// The method that reports which chunks are present, if there is one.
    pub(super) present: Option<ComponentExportIndex>,
    /// Whether the methods are plain `func`, so that one call runs at a time.
    pub(super) blocking: bool,
}

impl Class {
    /// Finds the class and checks it.
    pub(super) fn find(engine: &Engine, component: &Component, class_name: &str) -> Result<Self, ClassError> {
        let classes = list(engine, component);
        let (found, blocking) = check(&classes, class_name)?;
        let (_, interface) = component
            .get_export(None, &found.interface)
            .ok_or_else(|| ClassError::Vanished(found.interface.clone()))?;
        let mut exports = Vec::with_capacity(METHODS.len());
        for (method, _) in METHODS {
            let name = export_name(&found.resource, method);
            let (_, index) = component
                .get_export(Some(&interface), &name)
                .ok_or_else(|| ClassError::Vanished(name.clone()))?;
            exports.push(index);
        }
        let exports = exports.try_into().map_err(|_| ClassError::Vanished(found.name.clone()))?;
        let optional = |name: String| component.get_export(Some(&interface), name).map(|(_, index)| index);
        let lanes_max = optional(static_name(&found.resource, LANES_MAX.0));
        let present = optional(export_name(&found.resource, PRESENT.0));
        Ok(Self { exports, lanes_max, present, blocking })
    }

    pub(super) fn export(&self, method: &str) -> &ComponentExportIndex {
        let position = METHODS.iter().position(|(name, _)| *name == method);
        &self.exports[position.expect("only methods of the contract are bound")]
    }
}

/// One exported resource that has a constructor, and how it compares with the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassReport {
    /// The class's name as `class_name` may give it.
    pub name: String,
    /// The interface that exports it.
    pub interface: String,
    /// The resource's name.
    pub resource: String,
    /// Constructor and methods of the contract, in the contract's order.
    pub methods: Vec<MethodReport>,
    /// The optional methods of the contract that the class has.
    pub optional: Vec<MethodReport>,
}

/// One method, compared with the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodReport {
    /// The method's name in the contract.
    pub name: &'static str,
    /// The signature that the contract demands.
    pub expected: &'static str,
    /// The signature found; `None` if there is no such method.
    pub found: Option<String>,
    /// Whether the method is an `async func`.
    pub asynchronous: bool,
    /// Whether the types are those that the contract demands. The names of parameters are the author's choice.
    fits: bool,
}

impl MethodReport {
    /// Returns what is wrong with the method, or nothing.
    pub fn flaw(&self) -> Option<String> {
        let Self { name, expected, found, fits, .. } = self;
        match found {
            None => Some(format!("`{name}` is missing; expected {expected}")),
            Some(_) if *fits => None,
            Some(found) => {
                Some(format!("`{name}` has another signature; expected {expected}, found {found}"))
            }
        }
    }
}

impl ClassReport {
    fn all_methods(&self) -> impl Iterator<Item = &MethodReport> {
        self.methods.iter().chain(&self.optional)
    }

    /// Reports whether the class has every method, with the right signature.
    pub fn fulfils_contract(&self) -> bool {
        self.all_methods().all(|method| method.flaw().is_none())
    }

    /// Reports whether `class_name` is the name of this class, its kebab form, or
    /// `namespace:package/interface/resource`.
    fn has_name(&self, class_name: &str) -> bool {
        let is_full = |interface: &str| format!("{interface}/{}", self.resource) == class_name;
        kebab(class_name) == self.resource || is_full(&self.interface) || is_full(self.unversioned())
    }

    /// Reports whether `interface`, with its version or without, exports this class.
    fn is_exported_by(&self, interface: &str) -> bool {
        self.interface == interface || self.unversioned() == interface
    }

    fn unversioned(&self) -> &str {
        self.interface.split('@').next().unwrap_or(&self.interface)
    }
}

/// Finds the class that a name denotes. The name of an interface denotes its only class.
fn named_class<'a>(classes: &'a [ClassReport], class_name: &str) -> Option<&'a ClassReport> {
    let mut of_interface = classes.iter().filter(|class| class.is_exported_by(class_name));
    match (of_interface.next(), of_interface.next()) {
        (Some(only), None) => Some(only),
        _ => classes.iter().find(|class| class.has_name(class_name)),
    }
}

/// Finds the class that a name denotes and checks it against the contract. Returns it with true if it is in blocking
/// style.
pub(super) fn check<'a>(
    classes: &'a [ClassReport],
    class_name: &str,
) -> Result<(&'a ClassReport, bool), ClassError> {
    let Some(found) = named_class(classes, class_name) else {
        let named = classes.iter().map(|class| class.name.clone()).collect();
        return Err(ClassError::NotExported { class: class_name.to_owned(), exported: named });
    };
    let flaws: Vec<_> = found.all_methods().filter_map(MethodReport::flaw).collect();
    if !flaws.is_empty() {
        return Err(ClassError::Contract { class: class_name.to_owned(), flaws });
    }
    let of_instances =
        found.methods.iter().skip(1).chain(found.optional.iter().filter(|method| method.name == PRESENT.0));
    let styles: Vec<bool> = of_instances.map(|method| method.asynchronous).collect();
    let asynchronous = styles.iter().filter(|is_async| **is_async).count();
    if asynchronous != 0 && asynchronous != styles.len() {
        return Err(ClassError::MixedStyle { class: class_name.to_owned() });
    }
    Ok((found, asynchronous == 0))
}

/// Lists the classes of a component: every exported resource that has a constructor, and leaves out all other exports.
/// Names are made harmless, so a name that was not harmless is no longer found.
pub(super) fn list(engine: &Engine, component: &Component) -> Vec<ClassReport> {
    let ty = component.component_type();
    let mut printer = Printer::default();
    for (name, item) in ty.imports(engine) {
        if let ("kvtier:storage/buffers", ComponentItem::ComponentInstance(buffers)) =
            (name.split('@').next().unwrap_or(name), item.ty)
        {
            for (resource, item) in buffers.exports(engine) {
                if let ComponentItem::Resource(ty) = item.ty {
                    printer.resources.push((ty, resource.to_owned()));
                }
            }
        }
    }
    let mut classes = Vec::new();
    for (interface, item) in ty.exports(engine) {
        let ComponentItem::ComponentInstance(instance) = item.ty else { continue };
        for (resource, item) in instance.exports(engine) {
            let ComponentItem::Resource(ty) = item.ty else { continue };
            let find_export = |name: &str| match instance.get_export(engine, name) {
                Some(item) => match item.ty {
                    ComponentItem::ComponentFunc(func) => Some(func),
                    _ => None,
                },
                None => None,
            };
            let find = |method: &str| find_export(&export_name(resource, method));
            // `use`d resources are listed as exports too, without a constructor.
            if find("constructor").is_none() {
                continue;
            }
            printer.resources.push((ty, "self".to_owned()));
            let compare = |name, expected: &'static str, func: Option<ComponentFunc>| {
                let asynchronous = func.as_ref().is_some_and(ComponentFunc::async_);
                let fits = func.as_ref().is_some_and(|func| printer.types(func) == types_of(expected));
                let found = func.map(|func| escaped(&printer.signature(&func), SIGNATURE_BYTES_MAX));
                MethodReport { name, expected, found, asynchronous, fits }
            };
            let methods = METHODS.map(|(name, expected)| compare(name, expected, find(name)));
            let optional =
                [(LANES_MAX, find_export(&static_name(resource, LANES_MAX.0))), (PRESENT, find(PRESENT.0))];
            let optional = optional
                .into_iter()
                .filter_map(|((name, expected), func)| func.map(|func| compare(name, expected, Some(func))));
            let optional = optional.collect();
            printer.resources.pop();
            classes.push(ClassReport {
                name: foreign_text(&pascal(resource)),
                interface: foreign_text(interface),
                resource: foreign_text(resource),
                methods: methods.into(),
                optional,
            });
        }
    }
    classes
}

/// Removes the names of parameters from a signature of [`METHODS`].
fn types_of(signature: &str) -> String {
    let (parameters, result) = signature.split_once(')').unwrap_or((signature, ""));
    let parameters = parameters.trim_start_matches('(').split(", ");
    let types: Vec<_> =
        parameters.map(|parameter| parameter.split_once(": ").map_or(parameter, |(_, ty)| ty)).collect();
    format!("({}){result}", types.join(", "))
}

fn export_name(resource: &str, method: &str) -> String {
    match method {
        "constructor" => format!("[constructor]{resource}"),
        method => format!("[method]{resource}.{method}"),
    }
}

fn static_name(resource: &str, method: &str) -> String {
    format!("[static]{resource}.{method}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_names_its_only_class_and_none_of_several() {
        let class = |interface: &str, resource: &str| ClassReport {
            name: pascal(resource),
            interface: interface.into(),
            resource: resource.into(),
            methods: Vec::new(),
            optional: Vec::new(),
        };
        let classes = [class("a:b/one@0.1.0", "x"), class("a:b/two", "y"), class("a:b/two", "z")];
        let found = |name: &str| named_class(&classes, name).map(|class| class.resource.as_str());
        for name in ["a:b/one@0.1.0", "a:b/one", "a:b/one@0.1.0/x", "a:b/one/x", "X", "x"] {
            assert_eq!(found(name), Some("x"), "{name}");
        }
        assert_eq!(found("a:b/two/z"), Some("z"));
        for name in ["a:b/two", "a:b", "a:b/one@0.2.0", "a:b/one/y", ""] {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn the_names_of_parameters_do_not_count() {
        let types: Vec<_> = METHODS.iter().map(|(_, signature)| types_of(signature)).collect();
        assert_eq!(types[0], "(init) -> result<own<self>, error>");
        assert_eq!(types[1], "() -> result<_, error>");
        assert_eq!(types[2], "(list<chunk-key>, pinning) -> result<u32, error>");
        assert_eq!(types[4], "(list<chunk-key>, own<sinks>) -> list<result<option<u64>, error>>");
    }
}
