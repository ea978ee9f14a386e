//! What is fuzzed: one function a target, which takes any bytes and panics if the host does what it must not.
//!
//! `tests/fuzz` gives them to libFuzzer, `cargo xtask fuzz` runs that, and the suite replays the inputs that once
//! broke something. None of these needs more than the bytes, so an input means the same everywhere.

mod class;
mod component;
mod config;
mod resp;
mod trace;
mod trailer;

pub use class::binary as class_component;

use crate::model::{self, Misbehaving, Options, Script};

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which its folder of seeds has too.
    pub name: &'static str,
    /// What is done with an input.
    pub run: fn(&[u8]),
}

/// The targets.
pub const TARGETS: [Target; 8] = [
    Target { name: "config", run: config::text },
    Target { name: "values", run: config::values },
    Target { name: "component", run: component::bytes },
    Target { name: "class", run: class::types },
    Target { name: "trailer", run: trailer::verify },
    Target { name: "trace", run: trace::lines },
    Target { name: "resp", run: resp::replies },
    Target { name: "chain", run: chain },
];

/// Finds a target by its name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Operations of the chain beside a native tier that misbehaves: see [`model`].
fn chain(bytes: &[u8]) {
    let script = Script::decode(bytes);
    if let Err(failure) = model::run(&script, &Options::new(Misbehaving::Native)) {
        panic!("{:?}\n{failure}", script.setup);
    }
}

/// Bytes that are used up from the front; 0 when there are none left.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn up_to(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
