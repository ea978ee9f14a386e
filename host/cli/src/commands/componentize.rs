//! `kvtier componentize`: makes a component of a core module, as `wasm-tools component new` does.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kvtier::BackendLimits;
use wit_component::{ComponentEncoder, metadata};

use super::output_file::OutputFile;
use super::print;
use crate::args::ComponentizeArgs;
use crate::format::bytes;

/// WASI's first version, which C libraries import from where a program uses files, clocks or the environment.
const PREVIEW1: &str = "wasi_snapshot_preview1";

/// Writes the component that a core module describes.
///
/// # Errors
/// If the module cannot be read, describes no component, or imports what no component can offer.
pub fn componentize(args: &ComponentizeArgs, out: &mut impl Write) -> Result<()> {
    let output = OutputFile::begin(&args.out, "component", &[&args.module])?;
    let module = read(&args.module)?;
    let shown = args.module.display();
    let component = encode(&module).with_context(|| format!("cannot make a component of {shown}"))?;
    output.finish(&component)?;
    print(out, &format!("{}: {}\n", args.out.display(), bytes(component.len() as u64)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes_max = BackendLimits::default().component_bytes;
    // Before it is opened: opening a pipe waits for its writer.
    let metadata =
        fs::metadata(path).with_context(|| format!("cannot open the module {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is not a file", path.display());
    let file = File::open(path).with_context(|| format!("cannot open the module {}", path.display()))?;
    let mut module = Vec::new();
    let n_bytes = file.take(bytes_max + 1).read_to_end(&mut module);
    n_bytes.with_context(|| format!("cannot read the module {}", path.display()))?;
    ensure!(
        module.len() as u64 <= bytes_max,
        "the module {} has more than {}; strip its debug information",
        path.display(),
        bytes(bytes_max)
    );
    Ok(module)
}

fn encode(module: &[u8]) -> Result<Vec<u8>> {
    ensure!(module.starts_with(b"\0asm"), "it is not WebAssembly");
    ensure!(
        module.get(4..8) == Some(&[1, 0, 0, 0]),
        "it is not a core module; a component needs no further step"
    );
    let (_, described) = metadata::decode(module).context("its description of a component is damaged")?;
    let world = &described.resolve.worlds[described.world];
    ensure!(
        !world.exports.is_empty(),
        "it does not describe a component; link the object that belongs to the bindings \
         (`backend_component_type.o`)"
    );
    match ComponentEncoder::default().validate(true).module(module).and_then(ComponentEncoder::encode) {
        Ok(component) => Ok(component),
        Err(error) if format!("{error:#}").contains(PREVIEW1) => bail!(
            "it imports functions of {PREVIEW1}, which the C library uses for files, printf, clocks or the \
             environment; use the contract's own interfaces instead, or `wasm-tools component new --adapt`"
        ),
        Err(error) => Err(error),
    }
}
