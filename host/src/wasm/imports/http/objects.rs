//! Making the HTTP objects that an instance holds, within their limits.

use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView as _};

use crate::wasm::state::GuestState;
pub(super) use crate::wasm::state::http_objects::Kind;
use crate::wasm::state::http_objects::{Made, Sending};

impl GuestState {
    /// Makes an HTTP object and counts it.
    ///
    /// # Errors
    /// A trap, if there are too many: most of these functions have no other answer.
    pub(super) fn http_object<M: Made>(
        &mut self,
        kind: Kind,
        make: impl FnOnce(&mut WasiHttpCtxView<'_>) -> wasmtime::Result<M>,
    ) -> wasmtime::Result<M> {
        self.make_room_for_http()?;
        let answer = make(&mut self.http())?;
        self.made_for_http(&answer, kind);
        Ok(answer)
    }

    /// Counts an HTTP object that there was room for.
    pub(super) fn made_for_http(&mut self, made: &impl Made, kind: Kind) {
        if let Some((place, is_there)) = made.object() {
            self.budgets.http_objects.put(place, is_there, kind);
        }
    }

    /// Traps if there may be no further HTTP object.
    pub(super) fn make_room_for_http(&mut self) -> wasmtime::Result<()> {
        if self.budgets.http_objects.have_room(&self.table) {
            Ok(())
        } else {
            Err(self.budgets.http_objects.refusal())
        }
    }

    /// Counts a request that is about to be sent; `None` if there are too many.
    pub(super) fn send_http(&mut self) -> Option<Sending> {
        self.budgets.http_objects.send(&self.table)
    }
}

/// Reports whether a text of a request may be so long.
pub(super) fn is_short(text: Option<&String>, n_bytes_max: usize) -> bool {
    text.is_none_or(|text| text.len() <= n_bytes_max)
}
