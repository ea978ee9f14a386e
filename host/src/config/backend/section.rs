//! Reads one backend's section of `extra_config`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::grants::{ENV_FORM, EnvGrant, FS_FORM, FsGrant, NET_FORM, NetGrant};
use super::{BackendConfig, BackendLimits, BreakerConfig, is_class_name};
use crate::config::digest::Sha256Digest;
use crate::config::error::{ConfigError, ConfigProblem, Origin};
use crate::config::format::Node;
use crate::config::hide::is_surely_secret;
use crate::config::keys;
use crate::config::messages::Messages;
use crate::config::raw::RawSetting;
use crate::config::secret::SecretSource;
use crate::config::suggest::similar_to;
use crate::limits;

/// The entries of one backend's section, with keys relative to it.
#[derive(Debug, Default)]
pub(in crate::config) struct BackendSection {
    entries: Vec<(String, RawSetting)>,
    index_by_key: HashMap<String, usize>,
}

/// Names what a required key lacks, for [`BackendSection::parse`].
pub(in crate::config) struct Listed<'a> {
    pub(in crate::config) name: &'a str,
    /// The spelling of the section that goes with the list's spelling.
    pub(in crate::config) section: &'static str,
    pub(in crate::config) origin: &'a Origin,
    /// Sections of names that are not listed.
    pub(in crate::config) unlisted: &'a BTreeMap<String, BackendSection>,
}

impl BackendSection {
    /// Adds an entry. The two spellings of one key may both be given if they agree.
    pub(in crate::config) fn add(&mut self, key: String, entry: RawSetting) -> Result<(), ConfigError> {
        let first = self.index_by_key.get(&key).map(|index| &self.entries[*index].1);
        match first {
            None => {
                self.index_by_key.insert(key.clone(), self.entries.len());
                self.entries.push((key, entry));
            }
            Some(first) if first.value == entry.value => {}
            Some(first) => {
                return Err(entry.refuse(ConfigProblem::Conflict {
                    first: first.key.clone(),
                    second: entry.key.clone(),
                }));
            }
        }
        Ok(())
    }

    /// Reads the section of a listed backend.
    pub(in crate::config) fn parse(
        self,
        listed: &Listed<'_>,
        base_dir: &Path,
        warnings: &mut Messages,
    ) -> Result<BackendConfig, ConfigError> {
        let mut backend = BackendConfig::new(listed.name, PathBuf::new(), "");
        for (key, entry) in &self.entries {
            backend.read(key, entry, base_dir)?;
            if let Some(name) = key.strip_prefix("config.").filter(|name| is_surely_secret(name)) {
                warnings.push("secrets that stand in the configuration", || {
                    let prefix = entry.key.strip_suffix(key.as_str()).unwrap_or_default();
                    format!(
                        "{}: `{}` sounds like a secret; take it out of the file and give `{prefix}secrets.{name}: \
                         env:NAME` or `file:PATH`",
                        entry.origin, entry.key
                    )
                });
            }
        }
        for (key, is_missing) in [
            ("module_path", backend.module_path.as_os_str().is_empty()),
            ("class_name", backend.class_name.is_empty()),
        ] {
            if is_missing {
                let place = match similar_to(listed.name, listed.unlisted.keys().map(String::as_str)) {
                    Some(other) => {
                        format!("under `extra_config` (keys are given for `{other}`, which is not listed) ")
                    }
                    None => "under `extra_config` ".to_owned(),
                };
                return Err(ConfigError::new(
                    listed.origin,
                    ConfigProblem::MissingKey {
                        backend: listed.name.to_owned(),
                        key: format!("{}.{}.{key}", listed.section, listed.name),
                        place,
                    },
                ));
            }
        }
        // The first entry stands for all: a section is seldom spread over a file and a variable.
        let origin = self.entries.first().map_or(listed.origin, |(_, entry)| &entry.origin);
        backend.check(origin, listed.section)?;
        Ok(backend)
    }
}

