//! Classes with arbitrary types in their methods, for the check against the contract and for `inspect`.
//!
//! Whatever their types, the functions are lifted from one core function that takes a pointer and returns one: each
//! takes more than sixteen values and returns more than one. None of them therefore fulfils the contract; the target
//! `component` covers classes that do.

use std::fmt::Write as _;

use super::{Input, component};

const TYPES_MAX: usize = 48;
const METHODS: [&str; 8] = ["open", "contains", "put", "get", "pin", "unpin", "remove", "close"];

/// A type of more than sixteen values.
const PAD: &str = "(tuple u8 u8 u8 u8 u8 u8 u8 u8 u8 u8 u8 u8 u8 u8 u8 u8 u8)";

/// The contract's types. `%` is replaced by the prefix of a scope's names.
const GIVEN: [(&str, &str); 4] = [
    ("chunk-key", r#"(record (field "hi" u64) (field "lo" u64))"#),
    (
        "error",
        r#"(variant (case "unavailable" string) (case "invalid-config" string) (case "invalid-argument" string)
           (case "no-space") (case "corrupt" string) (case "unsupported") (case "other" string))"#,
    ),
    (
        "engine-metadata",
        r#"(record (field "model-name" string) (field "world-size" u32) (field "worker-id" u32)
           (field "kv-dtype" string) (field "kv-shape" (list u32)) (field "chunk-size" u32))"#,
    ),
    (
        "init",
        r#"(record (field "backend-name" string) (field "dst-device" string) (field "metadata" %engine-metadata)
           (field "namespace" string) (field "config" (list (tuple string string))))"#,
    ),
];

const ATOMS: [&str; 16] = [
    "bool",
    "u8",
    "s32",
    "u32",
    "u64",
    "f64",
    "char",
    "string",
    "%chunk-key",
    "%error",
    "%init",
    "(list %chunk-key)",
    "(result (error %error))",
    "(result u32 (error %error))",
    "(own %class)",
    "(option u64)",
];

/// A named type. A type that the component's interface names has to be exported.
struct Def {
    name: String,
    body: String,
    is_exported: bool,
}

/// Types and methods that the input chooses, as one exported class.
pub(super) fn types(bytes: &[u8]) {
    if let Some(binary) = binary(bytes) {
        component::bytes(&binary);
    }
}

/// Returns the component that an input of the target `class` describes, if any.
pub fn binary(bytes: &[u8]) -> Option<Vec<u8>> {
    wat::parse_str(text(&mut Input(bytes))).ok()
}

fn text(input: &mut Input) -> String {
    let mut types: Vec<String> = ATOMS.map(str::to_owned).into();
    let given = GIVEN.map(|(name, body)| Def { name: name.into(), body: body.into(), is_exported: true });
    let mut defs = Vec::from(given);
    for n in 0..usize::from(input.byte()) % TYPES_MAX {
        let (body, is_exported) = ty(input, &types);
        defs.push(Def { name: format!("t{n}"), body, is_exported });
        types.push(format!("%t{n}"));
    }
    let mut functions = vec![(
        "[constructor]some-class".to_owned(),
        format!("{} (param \"pad\" {PAD}) (result (own %class))", parameters(input, &types)),
    )];
    for method in METHODS {
        if input.byte().is_multiple_of(16) {
            continue;
        }
        let (parameters, result) = (parameters(input, &types), pick(input, &types));
        functions.push((
            format!("[method]some-class.{method}"),
            format!(
                "(param \"self\" (borrow %class)) {parameters} (param \"pad\" {PAD}) (result (tuple u8 u8 {result}))"
            ),
        ));
    }
    component(&defs, &functions)
}

