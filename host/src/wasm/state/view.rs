//! The parts of a store's state that each group of imports sees.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use wasmtime::component::{HasData, ResourceTable};

use super::file_streams::FileStreams;
use super::file_work::FileWork;
#[cfg(feature = "http")]
use super::http_objects::Objects;
use super::{Budgets, GuestState, Output, Policy, Threads};
use crate::wasm::policy::DenialLog;
use crate::wasm::policy::network::NetPolicy;
use crate::wasm::policy::open_files::OpenFiles;

/// The part for `buffers`, `streams` and `files`.
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

/// The part for `logging`.
pub(in crate::wasm) struct OutputView<'a>(
    #[expect(dead_code, reason = "the one function is shadowed")] &'a Output,
);

/// Projects a store's state to [`OutputView`].
pub(in crate::wasm) struct Logging;

impl HasData for Logging {
    type Data<'a> = OutputView<'a>;
}

/// The part for `wasi:filesystem`, besides WASI's own.
pub(in crate::wasm) struct FilesView<'a> {
    pub(in crate::wasm) table: &'a mut ResourceTable,
    pub(in crate::wasm) denial_log: &'a DenialLog,
    pub(in crate::wasm) open_files: &'a mut OpenFiles<ResourceTable>,
    pub(in crate::wasm) file_streams: &'a mut FileStreams,
    pub(in crate::wasm) file_work: &'a Arc<FileWork>,
    /// The backend's own threads.
    pub(in crate::wasm) threads: &'a Handle,
}

/// The part for `wasi:sockets`, besides WASI's own.
pub(in crate::wasm) struct NetView<'a> {
    pub(in crate::wasm) table: &'a mut ResourceTable,
    pub(in crate::wasm) net: &'a NetPolicy,
    pub(in crate::wasm) denial_log: &'a DenialLog,
    pub(in crate::wasm) open_files: &'a mut OpenFiles<ResourceTable>,
    pub(in crate::wasm) connect_timeout: Duration,
    /// The threads that run guests.
    pub(in crate::wasm) lanes: &'a Handle,
}

/// The part for `wasi:http`, besides WASI's own.
#[cfg(feature = "http")]
pub(in crate::wasm) struct HttpObjectsView<'a> {
    pub(in crate::wasm) table: &'a ResourceTable,
    pub(in crate::wasm) objects: &'a mut Objects,
}

impl GuestState {
    pub(in crate::wasm) fn files(&mut self) -> FilesView<'_> {
        let Self { table, policy, budgets, threads, .. } = self;
        let Budgets { open_files, file_streams, file_work, .. } = budgets;
        let (denial_log, threads) = (&policy.denial_log, &threads.backend);
        FilesView { table, denial_log, open_files, file_streams, file_work, threads }
    }

    pub(in crate::wasm) fn net(&mut self) -> NetView<'_> {
        let Self { table, policy, budgets, threads, .. } = self;
        let Policy { net, denial_log, .. } = policy;
        let Budgets { open_files, connect_timeout, .. } = budgets;
        NetView {
            table,
            net,
            denial_log,
            open_files,
            connect_timeout: *connect_timeout,
            lanes: &threads.lanes,
        }
    }

    #[cfg(feature = "http")]
    pub(in crate::wasm) fn http_objects(&mut self) -> HttpObjectsView<'_> {
        HttpObjectsView { table: &self.table, objects: &mut self.budgets.http_objects }
    }

    pub(in crate::wasm) fn storage(&mut self) -> StorageView<'_> {
        let Self { table, policy, budgets, threads, .. } = self;
        StorageView { table, policy, budgets, threads }
    }

    pub(in crate::wasm) fn output(&mut self) -> OutputView<'_> {
        OutputView(&self.output)
    }
}