impl BackendConfig {
    fn read(&mut self, key: &str, entry: &RawSetting, base_dir: &Path) -> Result<(), ConfigError> {
        match key {
            key if keys::backend_may_be_blank(key) && entry.value.is_blank() => {}
            "module_path" => self.module_path = base_dir.join(module_path(entry)?),
            "class_name" => self.class_name = class_name(entry)?,
            "digest" => {
                let expected = "`sha256:` followed by 64 hexadecimal digits";
                let digest = Sha256Digest::parse(entry.text(expected)?);
                self.digest = Some(digest.ok_or_else(|| entry.wrong(expected))?);
            }
            "lanes" => self.lanes = entry.count(&limits::BACKEND_LANES)?,
            "allow.fs" => {
                self.allow.fs = grants(entry, FS_FORM, true, |text| FsGrant::parse(text, base_dir))?;
            }
            "allow.net" => self.allow.net = grants(entry, NET_FORM, true, NetGrant::parse)?,
            "allow.env" => self.allow.env = grants(entry, ENV_FORM, false, EnvGrant::parse)?,
            "tls.ca_file" => {
                let path = entry.text("the path of a file of certificates (PEM)")?;
                self.ca_file = Some(base_dir.join(path));
            }
            _ => return self.read_group(key, entry, base_dir),
        }
        Ok(())
    }

    fn read_group(&mut self, key: &str, entry: &RawSetting, base_dir: &Path) -> Result<(), ConfigError> {
        match key.split_once('.') {
            Some(("config", key)) => self.config.push((key.to_owned(), entry.scalar_text()?)),
            Some(("secrets", key)) => {
                let source = match &entry.value {
                    Node::Text(text) => SecretSource::parse_with_optional(text, base_dir),
                    _ => None,
                };
                let source = source.ok_or_else(|| entry.wrong_hidden(SECRET_FORM))?;
                self.secrets.push((key.to_owned(), source));
            }
            Some(("limits", limit)) => return self.limits.read(limit, entry),
            Some(("breaker", key)) => return self.breaker.read(key, entry),
            None if key.is_empty() || keys::BACKEND_GROUPS.contains(&key) => {
                if entry.value != Node::Null {
                    return Err(entry.wrong_hidden("a mapping of keys to values"));
                }
            }
            _ => return Err(unknown_key(entry, key)),
        }
        Ok(())
    }
}

impl BackendLimits {
    fn read(&mut self, limit: &str, entry: &RawSetting) -> Result<(), ConfigError> {
        match limit {
            "memory" => self.memory_bytes = entry.size_bytes(&limits::BACKEND_MEMORY_BYTES)?,
            "call_timeout_ms" => {
                self.call_timeout = entry.millis(&limits::BACKEND_CALL_TIMEOUT_MS)?;
            }
            "min_bytes_per_s" => {
                self.min_bytes_per_s = entry.size_bytes(&limits::BACKEND_MIN_BYTES_PER_S)?;
            }
            "open_timeout_ms" => {
                self.open_timeout = entry.millis(&limits::BACKEND_OPEN_TIMEOUT_MS)?;
            }
            "close_timeout_ms" => {
                self.close_timeout = entry.millis(&limits::BACKEND_CLOSE_TIMEOUT_MS)?;
            }
            "lane_stall_ms" => self.lane_stall = entry.millis(&limits::BACKEND_LANE_STALL_MS)?,
            "abandoned_calls_max" => {
                self.abandoned_calls_max = entry.count(&limits::BACKEND_ABANDONED_CALLS_MAX)?;
            }
            "calls_in_flight_max" => {
                self.calls_in_flight_max = entry.count(&limits::BACKEND_CALLS_IN_FLIGHT_MAX)?;
            }
            "batch_chunks_max" => {
                self.batch_chunks_max = entry.count(&limits::BACKEND_BATCH_CHUNKS_MAX)?;
            }
            "table_elements" => self.table_elements = entry.count(&limits::BACKEND_TABLE_ELEMENTS)?,
            "handles_max" => self.handles_max = entry.count(&limits::BACKEND_HANDLES_MAX)?,
            "hostcall_bytes" => self.hostcall_bytes = entry.size_bytes(&limits::BACKEND_HOSTCALL_BYTES)?,
            "random_bytes" => self.random_bytes = entry.size_bytes(&limits::BACKEND_RANDOM_BYTES)?,
            "log_lines_per_s" => self.log_lines_per_s = entry.whole(&limits::BACKEND_LOG_LINES_PER_S)?,
            "log_bytes_per_s" => self.log_bytes_per_s = entry.size_bytes(&limits::BACKEND_LOG_BYTES_PER_S)?,
            "bytes_in_flight" => self.bytes_in_flight = entry.size_bytes(&limits::BACKEND_BYTES_IN_FLIGHT)?,
            "open_files_max" => self.open_files_max = entry.count(&limits::BACKEND_OPEN_FILES_MAX)?,
            "file_operations_max" => {
                self.file_operations_max = entry.count(&limits::BACKEND_FILE_OPERATIONS_MAX)?;
            }
            "file_names_bytes" => {
                self.file_names_bytes = entry.size_bytes(&limits::BACKEND_FILE_NAMES_BYTES)?;
            }
            "connect_timeout_ms" => {
                self.connect_timeout = entry.millis(&limits::BACKEND_CONNECT_TIMEOUT_MS)?;
            }
            "tls_timeout_ms" => self.tls_timeout = entry.millis(&limits::BACKEND_TLS_TIMEOUT_MS)?,
            "request_timeout_ms" => {
                self.request_timeout = entry.millis(&limits::BACKEND_REQUEST_TIMEOUT_MS)?;
            }
            "http_requests_max" => {
                self.http_requests_max = entry.count(&limits::BACKEND_HTTP_REQUESTS_MAX)?;
            }
            "component_bytes" => self.component_bytes = entry.size_bytes(&limits::BACKEND_COMPONENT_BYTES)?,
            _ => return Err(unknown_key(entry, &format!("limits.{limit}"))),
        }
        Ok(())
    }
}

