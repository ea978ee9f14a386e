//! The untyped tree of a YAML or JSON text.
//!
//! An own tree instead of `serde_yaml::Value`, because it must refuse duplicate keys in both formats, keep
//! the order of mappings, and stay bounded when aliases repeat large anchors.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use crate::config::hide::without_user_parts;
use crate::limits::{
    DIRECTIVES_MAX, EXPANDED_BYTES_MAX, KEY_BYTES_MAX, NESTING_DEPTH_MAX, NODE_COST_BYTES, SCAN_COST_MAX,
};

/// How much of a text value an error message shows, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// One value of a configuration text.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum Node {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Parses a YAML document; an empty one is `Null`.
    pub(in crate::config) fn from_yaml(text: &str) -> Result<Self, String> {
        refuse_costly_scan(text)?;
        let root = Root::new();
        root.deserialize_in(serde_yaml::Deserializer::from_str(text)).map_err(|error| root.explain(&error))
    }

    /// Parses a JSON document.
    pub(in crate::config) fn from_json(text: &str) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let root = Root::new();
        root.deserialize_in(&mut deserializer)
            .and_then(|node| deserializer.end().map(|()| node))
            .map_err(|error| root.explain(&error))
    }

    /// Describes the value for an error message.
    pub(in crate::config) fn describe(&self) -> String {
        match self {
            Self::Null => "no value".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value:?}"),
            // The user part of a URL is a password more often than not.
            Self::Text(text) => format!("the text {:?}", shorten(&without_user_parts(text))),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Describes the value's type and length but not the value, for keys that may hold secrets.
    pub(in crate::config) fn describe_type(&self) -> String {
        match self {
            Self::Null => "no value".to_owned(),
            Self::Bool(_) => "a boolean".to_owned(),
            Self::Int(_) | Self::Float(_) => "a number".to_owned(),
            Self::Text(text) => format!("another text of {} bytes (not shown)", text.len()),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Says whether there is no value, or a text with nothing in it.
    pub(in crate::config) fn is_blank(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Text(text) => text.trim().is_empty(),
            _ => false,
        }
    }
}

/// Cuts a text to what an error message shows.
pub(in crate::config) fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS_MAX).chain("...".chars()).collect()
}

/// Refuses texts that would keep the YAML scanner busy: its time grows with the number of tokens times the
/// depth of open brackets (500 kB of `[a: ` took 220 s). Brackets are counted wherever they stand, because
/// telling comments and quotes from the rest would take a scanner of our own.
///
/// Directives (`%TAG`) are compared with each other, and 60,000 of them took minutes; no configuration has any use for
/// them.
fn refuse_costly_scan(text: &str) -> Result<(), String> {
    let n_directives = text.lines().filter(|line| line.starts_with('%')).count();
    if n_directives > DIRECTIVES_MAX {
        return Err(format!(
            "{n_directives} lines that begin with `%` are too many; YAML takes them for directives, so indent or quote them"
        ));
    }
    let n_brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() as u64;
    if n_brackets * text.len() as u64 > SCAN_COST_MAX {
        return Err(format!(
            "{n_brackets} brackets (`[`, `{{`) in {} bytes are too many; use indented lists and mappings",
            text.len()
        ));
    }
    Ok(())
}

fn too_deep() -> String {
    format!("lists and mappings are nested deeper than {NESTING_DEPTH_MAX} levels")
}

/// What one parse may still take.
struct Root {
    bytes_left: Cell<u64>,
    is_too_deep: Cell<bool>,
}

impl Root {
    fn new() -> Self {
        Self { bytes_left: Cell::new(EXPANDED_BYTES_MAX), is_too_deep: Cell::new(false) }
    }

    fn deserialize_in<'de, D: Deserializer<'de>>(&self, deserializer: D) -> Result<Node, D::Error> {
        NodeSeed { root: self, depth: 0 }.deserialize(deserializer)
    }

    /// Returns an error's text. That of too deep nesting is ours alone, because the parser would put the
    /// whole way down in front of it.
    /// A value that does not fit its tag (`!!int x`) is left out.
    fn explain(&self, error: &dyn fmt::Display) -> String {
        if self.is_too_deep.get() {
            return too_deep();
        }
        let text = error.to_string();
        let quoted = text.split_once("invalid value: ").zip(text.rsplit_once(", expected "));
        match quoted {
            Some(((before, _), (_, expected))) => {
                format!("{before}a value is not what its tag says: {expected}")
            }
            None => text,
        }
    }

    fn charge<E: Error>(&self, text_bytes: usize) -> Result<(), E> {
        let cost = NODE_COST_BYTES + text_bytes as u64;
        let left = self.bytes_left.get().checked_sub(cost).ok_or_else(|| {
            E::custom(format_args!("values and expanded aliases take more than {EXPANDED_BYTES_MAX} bytes"))
        })?;
        self.bytes_left.set(left);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct NodeSeed<'r> {
    root: &'r Root,
    depth: usize,
}

impl NodeSeed<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= NESTING_DEPTH_MAX {
            self.root.is_too_deep.set(true);
            return Err(E::custom(too_deep()));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn scalar<E: Error>(self, node: Node) -> Result<Node, E> {
        self.root.charge(0)?;
        Ok(node)
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        self.scalar(Node::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        self.scalar(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        self.scalar(Node::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        self.scalar(Node::Int(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        self.scalar(Node::Int(value.into()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Node, E> {
        self.scalar(Node::Int(value))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Node, E> {
        self.scalar(i128::try_from(value).map_or(Node::Float(value as f64), Node::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        self.scalar(Node::Float(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        self.root.charge(text.len())?;
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.root.charge(0)?;
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.root.charge(0)?;
        let inner = self.deeper()?;
        let mut seen = std::collections::HashSet::new();
        let mut entries = Vec::new();
        while let Some(key) = access.next_key_seed(inner)? {
            let key = match key {
                Node::Text(text) => text,
                Node::Int(value) => value.to_string(),
                Node::Bool(value) => value.to_string(),
                other => {
                    return Err(A::Error::custom(format_args!(
                        "a key must be text, found {}",
                        other.describe()
                    )));
                }
            };
            if key == "<<" {
                return Err(A::Error::custom("merge keys (`<<`) are not supported; write the keys out"));
            }
            if key.len() > KEY_BYTES_MAX {
                return Err(A::Error::custom(format_args!(
                    "the key `{}` has {} bytes; a key has at most {KEY_BYTES_MAX}",
                    shorten(&key),
                    key.len()
                )));
            }
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!(
                    "the key `{}` is given twice; keep one",
                    shorten(&key)
                )));
            }
            entries.push((key, access.next_value_seed(inner)?));
        }
        Ok(Node::Map(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _access: A) -> Result<Node, A::Error> {
        Err(A::Error::custom("tags (`!name`) are not supported"))
    }
}
