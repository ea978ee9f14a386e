//! Inputs of a backend from outside its configuration, which may change while it runs: secrets in files, and the
//! addresses of names.
//!
//! Both are read when the backend is loaded, and again when a breaker opens or a start fails, at most once per pause,
//! on a thread that may block and runs no guest. New addresses replace all old ones, also for running instances. An
//! instance keeps the secrets that it was made with; when they change, a new instance is made.
//!
//! Invariant: an input that cannot be read, or does not pass the rules of loading, changes nothing. No value is logged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Secrets;
use super::network::{NetError, NetPolicy, Resolver};
use crate::config::{BackendConfig, NetGrant, NetHost, SecretError, SecretSource};
use crate::sync::lock;
use crate::tier::Liveness;

/// Why a secret or a name cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// A secret that the configuration names.
    #[error("secrets.{key}: {source}")]
    Secret {
        /// The key of the configuration.
        key: String,
        /// Why it is not available.
        source: SecretError,
    },
    /// A secret that is not text.
    #[error("secrets.{0} is not UTF-8 text, and constructors take text")]
    SecretNotText(String),
    /// A host name in `allow.net`.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// The inputs of one instance.
pub(in crate::wasm) struct InstanceInputs {
    /// `config.*` and `secrets.*`, resolved.
    pub(in crate::wasm) settings: Vec<(String, String)>,
    pub(in crate::wasm) secrets: Secrets,
    /// In the order of their sources; `None` where an optional one is missing.
    texts: Vec<Option<String>>,
}

impl InstanceInputs {
    fn new(config: &BackendConfig, texts: Vec<Option<String>>) -> Self {
        let mut settings = config.config.clone();
        let keys = config.secrets.iter().map(|(key, _)| key);
        settings.extend(keys.zip(&texts).filter_map(|(key, text)| Some((key.clone(), text.clone()?))));
        let unnamed = config.unnamed_secrets();
        let secrets = texts.iter().flatten().chain(&unnamed).map(String::as_str).collect();
        Self { settings, secrets, texts }
    }
}

/// The inputs of a backend, read again when there is a reason.
pub(in crate::wasm) struct ExternalInputs {
    config: BackendConfig,
    pub(in crate::wasm) net: NetPolicy,
    resolver: Resolver,
    given: watch::Sender<Arc<InstanceInputs>>,
    hears: Arc<dyn Liveness>,
    /// The threads on which they are read.
    on: Handle,
    is_reading: AtomicBool,
    /// The inputs are not read again before this time.
    not_before: Mutex<Option<Instant>>,
    /// The last failures to read, by what could not be read.
    complaints: Mutex<Vec<String>>,
}

impl ExternalInputs {
    /// Reads the secrets and resolves the names.
    ///
    /// # Errors
    /// [`ExternalError`].
    pub(in crate::wasm) fn new(
        config: &BackendConfig,
        hears: Arc<dyn Liveness>,
        on: Handle,
        resolver: Resolver,
    ) -> Result<Arc<Self>, ExternalError> {
        let texts = config.secrets.iter().map(|(key, source)| read(key, source)).collect::<Result<_, _>>()?;
        let net = NetPolicy::resolve(&config.allow.net, &*resolver)?;
        Ok(Arc::new(Self {
            config: config.clone(),
            net,
            resolver,
            given: watch::Sender::new(Arc::new(InstanceInputs::new(config, texts))),
            hears,
            on,
            is_reading: AtomicBool::new(false),
            not_before: Mutex::default(),
            complaints: Mutex::default(),
        }))
    }

    /// Returns the inputs for an instance that is made now.
    pub(in crate::wasm) fn given(&self) -> Arc<InstanceInputs> {
        Arc::clone(&self.given.borrow())
    }

    /// Returns a receiver of changes after this moment.
    pub(in crate::wasm) fn changes(&self) -> watch::Receiver<Arc<InstanceInputs>> {
        self.given.subscribe()
    }

    /// Reads the inputs again in the background, unless that is under way or was done within the pause. The backend
    /// does not serve for `pause`.
    pub(in crate::wasm) fn read_again_later(self: &Arc<Self>, pause: Duration) {
        if !self.may_change() {
            return;
        }
        {
            let mut not_before = lock(&self.not_before);
            let now = Instant::now();
            if not_before.is_some_and(|time| now < time) || self.is_reading.swap(true, Ordering::AcqRel) {
                return;
            }
            // A failure after the pause may come a little early, by another clock.
            *not_before = Some(now + pause.mul_f64(0.9));
        }
        let reading = Reading(Arc::clone(self));
        self.on.spawn_blocking(move || reading.0.read_again());
    }

    fn may_change(&self) -> bool {
        let is_name = |grant: &NetGrant| match grant {
            NetGrant::Tcp { host, .. } | NetGrant::Http { host, .. } => matches!(host, NetHost::Name(_)),
        };
        self.config.secrets.iter().any(|(_, source)| source.is_file())
            || self.config.allow.net.iter().any(is_name)
    }

    fn read_again(&self) {
        let backend = self.config.name.as_str();
        let mut complaints = Vec::new();
        match self.net.resolve_again(&self.config.allow.net, &*self.resolver) {
            Ok(moved) if moved.is_empty() => {}
            Ok(moved) => {
                let names = moved.join(", ");
                tracing::info!(
                    backend,
                    names,
                    "names lead elsewhere; the new addresses are used from here on"
                );
            }
            Err(error) => complaints.push(format!("the addresses stay as they are: {error}")),
        }
        let old = self.given();
        let mut changed = Vec::new();
        let mut texts = old.texts.clone();
        for ((key, source), text) in self.config.secrets.iter().zip(&mut texts) {
            match source.is_file().then(|| read(key, source)) {
                Some(Ok(new)) if new != *text => {
                    changed.push(format!("secrets.{key}"));
                    *text = new;
                }
                Some(Err(error)) => complaints.push(format!("a secret stays as it is: {error}")),
                Some(Ok(_)) | None => {}
            }
        }
        self.complain(complaints);
        if !changed.is_empty() {
            let changed = changed.join(", ");
            tracing::info!(backend, changed, "secrets have changed; a new instance is made with them");
            // Logged first: the calls that end with the old instance then do not look like failures of the new one.
            self.hears.renewed();
            self.given.send_replace(Arc::new(InstanceInputs::new(&self.config, texts)));
        }
    }

    /// Logs the inputs that could not be read, unless the same ones were logged before.
    fn complain(&self, complaints: Vec<String>) {
        let backend = self.config.name.as_str();
        let mut last = lock(&self.complaints);
        for complaint in complaints.iter().filter(|complaint| !last.contains(complaint)) {
            tracing::warn!(backend, "{complaint}");
        }
        *last = complaints;
    }
}

/// Marks the end of a reading, also if it never ran.
struct Reading(Arc<ExternalInputs>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.is_reading.store(false, Ordering::Release);
    }
}

fn read(key: &str, source: &SecretSource) -> Result<Option<String>, ExternalError> {
    let secret = source.read().map_err(|source| ExternalError::Secret { key: key.to_owned(), source })?;
    let text = |secret: &crate::config::Secret| {
        secret.expose_text().map(str::to_owned).ok_or_else(|| ExternalError::SecretNotText(key.to_owned()))
    };
    secret.as_ref().map(text).transpose()
}

#[cfg(test)]
mod tests;