impl BreakerConfig {
    fn read(&mut self, key: &str, entry: &RawSetting) -> Result<(), ConfigError> {
        match key {
            "failures" => self.failures = entry.count(&limits::BREAKER_FAILURES)?,
            "window" => self.window = entry.count(&limits::BREAKER_WINDOW)?,
            "pause_ms" => self.pause = entry.millis(&limits::BREAKER_PAUSE_MS)?,
            "pause_max_ms" => self.pause_max = entry.millis(&limits::BREAKER_PAUSE_MAX_MS)?,
            _ => return Err(unknown_key(entry, &format!("breaker.{key}"))),
        }
        Ok(())
    }
}

/// Form of a secret's source, for error messages.
pub(in crate::config) const SECRET_FORM: &str =
    "`env:NAME` or `file:PATH` (a secret never stands in the configuration itself)";

/// Says that a backend's section has no such key, with the nearest that it has.
fn unknown_key(entry: &RawSetting, key: &str) -> ConfigError {
    let known = || keys::BACKEND.into_iter().chain(keys::BACKEND_FREE_GROUPS);
    let group = key.split('.').next().unwrap_or_default();
    let full = |path: &str| {
        let prefix = entry.key.strip_suffix(key).unwrap_or_default();
        format!("did you mean `{prefix}{path}`?")
    };
    let advice = if let Some(near) = similar_to(key, known()) {
        full(near)
    } else if let Some(near) = similar_to(group, keys::BACKEND_GROUPS).filter(|near| *near != group) {
        full(&format!("{near}{}", &key[group.len()..]))
    } else {
        let keys: Vec<&str> = keys::BACKEND.to_vec();
        format!(
            "a backend has {}, config.* and secrets.*; keys for the class itself stand under `config.`",
            keys.join(", ")
        )
    };
    entry.refuse(ConfigProblem::UnknownKey { key: entry.key.clone(), advice })
}

fn class_name(entry: &RawSetting) -> Result<String, ConfigError> {
    let expected = "the name of a class, such as ExternalLogBackend";
    let name = entry.text(expected)?;
    if is_class_name(name) { Ok(name.to_owned()) } else { Err(entry.wrong(expected)) }
}

fn module_path(entry: &RawSetting) -> Result<&str, ConfigError> {
    let path = entry.text("the path of a .wasm file, as text")?;
    match python_module_example(path) {
        None => Ok(path),
        Some(example) => Err(entry.refuse(ConfigProblem::PythonModule {
            key: entry.key.clone(),
            found: path.to_owned(),
            example,
        })),
    }
}

/// If `path` reads as a Python module (`pkg.module`, `module.py`), returns a path to give instead.
fn python_module_example(path: &str) -> Option<String> {
    let is_identifier = |part: &str| {
        !part.starts_with(|c: char| c.is_ascii_digit())
            && !part.is_empty()
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let parts: Vec<&str> = path.split('.').collect();
    let is_wasm = parts.len() > 1 && parts.last().is_some_and(|end| end.eq_ignore_ascii_case("wasm"));
    if is_wasm || !parts.iter().all(|part| is_identifier(part)) {
        return None;
    }
    let ([.., module, "py"] | [.., module]) = parts.as_slice() else {
        return None;
    };
    Some(format!("backends/{module}.wasm"))
}

fn grants<T: PartialEq>(
    entry: &RawSetting,
    form: &str,
    show_value: bool,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ConfigError> {
    let mut grants = Vec::new();
    for item in entry.items(form)? {
        let Some(grant) = parse(&item) else {
            return Err(if show_value {
                entry.wrong_found(form, Node::Text(item).describe())
            } else {
                entry.wrong_hidden(form)
            });
        };
        grants.push(grant);
    }
    Ok(grants)
}
