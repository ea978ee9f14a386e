//! Builds the tree of a text within a budget.
//!
//! The tree is not `serde_yaml::Value`, because it must refuse duplicate keys in both formats, keep the order of
//! mappings, and stay bounded when aliases repeat large anchors.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::{Node, shorten};
use crate::limits::{EXPANDED_BYTES_MAX, KEY_BYTES_MAX, NESTING_DEPTH_MAX, NODE_COST_BYTES};

fn too_deep() -> String {
    format!("lists and mappings are nested deeper than {NESTING_DEPTH_MAX} levels")
}

/// The rest of the budget of one parse.
pub(super) struct Budget {
    bytes_left: Cell<u64>,
    is_too_deep: Cell<bool>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { bytes_left: Cell::new(EXPANDED_BYTES_MAX), is_too_deep: Cell::new(false) }
    }

    pub(super) fn build<'de, D: Deserializer<'de>>(&self, deserializer: D) -> Result<Node, D::Error> {
        NodeSeed { budget: self, depth: 0 }.deserialize(deserializer)
    }

    /// Returns an error's text. For too deep nesting it replaces the parser's text, which would begin with the whole
    /// path. A value that does not fit its tag (`!!int x`) is omitted, since it may be a secret.
    pub(super) fn explain(&self, error: &dyn fmt::Display) -> String {
        if self.is_too_deep.get() {
            return too_deep();
        }
        let text = error.to_string();
        let quoted = text.split_once("invalid value: ").zip(text.rsplit_once(", expected "));
        match quoted {
            Some(((before, _), (_, expected))) => {
                format!("{before}a value does not match its tag: {expected}")
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
    budget: &'r Budget,
    depth: usize,
}

impl NodeSeed<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= NESTING_DEPTH_MAX {
            self.budget.is_too_deep.set(true);
            return Err(E::custom(too_deep()));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn scalar<E: Error>(self, node: Node) -> Result<Node, E> {
        self.budget.charge(0)?;
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
        self.budget.charge(text.len())?;
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.budget.charge(0)?;
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.budget.charge(0)?;
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
