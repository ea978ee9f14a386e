//! Replaces HTTP in a library that was built without it: nothing is linked, so a component that imports WASI HTTP does
//! not load, and a grant of HTTP is refused.

use wasmtime::component::Linker;

use crate::config::BackendConfig;
use crate::wasm::policy::network::NetPolicy;
use crate::wasm::state::GuestState;

/// Links nothing.
#[expect(clippy::unnecessary_wraps, reason = "linking WASI HTTP, in its place, can fail")]
pub(in crate::wasm) fn add_to_linker(_: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    Ok(())
}

/// Makes no requests.
#[derive(Clone)]
pub(in crate::wasm) struct HttpClient;

impl HttpClient {
    /// # Errors
    /// [`TlsError::NotBuilt`], if HTTP is granted.
    pub(in crate::wasm) fn new(config: &BackendConfig, net: &NetPolicy) -> Result<Self, TlsError> {
        if net.has_http() || config.ca_file.is_some() { Err(TlsError::NotBuilt) } else { Ok(Self) }
    }
}

/// Why HTTPS servers cannot be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The library has no HTTP.
    #[error("HTTP is granted, and this kvtier was built without it; build it with the feature `http`")]
    NotBuilt,
}
