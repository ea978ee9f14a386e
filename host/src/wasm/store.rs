//! Making the store of one instance: its WASI context, its limits, its state.
//!
//! Nothing is granted by default. All of WASI is linked, so that every component can be instantiated, with a context
//! that has no directory, address, variable or standard stream of the host.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::Semaphore;
use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p3::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};
#[cfg(feature = "http")]
use wasmtime_wasi_http::WasiHttpCtx;

use super::imports::check_address;
#[cfg(feature = "http")]
use super::imports::http::Hooks;
use super::policy::DenialLog;
use super::policy::granted::GrantedDirectory;
use super::policy::open_files::OpenFiles;
use super::prepared::Prepared;
#[cfg(feature = "http")]
use super::state::HttpState;
use super::state::file_streams::FileStreams;
use super::state::footprint::Footprint;
use super::state::held::Charge;
use super::state::http_objects::Objects;
use super::state::ownership::Owned;
use super::state::stdio::{Pace, StderrTail};
use super::state::{Alive, Budgets, GuestState, Output, Policy, Threads};
use crate::clock::Clock;
use crate::config::{EnvGrant, FsAccess, FsGrant};
use crate::limits::{HANDLES_PER_CALL, READ_BYTES_MAX, SELECTED_CHUNKS_MAX};

impl Prepared {
    /// Makes a store for one generation of a lane. Opens directories, which may block.
    ///
    /// # Errors
    /// If a granted directory cannot be opened; the message names it.
    pub(super) fn new_store(&self, memory_bytes: Arc<AtomicU64>) -> wasmtime::Result<Store<GuestState>> {
        let denial_log = DenialLog::new(&self.shared.denials, &self.external.given().secrets);
        new_store(self, &denial_log, memory_bytes)
    }
}

fn new_store(
    prepared: &Prepared,
    denial_log: &DenialLog,
    memory_bytes: Arc<AtomicU64>,
) -> wasmtime::Result<Store<GuestState>> {
    let Prepared { config, net, shared, threads, lanes, own, .. } = prepared;
    let limits = &config.limits;
    let alive = Alive::new(&shared.stores);
    let last_output = StderrTail::last_output();
    let mut wasi = WasiCtx::builder();
    let pace = Pace::new(Clock::system());
    // Standard input is empty by default.
    wasi.stdout(StderrTail::nothing().paced(&pace)).stderr(last_output.paced(&pace));
    wasi.max_random_size(limits.random_bytes);
    for grant in &config.allow.fs {
        grant_directory(&mut wasi, grant)?;
    }
    for variable in &config.allow.env {
        match variable {
            EnvGrant::Set { name, value } => drop(wasi.env(name, value)),
            EnvGrant::Inherit(name) => drop(std::env::var(name).map(|value| wasi.env(name, value))),
        }
    }
    let judge = (net.clone(), denial_log.clone());
    // Names are resolved from the pinned addresses.
    wasi.allow_udp(false).allow_tcp(!net.has_no_sockets()).allow_ip_name_lookup(false);
    wasi.socket_addr_check(move |address, usage| {
        let allowed = check_address(&judge.0, &judge.1, address, usage);
        Box::pin(async move { allowed })
    });
    let http_objects = Objects::new(net.has_http(), limits, Charge::new(&shared.held));
    #[cfg(feature = "http")]
    let http = HttpState {
        context: {
            let mut context = WasiHttpCtx::new();
            context.set_field_size_limit(http_objects.fields_bytes_max());
            context
        },
        hooks: Box::new(Hooks::new(prepared.http.clone(), denial_log.clone())),
    };
    let mut table = ResourceTable::new();
    // Each call is lent exactly one handle.
    table.set_max_capacity(limits.handles_max.saturating_add(limits.calls_in_flight_max));
    let mut state = GuestState {
        table,
        wasi: wasi.build(),
        #[cfg(feature = "http")]
        http,
        policy: Policy { granted: Vec::new(), net: net.clone(), denial_log: denial_log.clone() },
        budgets: Budgets {
            limits: Arc::new(limits.clone()),
            handles_max: limits.handles_max,
            read_bytes_max: READ_BYTES_MAX.min(limits.hostcall_bytes),
            connect_timeout: limits.connect_timeout,
            footprint: Footprint::new(limits, memory_bytes, Charge::new(&shared.held)),
            open_files: OpenFiles::new(limits.open_files_max),
            file_streams: FileStreams::new(limits.open_files_max, own),
            http_objects,
            file_work: Arc::clone(&shared.file_work),
            blocking_files: (!prepared.class.blocking).then(|| Arc::clone(&shared.blocking_files)),
            splices: Arc::clone(&shared.splices),
            owned: Owned::new(&shared.owners),
            selections: Arc::new(Semaphore::new(SELECTED_CHUNKS_MAX)),
        },
        threads: Threads { lanes: lanes.handle().clone(), backend: own.clone() },
        output: Output { log: Arc::clone(&shared.log), last_output },
        alive,
    };
    state.policy.granted = granted(&mut state)?;
    let mut store = Store::new(threads.engine(), state);
    store.limiter(|state| &mut state.budgets.footprint);
    store.set_hostcall_fuel(limits.hostcall_bytes as usize);
    let n_handles_max =
        limits.handles_max.saturating_add(limits.calls_in_flight_max.saturating_mul(HANDLES_PER_CALL));
    store.set_max_component_handles(n_handles_max);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(n_handles_max);
    }
    Ok(store)
}

fn grant_directory(wasi: &mut WasiCtxBuilder, grant: &FsGrant) -> wasmtime::Result<()> {
    let perms = match grant.access {
        FsAccess::ReadOnly => FsPerms::ReadOnly,
        FsAccess::ReadWrite => FsPerms::ReadWrite,
    };
    wasi.preopened_dir(&grant.host_dir, &grant.guest_path, perms).map(drop).map_err(|error| {
        wasmtime::format_err!(
            "allow.fs grants `{}`, which cannot be opened: {error:#}; create the directory or correct the grant",
            grant.host_dir.display()
        )
    })
}

/// Returns the directories that the WASI context has opened, for functions that name them by their paths.
fn granted(state: &mut GuestState) -> wasmtime::Result<Vec<GrantedDirectory>> {
    let directories = state.filesystem().get_directories()?;
    let mut granted = Vec::with_capacity(directories.len());
    for (handle, guest_path) in directories {
        if let Descriptor::Dir(opened) = state.table.delete(handle)? {
            let (directory, is_read_only) = (opened.dir, opened.perms.write_not_permitted());
            granted.push(GrantedDirectory { guest_path, directory, is_read_only });
        }
    }
    Ok(granted)
}
