//! Compiling a component: in a compiler's process, or in this one where there is no compiler.

use std::io::PipeReader;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use rustix::process::{Resource, Signal, getrlimit};

use super::code::{CachedCode, Identity};
use super::compiler::COMPILER_COMMAND;
use super::compiler::child::{self, ChildExit};
use super::compiler::protocol::{Failure, FailureKind, Order};
use super::turns::Unservable;
use super::{CodeOrigin, CompileLimit, ComponentError, Loader, Source};
use crate::config::{CompileLimits, open_file};
use crate::limits::CODE_BYTES_MAX;
use crate::text::foreign_text;
use crate::wasm::no_memory;

/// The exit code of a Rust program that panicked.
const PANIC_EXIT_CODE: i32 = 101;

/// Why a component was not compiled.
pub(super) enum NoCode {
    Unservable(Unservable),
    /// A later attempt may work.
    Other(ComponentError),
}

impl Loader {
    pub(super) fn compile(
        &self,
        path: &Path,
        source: &Source,
        identity: &Identity,
        cancel: Option<&PipeReader>,
    ) -> Result<(CachedCode, CodeOrigin), NoCode> {
        let search_path = std::env::var_os("PATH");
        match self.compilation.find_compiler(search_path.as_deref()) {
            Ok((program, arguments)) => {
                let entry = self.compile_in_child(&program, arguments, path, identity, cancel)?;
                Ok((entry, CodeOrigin::Compiler))
            }
            Err(reason) => {
                let entry = CachedCode::compile(&self.engine, identity, &source.bytes)
                    .map_err(|error| Unservable::Refused(foreign_text(&format!("{error:#}"))));
                Ok((entry.map_err(NoCode::Unservable)?, CodeOrigin::ThisProcess(reason)))
            }
        }
    }

    fn compile_in_child(
        &self,
        program: &Path,
        arguments: &[String],
        path: &Path,
        identity: &Identity,
        cancel: Option<&PipeReader>,
    ) -> Result<CachedCode, NoCode> {
        let CompileLimits { memory_bytes, cpu, timeout } = self.compilation.limits;
        let failed = |cause: String| {
            NoCode::Other(ComponentError::Compiler { path: path.into(), compiler: program.into(), cause })
        };
        let unreadable = |source| NoCode::Other(ComponentError::Unreadable { path: path.into(), source });
        let order = Order::new(
            identity.component,
            identity.engine,
            self.compilation.traps,
            memory_bytes,
            cpu.as_secs(),
        );
        let words = arguments.iter().cloned().chain([COMPILER_COMMAND.to_owned()]);
        let words: Vec<String> = words.chain(order.words()).collect();
        let input = open_file(path).map_err(unreadable)?;
        let ended = child::run(program, &words, input, timeout, cancel)
            .map_err(|error| failed(format!("cannot be run: {}", no_memory::shown(&error))))?;
        let limit = |limit| NoCode::Unservable(Unservable::Limit(limit));
        let died = |cause| NoCode::Unservable(Unservable::Died { compiler: program.into(), cause });
        let memory = || match getrlimit(Resource::As).current {
            Some(own) if own < memory_bytes => CompileLimit::AddressSpace(own),
            _ => CompileLimit::Memory(memory_bytes),
        };
        if ended.timed_out {
            return Err(limit(CompileLimit::Time(timeout)));
        }
        match Failure::read(&ended.output) {
            Some(Failure { kind: FailureKind::Refused, text }) => {
                return Err(NoCode::Unservable(Unservable::Refused(foreign_text(&text))));
            }
            Some(Failure { kind: FailureKind::Memory, .. }) => {
                return Err(limit(memory()));
            }
            Some(Failure { kind: FailureKind::Unable, text }) => return Err(failed(foreign_text(&text))),
            None => {}
        }
        if ended.output.len() > CODE_BYTES_MAX {
            return Err(died(format!("wrote more than {CODE_BYTES_MAX} bytes")));
        }
        match ended.status.and_then(|status| status.signal()) {
            Some(signal) if signal == Signal::XCPU.as_raw() => Err(limit(CompileLimit::Cpu(cpu))),
            Some(signal) if signal == Signal::ABORT.as_raw() && ended.ran_out_of_memory() => {
                Err(limit(memory()))
            }
            Some(signal) => Err(died(format!("was ended by signal {signal}{}", ended.last_output()))),
            None if ended.status.is_some_and(|status| !status.success()) => {
                let code = ended.status.and_then(|status| status.code()).unwrap_or_default();
                let cause = format!("failed with exit code {code}{}", ended.last_output());
                Err(if code == PANIC_EXIT_CODE { died(cause) } else { failed(cause) })
            }
            // If the exit code is not known, the check of the code decides.
            None => {
                let words = ended.last_output();
                CachedCode::check(identity, ended.output)
                    .map_err(|error| failed(format!("delivered output that {error}{words}")))
            }
        }
    }
}

impl ChildExit {
    /// Reports whether Rust's allocator was refused memory, which ended the process.
    fn ran_out_of_memory(&self) -> bool {
        const SIGN: &[u8] = b"memory allocation of ";
        self.errors.windows(SIGN.len()).any(|words| words == SIGN)
    }

    fn last_output(&self) -> String {
        match foreign_text(&String::from_utf8_lossy(&self.errors)) {
            words if words.is_empty() => words,
            words => format!(" and wrote: {words}"),
        }
    }
}
