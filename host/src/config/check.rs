//! Checks of typed settings, for configurations that were read and those made in code alike.

use std::collections::HashSet;
use std::time::Duration;

use super::backend::grants::EnvGrant;
use super::backend::placeholder::check_placeholders;
use super::backend::{BackendConfig, BackendLimits, BreakerConfig, is_class_name};
use super::error::{ConfigError, ConfigProblem, Origin};
use super::format::{Node, shorten};
use super::{Config, keys};
use crate::limits::{self, Bound};

impl Config {
    /// Checks a configuration made in code: the ranges of all settings, and the backends. Those that were
    /// read from a text are checked already.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let origin = &Origin::Code;
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        for (key, value, bound) in [
            ("chunk_size", self.chunk_size as u64, limits::CHUNK_SIZE_TOKENS),
            // 0 is as much as one retrieval needs.
            ("pool_size_bytes", self.pool_size_bytes, Bound { min: 0, ..limits::POOL_SIZE_BYTES }),
            ("lookup_timeout_ms", ms(self.lookup_timeout), limits::LOOKUP_TIMEOUT_MS),
            ("blocking_timeout_secs", self.blocking_timeout.as_secs(), limits::BLOCKING_TIMEOUT_SECS),
            ("pin_timeout_sec", self.pin_timeout.as_secs(), limits::PIN_TIMEOUT_SECS),
            ("kvtier.lane_threads", self.lane_threads as u64, limits::LANE_THREADS),
            ("kvtier.close_timeout_ms", ms(self.close_timeout), limits::CLOSE_TIMEOUT_MS),
            ("kvtier.compile_memory", self.compile_limits.memory_bytes, limits::COMPILE_MEMORY_BYTES),
            ("kvtier.compile_cpu_secs", self.compile_limits.cpu.as_secs(), limits::COMPILE_CPU_SECS),
            ("kvtier.compile_timeout_ms", ms(self.compile_limits.timeout), limits::COMPILE_TIMEOUT_MS),
        ] {
            check_bound(origin, key, value, &bound)?;
        }
        let names: Vec<String> = self.backends.iter().map(|backend| backend.name.clone()).collect();
        check_names(&names, origin, "backends")?;
        self.backends.iter().try_for_each(|backend| backend.check(origin, "backends"))
    }
}

/// Refuses backend names that are malformed, reserved or given twice.
pub(super) fn check_names(names: &[String], origin: &Origin, key: &str) -> Result<(), ConfigError> {
    let key = key.to_owned();
    if names.len() > limits::BACKENDS_MAX {
        return Err(ConfigError::new(
            origin,
            ConfigProblem::TooManyBackends { key, found: names.len(), max: limits::BACKENDS_MAX },
        ));
    }
    let mut seen = HashSet::new();
    for name in names {
        let is_name = (1..=limits::NAME_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let problem = if !is_name {
            ConfigProblem::InvalidName { key, name: shorten(name), chars_max: limits::NAME_CHARS_MAX }
        } else if keys::is_reserved_name(name) {
            ConfigProblem::ReservedName { key, name: name.clone() }
        } else if !seen.insert(name.as_str()) {
            ConfigProblem::DuplicateName { key, name: name.clone() }
        } else {
            continue;
        };
        return Err(ConfigError::new(origin, problem));
    }
    Ok(())
}

impl BackendConfig {
    /// Checks everything about this backend that its types leave open. `section` is where it stands, in
    /// messages.
    pub(super) fn check(&self, origin: &Origin, section: &str) -> Result<(), ConfigError> {
        let refuse = |problem| ConfigError::new(origin, problem);
        let key = |key: &str| format!("{section}.{}.{key}", self.name);
        if self.module_path.as_os_str().is_empty() {
            return Err(refuse(ConfigProblem::WrongValue {
                key: key("module_path"),
                expected: "the path of a .wasm file".to_owned(),
                found: "an empty path".to_owned(),
            }));
        }
        if !is_class_name(&self.class_name) {
            return Err(refuse(ConfigProblem::WrongValue {
                key: key("class_name"),
                expected: "the name of a class".to_owned(),
                found: Node::Text(self.class_name.clone()).describe(),
            }));
        }
        let mut seen = HashSet::new();
        let names = self.config.iter().map(|(name, _)| name);
        for name in names.chain(self.secrets.iter().map(|(name, _)| name)) {
            if !seen.insert(name.as_str()) {
                // `config.` and `secrets.` go to the constructor as one list.
                return Err(refuse(ConfigProblem::Repeated {
                    key: key("config"),
                    what: format!("the constructor's key `{name}`"),
                }));
            }
        }
        for (name, value) in &self.config {
            check_placeholders(value).map_err(|(found, near)| {
                refuse(ConfigProblem::Placeholder { key: key(&format!("config.{name}")), found, near })
            })?;
        }
        for grant in &self.allow.fs {
            check_placeholders(&grant.host_dir.to_string_lossy()).map_err(|(found, near)| {
                refuse(ConfigProblem::Placeholder { key: key("allow.fs"), found, near })
            })?;
        }
        refuse_repeated(self.allow.fs.iter().map(|grant| grant.guest_path.as_str()))
            .map_err(|path| (key("allow.fs"), format!("the guest path `{path}`")))
            .and_then(|()| {
                refuse_repeated(self.allow.env.iter().map(EnvGrant::name))
                    .map_err(|name| (key("allow.env"), format!("the variable `{name}`")))
            })
            .map_err(|(key, what)| refuse(ConfigProblem::Repeated { key, what }))?;
        check_bound(origin, &key("lanes"), self.lanes as u64, &limits::BACKEND_LANES)?;
        self.limits.check(origin, key)?;
        self.breaker.check(origin, key)
    }
}

fn refuse_repeated<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), &'a str> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(name);
        }
    }
    Ok(())
}

