//! `logging`: a guest's lines in the host's log.

use wasmtime::Result;

use crate::limits::LOG_BYTES_MAX;
use crate::wasm::contract::logging;
use crate::wasm::sandbox::State;

impl logging::Host for &mut State {
    fn log(&mut self, level: logging::Level, message: String) -> Result<()> {
        let level = match level {
            logging::Level::Trace => tracing::Level::TRACE,
            logging::Level::Debug => tracing::Level::DEBUG,
            logging::Level::Info => tracing::Level::INFO,
            logging::Level::Warn => tracing::Level::WARN,
            logging::Level::Error => tracing::Level::ERROR,
        };
        // No more of it is ever shown.
        let message = self.witness.secrets().hide_beginning(&message, LOG_BYTES_MAX + 4);
        if level == tracing::Level::ERROR {
            self.note_error(&message);
        }
        self.log.write(level, &message);
        Ok(())
    }
}