/// Writes a component as tools do: functions are lifted outside, and an inner component gives them their types.
fn component(defs: &[Def], functions: &[(String, String)]) -> String {
    let scoped = |text: &str, prefix: &str| text.replace('%', &format!("${prefix}-"));
    let (mut outer, mut inner, mut exports, mut with) =
        (String::new(), String::new(), String::new(), String::new());
    for Def { name, body, is_exported } in defs {
        let body = |prefix| scoped(body, prefix);
        let _infallible = writeln!(outer, "(type $o-{name} {})", body("o"));
        if *is_exported {
            let _infallible = writeln!(
                inner,
                "(type $d-{name} {}) (import \"{name}\" (type $i-{name} (eq $d-{name})))",
                body("i")
            );
            let _infallible = writeln!(
                exports,
                "(type $x-{name} {}) (export $e-{name} \"{name}\" (type $x-{name}))",
                body("e")
            );
            let _infallible = writeln!(with, "(with \"{name}\" (type $o-{name}))");
        } else {
            let _infallible = writeln!(inner, "(type $i-{name} {})", body("i"));
            let _infallible = writeln!(exports, "(type $e-{name} {})", body("e"));
        }
    }
    for (n, (name, signature)) in functions.iter().enumerate() {
        let _infallible = writeln!(
            outer,
            "(func $f{n} {} (canon lift (core func $f) (memory $memory) (realloc $realloc)))",
            scoped(signature, "o")
        );
        let _infallible = writeln!(inner, "(import \"f{n}\" (func $f{n} {}))", scoped(signature, "i"));
        let _infallible =
            writeln!(exports, "(export \"{name}\" (func $f{n}) (func {}))", scoped(signature, "e"));
        let _infallible = writeln!(with, "(with \"f{n}\" (func $f{n}))");
    }
    format!(
        "(component
          (core module $m
            (memory (export \"memory\") 1)
            (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export \"f\") (param i32) (result i32) unreachable))
          (core instance $c (instantiate $m))
          (alias core export $c \"memory\" (core memory $memory))
          (alias core export $c \"realloc\" (core func $realloc))
          (alias core export $c \"f\" (core func $f))
          (type $o-class (resource (rep i32)))
          {outer}
          (component $shim
            (import \"class\" (type $i-class (sub resource)))
            {inner}
            (export $e-class \"some-class\" (type $i-class))
            {exports})
          (instance $e (instantiate $shim (with \"class\" (type $o-class)) {with}))
          (export \"d:e/f\" (instance $e)))"
    )
}

fn pick<'a>(input: &mut Input, types: &'a [String]) -> &'a str {
    // From the end, so that small numbers build on the latest definitions.
    &types[types.len() - 1 - usize::from(input.byte()) % types.len()]
}

fn joined(n: usize, part: impl FnMut(usize) -> String) -> String {
    (0..n).map(part).collect::<Vec<_>>().join(" ")
}

fn parameters(input: &mut Input, types: &[String]) -> String {
    let n = usize::from(input.byte()) % 4;
    joined(n, |n| format!("(param \"p{n}\" {})", pick(input, types)))
}

/// Returns a type over the earlier ones, and whether it has to be exported to be used.
fn ty(input: &mut Input, types: &[String]) -> (String, bool) {
    let (kind, n) = (input.byte(), 1 + usize::from(input.byte()) % 4);
    // Long names now and then: a text that is printed once may be printed often.
    let name_bytes = if kind >= 192 { usize::from(input.byte()) * 64 } else { 0 };
    let mut each = |form: &str| -> String {
        let long = "n".repeat(name_bytes);
        joined(n, |n| format!("({form} \"f{n}{long}\" {})", pick(input, types)))
    };
    match kind % 8 {
        0 => (format!("(record {})", each("field")), true),
        1 => (format!("(variant {})", each("case")), true),
        2 => {
            let of: Vec<&str> = (0..n).map(|_| pick(input, types)).collect();
            (format!("(tuple {})", of.join(" ")), false)
        }
        3 => (format!("(list {})", pick(input, types)), false),
        4 => (format!("(option {})", pick(input, types)), false),
        5 => (format!("(result {} (error {}))", pick(input, types), pick(input, types)), false),
        6 => (format!("(enum {})", joined(n, |n| format!("\"e{n}\""))), true),
        _ => (format!("(flags {})", joined(n, |n| format!("\"g{n}\""))), true),
    }
}
