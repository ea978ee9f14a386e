//! The text formats of a configuration. Both give the same tree.

mod node;

pub(super) use node::{Node, shorten};
