//! The state of a guest's store.
//!
//! Each group of imports sees its part of it: WASI's own functions through the views of `wasmtime-wasi`, kvtier's
//! through those of `view`.

pub(in crate::wasm) mod blocking_files;
pub(in crate::wasm) mod file_streams;
pub(in crate::wasm) mod file_work;
pub(in crate::wasm) mod footprint;
pub(in crate::wasm) mod held;
pub(in crate::wasm) mod http_objects;
pub(in crate::wasm) mod log;
pub(in crate::wasm) mod ownership;
pub(in crate::wasm) mod remedy;
pub(in crate::wasm) mod stdio;
mod stores;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use wasmtime::component::{Resource, ResourceTable, ResourceTableError};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
#[cfg(feature = "http")]
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use self::blocking_files::BlockingFiles;
use self::file_streams::FileStreams;
use self::file_work::FileWork;
use self::footprint::Footprint;
use self::http_objects::Objects;
use self::log::BackendLog;
use self::ownership::Owned;
use self::stdio::StderrTail;
pub(in crate::wasm) use self::stores::{Alive, Stores};
#[cfg(feature = "http")]
pub(in crate::wasm) use self::view::HttpObjectsView;
pub(in crate::wasm) use self::view::{FilesView, Logging, OutputView, Storage, StorageView};
use super::no_memory;
use super::policy::DenialLog;
use super::policy::granted::GrantedDirectory;
use super::policy::network::NetPolicy;
use super::policy::open_files::OpenFiles;
use crate::config::BackendLimits;

/// The state of a lane's store.
pub(in crate::wasm) struct GuestState {
    pub(in crate::wasm) table: ResourceTable,
    pub(in crate::wasm) wasi: WasiCtx,
    #[cfg(feature = "http")]
    pub(in crate::wasm) http: HttpState,
    pub(in crate::wasm) policy: Policy,
    pub(in crate::wasm) budgets: Budgets,
    pub(in crate::wasm) threads: Threads,
    pub(in crate::wasm) output: Output,
    /// Counts this store.
    #[expect(dead_code, reason = "is there to be dropped")]
    pub(in crate::wasm) alive: Alive,
}

/// WASI HTTP's part of the state.
#[cfg(feature = "http")]
pub(in crate::wasm) struct HttpState {
    pub(in crate::wasm) context: WasiHttpCtx,
    /// Sends the requests.
    pub(in crate::wasm) hooks: Box<dyn WasiHttpHooks>,
}

/// What the instance may reach, and its denials.
pub(in crate::wasm) struct Policy {
    /// The granted directories.
    pub(in crate::wasm) granted: Vec<GrantedDirectory>,
    pub(in crate::wasm) net: NetPolicy,
    pub(in crate::wasm) denial_log: DenialLog,
}

/// Limits on what the instance may take from the host. All instances of the backend share what is in an `Arc`.
pub(in crate::wasm) struct Budgets {
    /// All limits of the backend, as the guest may ask for them.
    pub(in crate::wasm) limits: Arc<BackendLimits>,
    /// `limits.handles_max`.
    pub(in crate::wasm) handles_max: usize,
    /// Bytes that one `sources.read` may ask for.
    pub(in crate::wasm) read_bytes_max: u64,
    pub(in crate::wasm) connect_timeout: Duration,
    pub(in crate::wasm) footprint: Footprint,
    pub(in crate::wasm) open_files: OpenFiles<ResourceTable>,
    pub(in crate::wasm) file_streams: FileStreams,
    pub(in crate::wasm) http_objects: Objects,
    /// Pending operations on files.
    pub(in crate::wasm) file_work: Arc<FileWork>,
    /// Counts blocking reads and writes of an async class.
    pub(in crate::wasm) blocking_files: Option<Arc<BlockingFiles>>,
    /// Splices that may run at a time.
    pub(in crate::wasm) splices: Arc<Semaphore>,
    pub(in crate::wasm) owned: Owned,
    /// Room for the positions in selections of chunks.
    pub(in crate::wasm) selections: Arc<Semaphore>,
}

/// The threads for the work of host functions.
pub(in crate::wasm) struct Threads {
    /// The threads that run guests, which also wait for sockets.
    pub(in crate::wasm) lanes: Handle,
    /// The backend's own threads.
    pub(in crate::wasm) backend: Handle,
}

/// The guest's output.
pub(in crate::wasm) struct Output {
    pub(in crate::wasm) log: Arc<BackendLog>,
    /// The last errors that it logged or wrote to its standard error.
    pub(in crate::wasm) last_output: StderrTail,
}

impl Output {
    /// Keeps a message that may turn out to be the last.
    pub(in crate::wasm) fn note_error(&self, message: &str) {
        self.last_output.push(message.as_bytes());
        self.last_output.push(b"\n");
    }
}

impl GuestState {
    /// Puts an owned handle into the guest's table. It stays, revoked, until the guest drops it.
    pub(in crate::wasm) fn lend<T: Send + 'static>(
        &mut self,
        lent: T,
    ) -> Result<Resource<T>, ResourceTableError> {
        self.table.push(lent)
    }

    /// Returns why the guest died: the trap, the limit that it reached, and the last errors that it logged or wrote to
    /// its standard error, such as the message of a panic.
    pub(in crate::wasm) fn describe(&self, error: &wasmtime::Error) -> String {
        let mut cause = match error.downcast_ref::<wasmtime::Trap>() {
            Some(trap) => trap.to_string(),
            None => no_memory::explain(error).unwrap_or_else(|| error.root_cause().to_string()),
        };
        if let Some(limit) = remedy::limit_in(&cause) {
            cause = format!("{cause}; limits.{limit} is reached");
        }
        if let Some(too_little) = remedy::first_memory(&cause) {
            cause = too_little;
        } else if let Some(refusal) = self.budgets.footprint.refusal() {
            cause = format!("{cause}, after it was refused {refusal}");
        }
        let output = self.output.last_output.last_lines(self.policy.denial_log.secrets());
        let remedy = remedy::remedy_for(output.as_deref().unwrap_or(&cause));
        for (words, text) in [("its last output: ", output.as_deref()), ("", remedy)] {
            if let Some(text) = text {
                cause = format!("{cause}; {words}{text}");
            }
        }
        cause
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

#[cfg(feature = "http")]
impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut *self.http.hooks, table: &mut self.table, ctx: &mut self.http.context }
    }
}
