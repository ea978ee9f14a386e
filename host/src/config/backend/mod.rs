//! One backend of the chain.

pub(super) mod grants;
pub(super) mod placeholder;
pub(super) mod section;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use self::grants::{EnvGrant, Grants};
use super::value::scalar::{boolean, whole};
use crate::config::digest::Sha256Digest;
use crate::config::hide::{sounds_secret, user_parts};
use crate::config::secret::SecretSource;
use crate::limits;

/// Describes one backend: which class of which component, with what, and within which limits.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendConfig {
    /// Name in the chain, in logs and in metrics: 1 to 64 letters, digits, `_` or `-`.
    pub name: String,
    /// The component's file. Whether it exists is found out when the backend is loaded.
    pub module_path: PathBuf,
    /// The class to construct.
    pub class_name: String,
    /// What the component's file must hash to, if pinned.
    pub digest: Option<Sha256Digest>,
    /// Keys and values for the constructor, in the order of the file. Placeholders in the values are replaced when the
    /// backend is loaded.
    pub config: Vec<(String, String)>,
    /// Keys for the constructor whose values are read when the backend is loaded.
    pub secrets: Vec<(String, SecretSource)>,
    /// What the backend may reach.
    pub allow: Grants,
    /// The certificates that may vouch for HTTPS servers, in a file of PEM; `None`: those that the system trusts, or,
    /// where it has none, the bundled ones.
    pub ca_file: Option<PathBuf>,
    /// What the backend may use.
    pub limits: BackendLimits,
    /// When the backend is passed over because it fails.
    pub breaker: BreakerConfig,
    /// Number of independent instances.
    pub lanes: usize,
}

// Values of `config.*` are left out: operators put passwords there, alone and in URLs.
impl fmt::Debug for BackendConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            module_path,
            class_name,
            digest,
            config,
            secrets,
            allow,
            ca_file,
            limits,
            breaker,
            lanes,
        } = self;
        let config: Vec<_> =
            config.iter().map(|(key, value)| (key, format!("{} bytes", value.len()))).collect();
        f.debug_struct("BackendConfig")
            .field("name", name)
            .field("module_path", module_path)
            .field("class_name", class_name)
            .field("digest", digest)
            .field("config", &config)
            .field("secrets", secrets)
            .field("allow", allow)
            .field("ca_file", ca_file)
            .field("limits", limits)
            .field("breaker", breaker)
            .field("lanes", lanes)
            .finish()
    }
}

impl BackendConfig {
    /// Makes a backend without grants and with default limits.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        module_path: impl Into<PathBuf>,
        class_name: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            module_path: module_path.into(),
            class_name: class_name.into(),
            digest: None,
            config: Vec::new(),
            secrets: Vec::new(),
            allow: Grants::default(),
            ca_file: None,
            limits: BackendLimits::default(),
            breaker: BreakerConfig::default(),
            lanes: limits::BACKEND_LANES.default as usize,
        }
    }
}

impl BackendConfig {
    /// Returns what may be a secret although nobody said so: values of `config.*` and of granted variables whose name
    /// sounds like one, and the user parts of URLs. Numbers and words such as `true` are left out, because a log is full
    /// of them.
    pub(crate) fn unnamed_secrets(&self) -> Vec<String> {
        let variables = self.allow.env.iter().filter_map(|grant| match grant {
            EnvGrant::Set { name, value } => Some((name.clone(), value.clone())),
            EnvGrant::Inherit(name) => Some((name.clone(), std::env::var(name).ok()?)),
        });
        let mut found = Vec::new();
        for (name, value) in self.config.iter().cloned().chain(variables) {
            found.extend(user_parts(&value).into_iter().map(str::to_owned));
            if sounds_secret(&name) && whole(&value).is_none() && boolean(&value).is_none() {
                found.push(value);
            }
        }
        found
    }
}

