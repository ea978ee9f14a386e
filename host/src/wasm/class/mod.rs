//! Classes: finding the resource that `class_name` names among a component's exports, and checking its
//! constructor and methods against the contract, method by method, before anything runs.

use std::cell::Cell;
use std::fmt::Write as _;

use wasmtime::Engine;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};
use wasmtime::component::{Component, ComponentExportIndex, ResourceType};

use super::component::foreign_text;
use super::state::log;
use crate::limits::{CLASS_LIST_BYTES_MAX, SIGNATURE_BYTES_MAX};
use crate::text::joined;

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

/// A class that fulfils the contract, ready to be bound in any instance of its component.
pub(super) struct Class {
    exports: [ComponentExportIndex; METHODS.len()],
    /// Says how many lanes the class may have, if it says so.
    pub(super) lanes_max: Option<ComponentExportIndex>,
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
        let lanes_max = component.get_export(Some(&interface), static_name(&found.resource, LANES_MAX.0));
        Ok(Self { exports, lanes_max: lanes_max.map(|(_, index)| index), blocking })
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
    /// Those methods of the class that the contract lets it have.
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
    /// Whether the types found are those demanded; the names of parameters are the author's.
    fits: bool,
}

impl MethodReport {
    /// Says what is wrong with the method, or nothing.
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

    /// Says whether every method is there with the right signature.
    pub fn fulfils_contract(&self) -> bool {
        self.all_methods().all(|method| method.flaw().is_none())
    }

    /// Says whether `class_name` means this class: its name, its kebab form, or
    /// `namespace:package/interface/resource`.
    fn answers_to(&self, class_name: &str) -> bool {
        let full = |interface: &str| format!("{interface}/{}", self.resource) == class_name;
        let unversioned = self.interface.split('@').next().unwrap_or(&self.interface);
        kebab(class_name) == self.resource || full(&self.interface) || full(unversioned)
    }
}

/// Finds the class of a name, checks it against the contract, and says whether it is in blocking style.
pub(super) fn check<'a>(
    classes: &'a [ClassReport],
    class_name: &str,
) -> Result<(&'a ClassReport, bool), ClassError> {
    let Some(found) = classes.iter().find(|class| class.answers_to(class_name)) else {
        let named = classes.iter().map(|class| class.name.clone()).collect();
        return Err(ClassError::NotExported { class: class_name.to_owned(), exported: named });
    };
    let flaws: Vec<_> = found.all_methods().filter_map(MethodReport::flaw).collect();
    if !flaws.is_empty() {
        return Err(ClassError::Contract { class: class_name.to_owned(), flaws });
    }
    let asynchronous = found.methods.iter().skip(1).filter(|method| method.asynchronous).count();
    if asynchronous != 0 && asynchronous != METHODS.len() - 1 {
        return Err(ClassError::MixedStyle { class: class_name.to_owned() });
    }
    Ok((found, asynchronous == 0))
}

/// Lists the classes of a component: every exported resource that has a constructor, whatever else
/// the component exports. Names are made harmless; one that was not harmless is then found no more.
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
                let found = func.map(|func| log::escaped(&printer.signature(&func), SIGNATURE_BYTES_MAX));
                MethodReport { name, expected, found, asynchronous, fits }
            };
            let methods = METHODS.map(|(name, expected)| compare(name, expected, find(name)));
            let (name, expected) = LANES_MAX;
            let optional = find_export(&static_name(resource, name));
            let optional = optional.map(|func| compare(name, expected, Some(func)));
            printer.resources.pop();
            classes.push(ClassReport {
                name: foreign_text(&pascal(resource)),
                interface: foreign_text(interface),
                resource: foreign_text(resource),
                methods: methods.into(),
                optional: optional.into_iter().collect(),
            });
        }
    }
    classes
}

/// Leaves the names of parameters out of one of [`METHODS`]' signatures.
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

