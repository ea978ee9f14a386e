//! Why a backend cannot be loaded.

use std::path::PathBuf;

use crate::wasm::CONTRACT_VERSION;
use crate::wasm::class::ClassError;
use crate::wasm::component::ComponentError;
use crate::wasm::imports::http::TlsError;
use crate::wasm::policy::external::ExternalError;
use crate::wasm::policy::overlap::OverlapError;

/// Why a backend cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The component's file.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The class.
    #[error("component `{}`: {source}", path.display())]
    Class {
        /// The component's file.
        path: PathBuf,
        /// What is wrong with the class.
        source: ClassError,
    },
    /// The component imports what this host does not offer.
    #[error(
        "component `{}` imports `{import}`, which this host does not offer: it offers WASI 0.2 and 0.3, and \
         kvtier:storage@{CONTRACT_VERSION}; build the component without the code that needs it",
        path.display()
    )]
    NotOffered {
        /// The component's file.
        path: PathBuf,
        /// The interface.
        import: String,
    },
    /// The component wraps another backend, whose component it was not composed with.
    #[error(
        "component `{}` imports `{import}`: it wraps another backend, so compose it with that backend's component \
         first, for instance with `kvtier compose {} BACKEND.wasm --out COMPOSED.wasm`",
        path.display(),
        path.display()
    )]
    NotComposed {
        /// The component's file.
        path: PathBuf,
        /// The interface.
        import: String,
    },
    /// A secret, or a host name in `allow.net`.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// A directory in `allow.fs` with a placeholder in its path.
    #[error("allow.fs grants a directory that cannot be created: {0}; create it, or correct the grant")]
    Directory(#[source] std::io::Error),
    /// A directory in `allow.fs`.
    #[error(transparent)]
    Overlap(#[from] OverlapError),
    /// The certificates in `tls.ca_file`.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system grants the backend no threads.
    #[error(
        "threads for the backend's files cannot be started: {0}; raise ulimit -u (threads) or ulimit -v (their stacks)"
    )]
    Threads(std::io::Error),
    /// Loading ended before there was an outcome.
    #[error(
        "loading ended before it was done: the engine is gone, or the host's side panicked; if so, please report it"
    )]
    Ended,
    /// The configuration has more lanes than the class may have.
    #[error(
        "lanes is {configured}, and class `{class}` states that it may have {stated} at most; set lanes to {stated}"
    )]
    TooManyLanes {
        /// The class.
        class: String,
        /// The number in the configuration.
        configured: usize,
        /// The number that the class states.
        stated: u32,
    },
    /// The class does not state how many lanes it may have, although it has a method for it.
    #[error(
        "lanes is more than 1, and class `{class}` does not state in lanes-max how many it may have: {cause}"
    )]
    LanesUnknown {
        /// The class.
        class: String,
        /// The cause.
        cause: String,
    },
    /// The first instance could not be made, constructed or opened.
    #[error("class `{class}` did not start: {cause}")]
    NotStarted {
        /// The class.
        class: String,
        /// The cause.
        cause: String,
    },
}
