//! What a guest may see and use: the state of its store, its WASI context, its memory.
//!
//! Nothing is granted by default. Full WASI is linked, so that every component instantiates, with a
//! context that holds no directory, no address, no variable and no standard stream of the host's.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;
use wasmtime::component::{HasData, Resource, ResourceTable, ResourceTableError};
use wasmtime::{Engine, ResourceLimiter, Store};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

use crate::config::{BackendConfig, EnvGrant, FsAccess, IpNetwork, NetGrant, NetHost, PortRange};
use crate::limits::{
    HANDLES_MAX, HOSTCALL_BYTES_MAX, RANDOM_BYTES_MAX, SPLICES_PER_LANE_MAX, STDERR_BYTES_MAX,
    TABLE_ELEMENTS_MAX,
};

/// The state of a lane's store.
pub(super) struct State {
    pub(super) backend: Arc<str>,
    pub(super) table: ResourceTable,
    wasi: WasiCtx,
    memory: MemoryLimit,
    stderr: Stderr,
    /// Splices that may run at a time.
    pub(super) splices: Arc<Semaphore>,
}

impl State {
    /// Puts an owned handle into the guest's table. It stays, revoked, until the guest drops it.
    pub(super) fn lend<T: Send + 'static>(&mut self, lent: T) -> Result<Resource<T>, ResourceTableError> {
        self.table.push(lent)
    }

    /// Says whether the guest was refused memory, and what it may have in bytes.
    pub(super) fn memory_refusal(&self) -> Option<u64> {
        self.memory.refused.then_some(self.memory.max_bytes)
    }

    pub(super) fn stderr(&self) -> Stderr {
        self.stderr.clone()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Projects a store's state to what host functions work on.
pub(super) struct Host;

impl HasData for Host {
    type Data<'a> = &'a mut State;
}

/// The addresses that a backend may connect to. Names are resolved once, when the backend is loaded, so
/// that a name cannot come to mean another address later.
#[derive(Clone, Default)]
pub(super) struct NetPolicy(Arc<[(IpNetwork, PortRange)]>);

impl NetPolicy {
    /// Resolves the grants.
    ///
    /// # Errors
    /// The system's, for a name that cannot be resolved.
    pub(super) fn resolve(grants: &[NetGrant]) -> std::io::Result<Self> {
        let mut allowed = Vec::new();
        for grant in grants {
            let (host, ports) = match grant {
                NetGrant::Tcp { host, ports } => (host, *ports),
                NetGrant::Http { host, port, .. } => (host, PortRange { first: *port, last: *port }),
            };
            let single = |address: IpAddr| {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                IpNetwork::new(address, bits).map(|network| (network, ports))
            };
            match host {
                NetHost::Network(network) => allowed.push((*network, ports)),
                NetHost::Address(address) => allowed.extend(single(*address)),
                NetHost::Name(name) => {
                    let addresses = (name.as_str(), ports.first).to_socket_addrs()?;
                    allowed.extend(addresses.filter_map(|address| single(address.ip())));
                }
            }
        }
        Ok(Self(allowed.into()))
    }

    fn allows(&self, address: SocketAddr) -> bool {
        let fits = |(network, ports): &(IpNetwork, PortRange)| {
            ports.contains(address.port()) && network.contains(address.ip())
        };
        self.0.iter().any(fits)
    }
}

/// Makes a store for one generation of a lane.
///
/// # Errors
/// If a granted directory cannot be opened; the message names it.
pub(super) fn new_store(
    engine: &Engine,
    config: &BackendConfig,
    net: &NetPolicy,
    memory_bytes: Arc<AtomicU64>,
) -> wasmtime::Result<Store<State>> {
    let stderr = Stderr(MemoryOutputPipe::new(STDERR_BYTES_MAX));
    let mut wasi = WasiCtx::builder();
    wasi.stderr(stderr.0.clone()).max_random_size(RANDOM_BYTES_MAX);
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
    let net = net.clone();
    let names_a_host = config.allow.net.iter().any(|grant| {
        let (NetGrant::Tcp { host, .. } | NetGrant::Http { host, .. }) = grant;
        matches!(host, NetHost::Name(_))
    });
    wasi.allow_udp(false).allow_tcp(!net.0.is_empty()).allow_ip_name_lookup(names_a_host);
    wasi.socket_addr_check(move |address, usage| {
        let allowed = match usage {
            SocketAddrUse::TcpConnect => net.allows(address),
            // Connecting binds to an unspecified address first.
            SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
            _ => false,
        };
        Box::pin(async move { allowed })
    });
    let max_bytes = config.limits.memory_bytes;
    let memory = MemoryLimit { max_bytes, used_bytes: 0, refused: false, shown: memory_bytes };
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES_MAX);
    let splices = Arc::new(Semaphore::new(SPLICES_PER_LANE_MAX));
    let backend = config.name.as_str().into();
    let mut store = Store::new(engine, State { backend, table, wasi: wasi.build(), memory, stderr, splices });
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(HANDLES_MAX);
    }
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    Ok(store)
}

/// Caps the linear memories of one instance, taken together, and its tables.
struct MemoryLimit {
    max_bytes: u64,
    used_bytes: u64,
    /// Whether growth was refused: the likely cause of a trap that comes later.
    refused: bool,
    /// What `status()` shows.
    shown: Arc<AtomicU64>,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let grown = self.used_bytes.saturating_add((desired - current) as u64);
        let allowed = grown <= self.max_bytes && maximum.is_none_or(|maximum| desired <= maximum);
        if allowed {
            self.used_bytes = grown;
            self.shown.store(grown, Ordering::Relaxed);
        }
        self.refused |= !allowed;
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX && maximum.is_none_or(|maximum| desired <= maximum))
    }
}

/// What a guest wrote to its standard error, up to a limit: the only place where a panic leaves its message.
#[derive(Clone)]
pub(super) struct Stderr(MemoryOutputPipe);

impl Stderr {
    /// Returns the end of the text, on one line, control characters escaped.
    pub(super) fn last_lines(&self) -> Option<String> {
        let bytes = self.0.contents();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(4)..].join(" / ");
        (!last.is_empty()).then(|| last.escape_debug().take(500).collect())
    }
}
