//! The compiler's side of compiling: one component, in a process that exists for it.

use std::io::{self, Read, Write};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wasmtime::Engine;

use super::super::code::{CachedCode, Fingerprint, Identity};
use super::super::read::digest_of;
use super::protocol::{Failure, FailureKind, Order};
use crate::config::CompileLimits;
use crate::limits::COMPONENT_BYTES_MAX;
use crate::wasm::engine::engine_config;

/// Runs the command [`COMPILER_COMMAND`](super::COMPILER_COMMAND): limits this process's memory and processor time for
/// good, compiles the component from `input`, and writes the code, or why there is none, to `output`. Reports whether
/// there is code.
///
/// For programs that serve as the compiler, in a process that does nothing else.
///
/// # Errors
/// When `output` cannot be written.
pub fn compile_one(words: &[String], input: &mut dyn Read, output: &mut dyn Write) -> io::Result<bool> {
    let compiled = compile(words, input);
    match &compiled {
        Ok(entry) => output.write_all(entry.bytes())?,
        Err(failure) => output.write_all(&failure.bytes())?,
    }
    output.flush()?;
    Ok(compiled.is_ok())
}

fn compile(words: &[String], input: &mut dyn Read) -> Result<CachedCode, Failure> {
    let other_version = || {
        let version = env!("CARGO_PKG_VERSION");
        Failure::unable(format!("is kvtier {version}, of another version or build than this host"))
    };
    let order = Order::read(words).ok_or_else(other_version)?;
    limit_this_process(order.memory_bytes, order.cpu_secs)
        .and_then(|()| end_with_parent())
        .map_err(|error| Failure::unable(format!("cannot limit itself: {error}")))?;
    let mut bytes = Vec::new();
    input
        .take(COMPONENT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::unable(format!("cannot read the component: {error}")))?;
    let identity = |engine: &Engine| Identity { engine: Fingerprint::of(engine), component: order.component };
    let engine = Engine::new(&engine_config(order.traps))
        .map_err(|error| Failure::unable(format!("has no WebAssembly engine: {error:#}")))?;
    let identity = identity(&engine);
    if identity.engine.hex() != order.engine {
        return Err(other_version());
    }
    // The compiler gets the bytes that the host has checked, even if the file has changed since.
    if digest_of(&bytes) != order.component {
        return Err(Failure::unable("was given another file than the host has read; it changed meanwhile"));
    }
    CachedCode::compile(&engine, &identity, &bytes).map_err(|error| {
        let no_memory = error.chain().any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory)
                || cause.downcast_ref::<rustix::io::Errno>() == Some(&rustix::io::Errno::NOMEM)
        });
        let kind = if no_memory { FailureKind::Memory } else { FailureKind::Refused };
        Failure { kind, text: format!("{error:#}") }
    })
}

/// Limits this process for good, for programs that only work on untrusted components.
///
/// # Errors
/// The system's.
pub fn limit_process(limits: &CompileLimits) -> io::Result<()> {
    limit_this_process(limits.memory_bytes, limits.cpu.as_secs())
}

fn limit_this_process(memory_bytes: u64, cpu_secs: u64) -> io::Result<()> {
    limit(Resource::As, memory_bytes, memory_bytes)?;
    // The first limit ends the process with a signal that names the cause, the second with one that cannot be ignored.
    limit(Resource::Cpu, cpu_secs, cpu_secs + 1)?;
    // No core dump of a process that a limit ended.
    limit(Resource::Core, 0, 0)
}

/// Lowers a limit, unless it is lower already.
fn limit(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let set = getrlimit(resource);
    let lowered = |new: u64, old: Option<u64>| Some(old.map_or(new, |old| old.min(new)));
    let new = Rlimit { current: lowered(current, set.current), maximum: lowered(maximum, set.maximum) };
    Ok(setrlimit(resource, new)?)
}

/// Ends this process when the host ends. If the host has ended before, this process ends at its first write to the
/// pipe, or at the limit of processor time.
#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> io::Result<()> {
    Ok(())
}