/// Returns the kebab form of a class name: a word begins at an upper-case letter that follows a
/// lower-case letter or a digit, or that precedes a lower-case letter. `MyHTTPBackend` is
/// `my-http-backend`. A name in kebab form stays as it is.
pub fn kebab(class_name: &str) -> String {
    let letters: Vec<char> = class_name.chars().collect();
    let mut kebab = String::with_capacity(letters.len() + 4);
    for (index, letter) in letters.iter().enumerate() {
        let follows = |is: fn(char) -> bool| index > 0 && is(letters[index - 1]);
        let precedes_lower = letters.get(index + 1).is_some_and(char::is_ascii_lowercase);
        let begins = letter.is_ascii_uppercase()
            && (follows(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
                || (follows(|c| c.is_ascii_uppercase()) && precedes_lower));
        if begins {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

fn pascal(kebab: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
    };
    kebab.split('-').map(capital).collect()
}

/// Why a class cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassError {
    /// The component exports no such class.
    #[error("the component exports no class `{class}`; it exports {}", listed(exported))]
    NotExported {
        /// The class that was asked for.
        class: String,
        /// The classes that are exported.
        exported: Vec<String>,
    },
    /// Methods are missing or have other signatures.
    #[error(
        "class `{class}` does not fulfil contract kvtier:storage@{}: {}; build it against this version of the contract",
        super::CONTRACT_VERSION,
        joined(flaws, "; ", CLASS_LIST_BYTES_MAX)
    )]
    Contract {
        /// The class.
        class: String,
        /// One sentence per method that does not fit.
        flaws: Vec<String>,
    },
    /// Some methods are `async func`, some are plain `func`.
    #[error("class `{class}` mixes `async func` and `func` methods; make all methods alike")]
    MixedStyle {
        /// The class.
        class: String,
    },
    /// An export that the component's type lists cannot be found.
    #[error("export `{0}` is listed in the component's type but cannot be found; the file is damaged")]
    Vanished(String),
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "no class at all; is it a backend of kvtier?".to_owned(),
        names => {
            format!("{}; give one of these as class_name", joined(names, ", ", CLASS_LIST_BYTES_MAX))
        }
    }
}

/// Prints types as WIT does, with the contract's names for what has the contract's structure.
///
/// A type that names another one twice doubles its text, so a few bytes of a component can say more than memory
/// holds: what goes beyond [`SIGNATURE_BYTES_MAX`] is left out, and is then no signature of the contract.
#[derive(Default)]
struct Printer {
    resources: Vec<(ResourceType, String)>,
    /// What may still be printed of this signature, in bytes.
    left_bytes: Cell<usize>,
}

const CUT: &str = "…";

impl Printer {
    fn signature(&self, func: &ComponentFunc) -> String {
        self.print(func, |name| format!("{name}: "))
    }

    /// Prints a signature without the names of its parameters.
    fn types(&self, func: &ComponentFunc) -> String {
        self.print(func, |_| String::new())
    }

    fn print(&self, func: &ComponentFunc, label: fn(&str) -> String) -> String {
        self.left_bytes.set(SIGNATURE_BYTES_MAX);
        let parameters = func.params().filter(|(name, _)| *name != "self");
        let parameter = |(name, ty): (&str, Type)| format!("{}{}", self.text(&label(name)), self.ty(&ty));
        let parameters = self.all(parameters.map(parameter));
        let mut text = format!("({parameters})");
        for ty in func.results() {
            let _infallible = write!(text, " -> {}", self.ty(&ty));
        }
        text
    }

    /// Joins what there is room for.
    fn all(&self, mut texts: impl Iterator<Item = String>) -> String {
        let mut all = Vec::new();
        while self.left_bytes.get() > 0
            && let Some(text) = texts.next()
        {
            all.push(text);
        }
        all.join(", ")
    }

    /// Prints a word, if there is room for it.
    fn text(&self, text: &str) -> String {
        let left = self.left_bytes.get().checked_sub(text.len());
        self.left_bytes.set(left.unwrap_or(0));
        left.map_or(CUT, |_| text).to_owned()
    }

