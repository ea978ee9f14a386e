//! `logging`: a guest's lines in the host's log.

use wasmtime::component::{Linker, WasmStr};
use wasmtime::{Result, StoreContextMut, format_err};

use crate::limits::LOG_BYTES_MAX;
use crate::wasm::contract::logging;
use crate::wasm::state::{GuestState, Logging, OutputView};

const LOGGING: &str = "kvtier:storage/logging@0.1.0";

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    logging::add_to_linker::<_, Logging>(linker, GuestState::output)?;
    // The generated glue copies the whole text first; this function does not.
    linker.allow_shadowing(true);
    linker.instance(LOGGING)?.func_wrap("log", log)?;
    linker.allow_shadowing(false);
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the linker calls it so")]
fn log(store: StoreContextMut<'_, GuestState>, (level, message): (logging::Level, WasmStr)) -> Result<()> {
    let state = store.data();
    let level = match level {
        logging::Level::Trace => tracing::Level::TRACE,
        logging::Level::Debug => tracing::Level::DEBUG,
        logging::Level::Info => tracing::Level::INFO,
        logging::Level::Warn => tracing::Level::WARN,
        logging::Level::Error => tracing::Level::ERROR,
    };
    let has_room = state.output.log.has_room(level);
    let is_error = level == tracing::Level::ERROR;
    if !has_room && !is_error {
        return Ok(());
    }
    let message = message.to_str(&store)?;
    // The rest is never shown.
    let message = state.policy.denial_log.secrets().hide_beginning(&message, LOG_BYTES_MAX + 4);
    if is_error {
        state.output.note_error(&message);
    }
    if has_room {
        state.output.log.write(level, &message);
    }
    Ok(())
}

impl logging::Host for OutputView<'_> {
    fn log(&mut self, _: logging::Level, _: String) -> Result<()> {
        Err(format_err!("shadowed by a function that reads only as much as is needed"))
    }
}
