//! What a guest may see and use: the state of its store, its WASI context, its limits.
//!
//! Nothing is granted by default. Full WASI is linked, so that every component instantiates, with a
//! context that holds no directory, no address, no variable and no standard stream of the host's.

pub(in crate::wasm) mod file_work;
mod footprint;
pub(in crate::wasm) mod held;
pub(in crate::wasm) mod log;
mod stdio;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use wasmtime::Store;
use wasmtime::component::{HasData, Resource, ResourceTable, ResourceTableError};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use self::file_work::FileWork;
use self::footprint::Footprint;
use self::held::Charge;
use self::log::BackendLog;
use self::stdio::{Pace, Tail};
use super::imports::check_address;
use super::imports::http::{Hooks, Objects};
use super::imports::storage::ownership::Owned;
use super::load::Prepared;
use super::no_memory;
use super::policy::Witness;
use super::policy::network::NetPolicy;
use super::policy::open_files::{FileStreams, OpenFiles};
use crate::clock::Clock;
use crate::config::{EnvGrant, FsAccess};
use crate::limits::{HANDLES_PER_CALL, READ_BYTES_MAX, TRIM_PAUSE};
use crate::memory::trim;
use crate::runtime::Control;

/// The state of a lane's store.
pub(in crate::wasm) struct State {
    pub(in crate::wasm) log: Arc<BackendLog>,
    pub(in crate::wasm) table: ResourceTable,
    /// `limits.handles_max`.
    pub(in crate::wasm) handles_max: usize,
    /// Bytes that one `sources.read` may ask for.
    pub(in crate::wasm) read_bytes_max: u64,
    wasi: WasiCtx,
    pub(in crate::wasm) net: NetPolicy,
    http: WasiHttpCtx,
    http_hooks: Hooks,
    pub(in crate::wasm) http_objects: Objects,
    /// The threads that run guests; sockets are waited for there.
    pub(in crate::wasm) lanes: Handle,
    pub(in crate::wasm) connect_timeout: Duration,
    pub(in crate::wasm) witness: Witness,
    footprint: Footprint,
    last_words: Tail,
    _alive: Alive,
    pub(in crate::wasm) open_files: OpenFiles,
    pub(in crate::wasm) file_streams: FileStreams,
    /// Pending operations on files, of the whole backend.
    pub(in crate::wasm) file_work: Arc<FileWork>,
    /// The backend's own threads.
    pub(in crate::wasm) own_threads: Handle,
    pub(in crate::wasm) owned: Owned,
    /// Splices that may run at a time, of the whole backend.
    pub(in crate::wasm) splices: Arc<Semaphore>,
}

impl State {
    /// Puts an owned handle into the guest's table. It stays, revoked, until the guest drops it.
    pub(in crate::wasm) fn lend<T: Send + 'static>(
        &mut self,
        lent: T,
    ) -> Result<Resource<T>, ResourceTableError> {
        self.table.push(lent)
    }

    /// Keeps a message that may turn out to be the last.
    pub(in crate::wasm) fn note_error(&self, message: &str) {
        self.last_words.push(message.as_bytes());
        self.last_words.push(b"\n");
    }

    /// Says why the guest died: the trap, the limit that it ran into, and the errors that it logged or wrote to its
    /// standard error last, among which is a panic's message.
    pub(in crate::wasm) fn describe(&self, error: &wasmtime::Error) -> String {
        let mut cause = match error.downcast_ref::<wasmtime::Trap>() {
            Some(trap) => trap.to_string(),
            None => no_memory::explain(error).unwrap_or_else(|| error.root_cause().to_string()),
        };
        if let Some(limit) = limit_in(&cause) {
            cause = format!("{cause}; limits.{limit} is reached");
        }
        if let Some(refusal) = self.footprint.refusal() {
            cause = format!("{cause}, after it was refused {refusal}");
        }
        match self.last_words.last_lines(self.witness.secrets()) {
            Some(lines) => format!("{cause}; its last words: {lines}"),
            None => cause,
        }
    }
}

/// Names the limit that a trap of wasmtime's own is about. Not all of them have a type.
fn limit_in(cause: &str) -> Option<&'static str> {
    const LIMITS: [(&str, &str); 5] = [
        ("resource table has no free keys", "handles_max"),
        ("store handle limit exceeded", "handles_max"),
        ("fuel allocated for hostcalls has been exhausted", "hostcall_bytes"),
        ("requested len ", "random_bytes"),
        ("HTTP objects allowed by http_requests_max", "http_requests_max"),
    ];
    LIMITS.iter().find(|(words, _)| cause.contains(words)).map(|(_, limit)| *limit)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.http_hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Projects a store's state to what host functions work on.
pub(in crate::wasm) struct Host;

impl HasData for Host {
    type Data<'a> = &'a mut State;
}

/// The stores of a backend that exist.
pub(in crate::wasm) struct Stores {
    n: AtomicUsize,
    one_ended: Notify,
    control: Control,
    /// Whether the allocator will be told that one has ended.
    will_trim: AtomicBool,
}