impl BackendLimits {
    /// Lists the limits: name below `limits.`, value, and what it is and may be.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, u64, Bound)> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        vec![
            ("memory", self.memory_bytes, limits::BACKEND_MEMORY_BYTES),
            ("call_timeout_ms", ms(self.call_timeout), limits::BACKEND_CALL_TIMEOUT_MS),
            ("min_bytes_per_s", self.min_bytes_per_s, limits::BACKEND_MIN_BYTES_PER_S),
            ("open_timeout_ms", ms(self.open_timeout), limits::BACKEND_OPEN_TIMEOUT_MS),
            ("close_timeout_ms", ms(self.close_timeout), limits::BACKEND_CLOSE_TIMEOUT_MS),
            ("lane_stall_ms", ms(self.lane_stall), limits::BACKEND_LANE_STALL_MS),
            ("abandoned_calls_max", self.abandoned_calls_max as u64, limits::BACKEND_ABANDONED_CALLS_MAX),
            ("calls_in_flight_max", self.calls_in_flight_max as u64, limits::BACKEND_CALLS_IN_FLIGHT_MAX),
            ("batch_chunks_max", self.batch_chunks_max as u64, limits::BACKEND_BATCH_CHUNKS_MAX),
            ("table_elements", self.table_elements as u64, limits::BACKEND_TABLE_ELEMENTS),
            ("handles_max", self.handles_max as u64, limits::BACKEND_HANDLES_MAX),
            ("hostcall_bytes", self.hostcall_bytes, limits::BACKEND_HOSTCALL_BYTES),
            ("random_bytes", self.random_bytes, limits::BACKEND_RANDOM_BYTES),
            ("log_lines_per_s", self.log_lines_per_s, limits::BACKEND_LOG_LINES_PER_S),
            ("log_bytes_per_s", self.log_bytes_per_s, limits::BACKEND_LOG_BYTES_PER_S),
            ("bytes_in_flight", self.bytes_in_flight, limits::BACKEND_BYTES_IN_FLIGHT),
            ("open_files_max", self.open_files_max as u64, limits::BACKEND_OPEN_FILES_MAX),
            ("file_operations_max", self.file_operations_max as u64, limits::BACKEND_FILE_OPERATIONS_MAX),
            ("file_names_bytes", self.file_names_bytes, limits::BACKEND_FILE_NAMES_BYTES),
            ("connect_timeout_ms", ms(self.connect_timeout), limits::BACKEND_CONNECT_TIMEOUT_MS),
            ("tls_timeout_ms", ms(self.tls_timeout), limits::BACKEND_TLS_TIMEOUT_MS),
            ("request_timeout_ms", ms(self.request_timeout), limits::BACKEND_REQUEST_TIMEOUT_MS),
            ("http_requests_max", self.http_requests_max as u64, limits::BACKEND_HTTP_REQUESTS_MAX),
            ("component_bytes", self.component_bytes, limits::BACKEND_COMPONENT_BYTES),
        ]
    }

    fn check(&self, origin: &Origin, key: impl Fn(&str) -> String) -> Result<(), ConfigError> {
        for (name, value, bound) in self.settings() {
            check_bound(origin, &key(&format!("limits.{name}")), value, &bound)?;
        }
        Ok(())
    }
}

impl BreakerConfig {
    fn check(&self, origin: &Origin, key: impl Fn(&str) -> String) -> Result<(), ConfigError> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let at_most = |bound: Bound, max: u64| Bound { max: bound.max.min(max), ..bound };
        // More failures than calls would never open it, and pauses cannot shrink.
        for (name, value, bound) in [
            ("window", self.window as u64, limits::BREAKER_WINDOW),
            ("failures", self.failures as u64, at_most(limits::BREAKER_FAILURES, self.window as u64)),
            ("pause_max_ms", ms(self.pause_max), limits::BREAKER_PAUSE_MAX_MS),
            ("pause_ms", ms(self.pause), at_most(limits::BREAKER_PAUSE_MS, ms(self.pause_max))),
        ] {
            check_bound(origin, &key(&format!("breaker.{name}")), value, &bound)?;
        }
        Ok(())
    }
}

/// Refuses a typed value outside its bound.
fn check_bound(origin: &Origin, key: &str, value: u64, bound: &Bound) -> Result<(), ConfigError> {
    if bound.contains(value) {
        return Ok(());
    }
    Err(ConfigError::new(
        origin,
        ConfigProblem::OutOfRange {
            key: key.to_owned(),
            found: value.to_string(),
            min: bound.min.to_string(),
            max: bound.max.to_string(),
        },
    ))
}
