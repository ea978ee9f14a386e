//! WIT types as text.

use std::cell::Cell;
use std::fmt::Write as _;

use wasmtime::component::ResourceType;
use wasmtime::component::types::{ComponentFunc, Type};

use crate::limits::SIGNATURE_BYTES_MAX;

/// Prints types in WIT, with the contract's names for types that have the contract's structure.
///
/// A type that refers to another one twice doubles its text, so a few bytes of a component can describe more text than
/// fits into memory. Text beyond [`SIGNATURE_BYTES_MAX`] is left out; such a signature never equals one of the
/// contract.
#[derive(Default)]
pub(super) struct Printer {
    /// The resources that have a name, the innermost last.
    pub(super) resources: Vec<(ResourceType, String)>,
    /// Bytes that this signature may still have.
    left_bytes: Cell<usize>,
}

const CUT: &str = "…";

impl Printer {
    pub(super) fn signature(&self, func: &ComponentFunc) -> String {
        self.print(func, |name| format!("{name}: "))
    }

    /// Prints a signature without the names of its parameters.
    pub(super) fn types(&self, func: &ComponentFunc) -> String {
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

    /// Joins as many texts as there is room for.
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
        // Each level of nesting counts too, even if its own text is short.
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