impl Stores {
    pub(in crate::wasm) fn new(control: &Control) -> Arc<Self> {
        let (n, one_ended, will_trim) = (AtomicUsize::new(0), Notify::new(), AtomicBool::new(false));
        Arc::new(Self { n, one_ended, control: control.clone(), will_trim })
    }

    /// Has what a store held go back to the system soon: the rest of it is being dropped.
    fn trim_soon(self: &Arc<Self>) {
        if self.will_trim.swap(true, Ordering::AcqRel) {
            return;
        }
        let stores = Arc::clone(self);
        self.control.handle().spawn(async move {
            tokio::time::sleep(TRIM_PAUSE).await;
            stores.will_trim.store(false, Ordering::Release);
            drop(stores.control.handle().spawn_blocking(trim));
        });
    }

    pub(in crate::wasm) fn count(&self) -> usize {
        self.n.load(Ordering::Acquire)
    }

    /// Waits until there are none.
    pub(in crate::wasm) async fn gone(&self) {
        loop {
            let mut one_ended = pin!(self.one_ended.notified());
            one_ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            one_ended.await;
        }
    }
}

/// Counts one store, as long as it is there.
struct Alive(Arc<Stores>);

impl Alive {
    fn new(stores: &Arc<Stores>) -> Self {
        stores.n.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(stores))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.n.fetch_sub(1, Ordering::AcqRel);
        self.0.one_ended.notify_waiters();
        self.0.trim_soon();
    }
}

/// Makes a store for one generation of a lane. Opens directories, which may block.
///
/// # Errors
/// If a granted directory cannot be opened; the message names it.
pub(in crate::wasm) fn new_store(
    prepared: &Prepared,
    witness: &Witness,
    memory_bytes: Arc<AtomicU64>,
) -> wasmtime::Result<Store<State>> {
    let Prepared { config, net, http, record, threads, lanes, own, .. } = prepared;
    let limits = &config.limits;
    let alive = Alive::new(&record.stores);
    let last_words = Tail::last_words();
    let mut wasi = WasiCtx::builder();
    let pace = Pace::new(Clock::system());
    // Standard input is empty by default.
    wasi.stdout(Tail::nothing().paced(&pace)).stderr(last_words.paced(&pace));
    wasi.max_random_size(limits.random_bytes);
    for grant in &config.allow.fs {
        let perms = match grant.access {
            FsAccess::ReadOnly => FsPerms::ReadOnly,
            FsAccess::ReadWrite => FsPerms::ReadWrite,
        };
        wasi.preopened_dir(&grant.host_dir, &grant.guest_path, perms).map_err(|error| {
            wasmtime::format_err!(
                "allow.fs grants `{}`, which cannot be opened: {error:#}; create the directory or correct the grant",
                grant.host_dir.display()
            )
        })?;
    }
    for variable in &config.allow.env {
        match variable {
            EnvGrant::Set { name, value } => drop(wasi.env(name, value)),
            EnvGrant::Inherit(name) => drop(std::env::var(name).map(|value| wasi.env(name, value))),
        }
    }
    let judge = (net.clone(), witness.clone());
    // Names are answered from the pins.
    wasi.allow_udp(false).allow_tcp(!net.has_no_sockets()).allow_ip_name_lookup(false);
    wasi.socket_addr_check(move |address, usage| {
        let allowed = check_address(&judge.0, &judge.1, address, usage);
        Box::pin(async move { allowed })
    });
    let mut http_limits = WasiHttpCtx::new();
    let http_objects = Objects::new(net.has_http(), limits, Charge::new(&record.held));
    http_limits.set_field_size_limit(http_objects.fields_bytes_max());
    let mut table = ResourceTable::new();
    // The one handle that a call is lent.
    table.set_max_capacity(limits.handles_max.saturating_add(limits.calls_in_flight_max));
    let state = State {
        log: Arc::clone(&record.log),
        table,
        handles_max: limits.handles_max,
        read_bytes_max: READ_BYTES_MAX.min(limits.hostcall_bytes),
        wasi: wasi.build(),
        net: net.clone(),
        http: http_limits,
        http_hooks: Hooks::new(http.clone(), witness.clone()),
        http_objects,
        lanes: lanes.handle().clone(),
        connect_timeout: limits.connect_timeout,
        witness: witness.clone(),
        footprint: Footprint::new(limits, memory_bytes, Charge::new(&record.held)),
        last_words,
        _alive: alive,
        open_files: OpenFiles::new(limits.open_files_max),
        file_streams: FileStreams::new(limits.open_files_max, own),
        file_work: Arc::clone(&record.file_work),
        own_threads: own.clone(),
        owned: Owned::new(&record.owners),
        splices: Arc::clone(&record.splices),
    };
    let mut store = Store::new(threads.engine(), state);
    store.limiter(|state| &mut state.footprint);
    store.set_hostcall_fuel(limits.hostcall_bytes as usize);
    let n_handles_max =
        limits.handles_max.saturating_add(limits.calls_in_flight_max.saturating_mul(HANDLES_PER_CALL));
    store.set_max_component_handles(n_handles_max);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(n_handles_max);
    }
    Ok(store)
}
