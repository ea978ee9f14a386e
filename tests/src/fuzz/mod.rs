//! The fuzz targets: one function each, which takes any bytes and panics if the host violates a guarantee.
//!
//! `tests/fuzz` gives them to libFuzzer, `cargo xtask fuzz` runs that, and the suite replays the inputs that once broke
//! something. A target depends only on the bytes, so an input means the same everywhere.

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
    /// Its name, which is also that of its folder of seeds.
    pub name: &'static str,
    /// The function that gets the input.
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

/// Returns the target of a name.
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

/// Bytes that are taken from the front, followed by zeros.
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