/// Bounds what one backend may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendLimits {
    /// Linear memory of one instance, all its memories together, in bytes.
    pub memory_bytes: u64,
    /// Time of one call, before what its bytes add.
    pub call_timeout: Duration,
    /// Slowest accepted transfer, in bytes a second; lengthens the time of calls that move bytes.
    pub min_bytes_per_s: u64,
    /// Time of `open`.
    pub open_timeout: Duration,
    /// Time of `close`.
    pub close_timeout: Duration,
    /// How long a lane may make no progress before it is replaced.
    pub lane_stall: Duration,
    /// How many expired calls may be inside a lane before it is replaced.
    pub abandoned_calls_max: usize,
    /// How many calls may be inside a lane.
    pub calls_in_flight_max: usize,
    /// How many chunks one call may carry.
    pub batch_chunks_max: usize,
    /// How many elements the tables of one instance may have, all together.
    pub table_elements: usize,
    /// How many handles of each kind one instance may hold, beside those of its calls.
    pub handles_max: usize,
    /// How many bytes one call of a host function, or one answer, may carry.
    pub hostcall_bytes: u64,
    /// How many random bytes one call may ask for.
    pub random_bytes: u64,
    /// How many lines a second may be logged, over all lanes.
    pub log_lines_per_s: u64,
    /// How many bytes a second may be logged, over all lanes.
    pub log_bytes_per_s: u64,
    /// How many bytes puts and gets may have under way; one call is always allowed.
    pub bytes_in_flight: u64,
    /// How many files, directories and sockets one instance may have open.
    pub open_files_max: usize,
    /// How many operations on files may be pending, over all lanes.
    pub file_operations_max: usize,
    /// How many bytes of paths and of what is written may wait in them.
    pub file_names_bytes: u64,
    /// Time to resolve a name and connect, for HTTP and for sockets of WASI 0.3.
    pub connect_timeout: Duration,
    /// Time of one TLS handshake.
    pub tls_timeout: Duration,
    /// How long an HTTP request may wait for its turn, and then go without a byte in either direction.
    pub request_timeout: Duration,
    /// How many HTTP requests may be under way, over all lanes.
    pub http_requests_max: usize,
    /// Size of the component's file, in bytes.
    pub component_bytes: u64,
}

impl Default for BackendLimits {
    fn default() -> Self {
        Self {
            memory_bytes: limits::BACKEND_MEMORY_BYTES.default,
            call_timeout: limits::BACKEND_CALL_TIMEOUT_MS.default_ms(),
            min_bytes_per_s: limits::BACKEND_MIN_BYTES_PER_S.default,
            open_timeout: limits::BACKEND_OPEN_TIMEOUT_MS.default_ms(),
            close_timeout: limits::BACKEND_CLOSE_TIMEOUT_MS.default_ms(),
            lane_stall: limits::BACKEND_LANE_STALL_MS.default_ms(),
            abandoned_calls_max: limits::BACKEND_ABANDONED_CALLS_MAX.default as usize,
            calls_in_flight_max: limits::BACKEND_CALLS_IN_FLIGHT_MAX.default as usize,
            batch_chunks_max: limits::BACKEND_BATCH_CHUNKS_MAX.default as usize,
            table_elements: limits::BACKEND_TABLE_ELEMENTS.default as usize,
            handles_max: limits::BACKEND_HANDLES_MAX.default as usize,
            hostcall_bytes: limits::BACKEND_HOSTCALL_BYTES.default,
            random_bytes: limits::BACKEND_RANDOM_BYTES.default,
            log_lines_per_s: limits::BACKEND_LOG_LINES_PER_S.default,
            log_bytes_per_s: limits::BACKEND_LOG_BYTES_PER_S.default,
            bytes_in_flight: limits::BACKEND_BYTES_IN_FLIGHT.default,
            open_files_max: limits::BACKEND_OPEN_FILES_MAX.default as usize,
            file_operations_max: limits::BACKEND_FILE_OPERATIONS_MAX.default as usize,
            file_names_bytes: limits::BACKEND_FILE_NAMES_BYTES.default,
            connect_timeout: limits::BACKEND_CONNECT_TIMEOUT_MS.default_ms(),
            tls_timeout: limits::BACKEND_TLS_TIMEOUT_MS.default_ms(),
            request_timeout: limits::BACKEND_REQUEST_TIMEOUT_MS.default_ms(),
            http_requests_max: limits::BACKEND_HTTP_REQUESTS_MAX.default as usize,
            component_bytes: limits::BACKEND_COMPONENT_BYTES.default,
        }
    }
}

/// When a backend is passed over because it fails, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// How many of the last `window` calls must have failed; 0 means never.
    pub failures: usize,
    /// How many calls are looked back on.
    pub window: usize,
    /// The first pause. It doubles whenever the call after it fails.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: limits::BREAKER_FAILURES.default as usize,
            window: limits::BREAKER_WINDOW.default as usize,
            pause: limits::BREAKER_PAUSE_MS.default_ms(),
            pause_max: limits::BREAKER_PAUSE_MAX_MS.default_ms(),
        }
    }
}

impl BackendLimits {
    /// Returns the time limit of a call that moves `bytes`: `call_timeout` plus the time that they take at
    /// `min_bytes_per_s`.
    #[must_use]
    pub fn call_timeout_for(&self, bytes: u64) -> Duration {
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.min_bytes_per_s.max(1));
        let transfer = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        self.call_timeout.saturating_add(transfer)
    }
}

/// Tells whether a text may name a class: a class name in any case style, or `ns:pkg/interface@version`
/// and resource. Whether the component exports it is found out when the backend is loaded.
pub(in crate::config) fn is_class_name(name: &str) -> bool {
    (1..=limits::CLASS_NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'-' | b'_' | b':' | b'/' | b'@' | b'.' | b'+' | b'#')
        })
}
