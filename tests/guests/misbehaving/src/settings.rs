//! What a test can set, for all classes alike.

use std::fmt;

use kvtier_guest::{Error, Init, Value};

/// A method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Constructor,
    Open,
    Contains,
    Put,
    Get,
    Pin,
    Unpin,
    Remove,
    Close,
}

/// Methods by their names in the contract.
const OPS: [(&str, Op); 9] = [
    ("constructor", Op::Constructor),
    ("open", Op::Open),
    ("contains", Op::Contains),
    ("put", Op::Put),
    ("get", Op::Get),
    ("pin", Op::Pin),
    ("unpin", Op::Unpin),
    ("remove", Op::Remove),
    ("close", Op::Close),
];

impl Value for Op {
    fn from_config(text: &str) -> Result<Self, String> {
        let found = OPS.iter().find(|(name, _)| *name == text);
        found.map(|(_, op)| *op).ok_or_else(|| "expected a method of the contract".to_owned())
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = OPS.iter().find(|(_, op)| op == self).map_or("?", |(name, _)| *name);
        f.write_str(name)
    }
}

/// The configuration of an instance.
#[derive(Clone)]
pub(crate) struct Settings {
    /// `config.in`: the method that misbehaves; each class has its own default.
    pub(crate) wrong_in: Option<Op>,
    /// `config.ms`: how long the slow ones wait.
    pub(crate) wait_ms: u64,
    /// `config.lines`: how much the talkative one logs.
    pub(crate) n_lines: u64,
    /// `config.results`: how many.
    pub(crate) results: Results,
}

/// How many results a wrong list has.
#[derive(Clone, Copy)]
pub(crate) enum Results {
    /// One too few.
    Short,
    /// One too many.
    Long,
    /// None.
    Empty,
    /// Hundreds of thousands of errors, after attempts that are denied.
    Flood,
}

impl Settings {
    pub(crate) fn from_init(init: &Init) -> Result<Self, Error> {
        init.only(&["in", "ms", "lines", "results"])?;
        let results = match init.get("results") {
            None | Some("short") => Results::Short,
            Some("long") => Results::Long,
            Some("empty") => Results::Empty,
            Some("flood") => Results::Flood,
            Some(_) => return Err(Error::invalid_config("results", "must be short, long, empty or flood")),
        };
        Ok(Self {
            wrong_in: init.parse("in")?,
            wait_ms: init.parse("ms")?.unwrap_or(50),
            n_lines: init.parse("lines")?.unwrap_or(100_000),
            results,
        })
    }
}
