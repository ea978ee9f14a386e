//! `limits`: what the operator allows the backend.

use wasmtime::Result;
use wasmtime::component::Linker;

use crate::wasm::contract::limits;
use crate::wasm::state::{GuestState, Storage, StorageView};

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    limits::add_to_linker::<_, Storage>(linker, GuestState::storage)
}

impl limits::Host for StorageView<'_> {
    fn get(&mut self, name: String) -> Result<Option<u64>> {
        Ok(self.budgets.limits.value(&name))
    }
}
