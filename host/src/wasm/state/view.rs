//! The parts of a store's state that the contract's interfaces see.

use wasmtime::component::{HasData, ResourceTable};

use super::{Budgets, GuestState, Output, Policy, Threads};

/// What `buffers` and `files` work on.
pub(in crate::wasm) struct StorageView<'a> {
    pub(in crate::wasm) table: &'a mut ResourceTable,
    pub(in crate::wasm) policy: &'a Policy,
    pub(in crate::wasm) budgets: &'a mut Budgets,
    pub(in crate::wasm) threads: &'a Threads,
}

/// Projects a store's state to [`StorageView`].
pub(in crate::wasm) struct Storage;

impl HasData for Storage {
    type Data<'a> = StorageView<'a>;
}

/// What `logging` works on.
pub(in crate::wasm) struct OutputView<'a>(
    #[expect(dead_code, reason = "the one function is shadowed")] &'a Output,
);

/// Projects a store's state to [`OutputView`].
pub(in crate::wasm) struct Logging;

impl HasData for Logging {
    type Data<'a> = OutputView<'a>;
}

impl GuestState {
    pub(in crate::wasm) fn storage(&mut self) -> StorageView<'_> {
        let Self { table, policy, budgets, threads, .. } = self;
        StorageView { table, policy, budgets, threads }
    }

    pub(in crate::wasm) fn output(&mut self) -> OutputView<'_> {
        OutputView(&self.output)
    }
}