    fn ty(&self, ty: &Type) -> String {
        // A level of nesting costs as well, however short its own text is.
        self.left_bytes.set(self.left_bytes.get().saturating_sub(1));
        if self.left_bytes.get() == 0 {
            return CUT.to_owned();
        }
        match ty {
            Type::Bool => "bool".into(),
            Type::S8 => "s8".into(),
            Type::U8 => "u8".into(),
            Type::S16 => "s16".into(),
            Type::U16 => "u16".into(),
            Type::S32 => "s32".into(),
            Type::U32 => "u32".into(),
            Type::S64 => "s64".into(),
            Type::U64 => "u64".into(),
            Type::Float32 => "f32".into(),
            Type::Float64 => "f64".into(),
            Type::Char => "char".into(),
            Type::String => "string".into(),
            Type::List(of) => format!("list<{}>", self.ty(&of.ty())),
            Type::Option(of) => format!("option<{}>", self.ty(&of.ty())),
            Type::Result(of) => match (of.ok(), of.err()) {
                (None, None) => "result".into(),
                (Some(ok), None) => format!("result<{}>", self.ty(&ok)),
                (ok, Some(err)) => {
                    let ok = ok.map_or_else(|| "_".to_owned(), |ok| self.ty(&ok));
                    format!("result<{ok}, {}>", self.ty(&err))
                }
            },
            Type::Tuple(of) => format!("tuple<{}>", self.all(of.types().map(|ty| self.ty(&ty)))),
            Type::Record(of) => {
                let field = |name: &str, ty: &Type| format!("{}: {}", self.text(name), self.ty(ty));
                named("record", &self.all(of.fields().map(|f| field(f.name, &f.ty))))
            }
            Type::Variant(of) => {
                let case = |name: &str, ty: Option<Type>| match ty {
                    Some(ty) => format!("{}({})", self.text(name), self.ty(&ty)),
                    None => self.text(name),
                };
                named("variant", &self.all(of.cases().map(|c| case(c.name, c.ty))))
            }
            Type::Enum(of) => named("enum", &self.all(of.names().map(|name| self.text(name)))),
            Type::Flags(of) => format!("flags {{ {} }}", self.all(of.names().map(|name| self.text(name)))),
            Type::Own(of) => format!("own<{}>", self.resource(of)),
            Type::Borrow(of) => format!("borrow<{}>", self.resource(of)),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    fn resource(&self, ty: &ResourceType) -> &str {
        let known = self.resources.iter().rev().find(|(known, _)| known == ty);
        known.map_or("another resource", |(_, name)| name)
    }
}

/// Replaces the contract's structures by their names.
fn named(kind: &str, body: &str) -> String {
    const METADATA: &str = "model-name: string, world-size: u32, worker-id: u32, kv-dtype: string, kv-shape: list<u32>, chunk-size: u32";
    const INIT: &str = "backend-name: string, dst-device: string, metadata: engine-metadata, namespace: string, config: list<tuple<string, string>>";
    const ERROR: &str = "unavailable(string), invalid-config(string), invalid-argument(string), no-space, corrupt(string), unsupported, other(string)";
    match (kind, body) {
        ("record", "hi: u64, lo: u64") => "chunk-key".into(),
        ("record", METADATA) => "engine-metadata".into(),
        ("record", INIT) => "init".into(),
        ("variant", ERROR) => "error".into(),
        ("enum", "none, pin") => "pinning".into(),
        _ => format!("{kind} {{ {body} }}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_as_many_classes_as_it_has_room_for_and_counts_the_others() {
        let exported: Vec<String> = (0..5_000).map(|n| format!("Class{n:04}{}", "X".repeat(800))).collect();
        let error = ClassError::NotExported { class: "Absent".into(), exported: exported.clone() };
        let text = error.to_string();
        assert!(text.len() < CLASS_LIST_BYTES_MAX + 200, "{}", text.len());
        assert!(text.contains("Class0000X") && text.contains(", and 4998 more; give one"), "{text}");
        let error = ClassError::Contract { class: "Wide".into(), flaws: exported };
        assert!(error.to_string().len() < CLASS_LIST_BYTES_MAX + 200);
    }

    #[test]
    fn the_names_of_parameters_do_not_count() {
        let types: Vec<_> = METHODS.iter().map(|(_, signature)| types_of(signature)).collect();
        assert_eq!(types[0], "(init) -> result<own<self>, error>");
        assert_eq!(types[1], "() -> result<_, error>");
        assert_eq!(types[2], "(list<chunk-key>, pinning) -> result<u32, error>");
        assert_eq!(types[4], "(list<chunk-key>, own<sinks>) -> list<result<option<u64>, error>>");
    }

    #[test]
    fn class_names_become_the_resource_names_of_the_shared_vectors() {
        let vectors = include_str!("../../../../wit/class-names.txt");
        let mut n_vectors = 0;
        for line in vectors.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (Some(class), Some(expected)) = (words.next(), words.next()) else { panic!("{line}") };
            if expected == "-" {
                // No author's macro exports such a class, so the host may read the name as it likes; it does
                // so whatever the characters are, and once more changes nothing.
                let read = kebab(class);
                assert_eq!(kebab(&read), read, "{class}");
                continue;
            }
            assert_eq!(kebab(class), expected);
            assert_eq!(kebab(expected), expected, "the kebab form is accepted too");
            n_vectors += 1;
        }
        assert!(n_vectors > 10);
    }
}
