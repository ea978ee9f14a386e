//! Turns flat entries into a [`Config`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::backend::section::{BackendSection, Listed, SECRET_FORM};
use super::check::check_names;
use super::error::{ConfigError, ConfigProblem, Origin};
use super::format::{Node, shorten};
use super::messages::Messages;
use super::raw::{Environment, RawConfig, RawSetting};
use super::secret::{Secret, SecretError, SecretSource};
use super::suggest::similar_to;
use super::{CompileCache, CompilePolicy, Compiler, Config, OnFull, OnLoadError, keys};
use crate::cpu::EvictionPolicy;
use crate::limits;
use crate::memory::HugePages;

impl Config {
    pub(super) fn parse(
        text: &str,
        origin: &Origin,
        base_dir: &Path,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let mut raw = RawConfig::read(text, origin, environment)?;
        let mut config = Self::default();
        config.read_top_level(&mut raw)?;
        let list = BackendList::read(&mut raw, origin)?;
        let mut sections = BTreeMap::<String, BackendSection>::new();
        for entry in raw.sections {
            match entry.key.split_once('.') {
                Some((keys::KVTIER_SECTION, key)) => {
                    config.read_kvtier(key, &entry, base_dir, environment)?;
                }
                Some((_, backend)) => {
                    let (name, key) = backend.split_once('.').unwrap_or((backend, ""));
                    let (name, key) = (name.to_owned(), key.to_owned());
                    sections.entry(name).or_default().add(key, entry)?;
                }
                None => return Err(entry.wrong_hidden("a mapping of keys to values")),
            }
        }
        config.read_backends(&list, sections, base_dir, &mut raw.warnings)?;
        config.notes = raw.notes.finish();
        config.warnings = raw.warnings.finish();
        Ok(config)
    }

    fn read_top_level(&mut self, raw: &mut RawConfig) -> Result<(), ConfigError> {
        if let Some(entry) = raw.take("chunk_size") {
            self.chunk_size = entry.count(&limits::CHUNK_SIZE_TOKENS)?;
        }
        if let Some(entry) = raw.take("local_cpu") {
            self.local_cpu = entry.boolean()?;
        }
        if let Some(entry) = raw.take("max_local_cpu_size") {
            self.pool_size_bytes = entry.gib_as_bytes(&limits::POOL_SIZE_BYTES)?;
            if self.pool_size_bytes == 0 {
                raw.warnings.push("settings", || {
                    format!(
                        "{}: `{}` is 0: the CPU tier keeps no chunks, and the buffer pool has only what one retrieval \
                         needs at a time, so that longer prefixes are cut there",
                        entry.origin, entry.key
                    )
                });
            }
        }
        if let Some(entry) = raw.take("cache_policy") {
            self.cache_policy = entry.choice(&EvictionPolicy::ALL.map(|policy| (policy.name(), policy)))?;
        }
        if let Some(entry) = raw.take("save_unfull_chunk") {
            self.save_unfull_chunk = entry.boolean()?;
        }
        if let Some(entry) = raw.take("lookup_timeout_ms") {
            self.lookup_timeout = entry.millis(&limits::LOOKUP_TIMEOUT_MS)?;
        }
        if let Some(entry) = raw.take("blocking_timeout_secs") {
            self.blocking_timeout = entry.secs(&limits::BLOCKING_TIMEOUT_SECS)?;
        }
        if let Some(entry) = raw.take("pin_timeout_sec") {
            self.pin_timeout = entry.secs(&limits::PIN_TIMEOUT_SECS)?;
        }
        if let Some(entry) = raw.skip_save.take().filter(|entry| !entry.value.is_blank()) {
            self.skip_save = entry.boolean()?;
            if self.skip_save {
                raw.warnings.push("settings", || format!("{}: nothing is stored", entry.origin));
            }
        }
        if self.pool_size_bytes == 0 {
            self.local_cpu = false;
        }
        Ok(())
    }

    fn read_kvtier(
        &mut self,
        key: &str,
        entry: &RawSetting,
        base_dir: &Path,
        environment: &Environment,
    ) -> Result<(), ConfigError> {
        match key {
            key if keys::may_be_blank(key) && entry.value.is_blank() => {}
            "on_load_error" => {
                let words = [("continue", OnLoadError::Continue), ("fail", OnLoadError::Fail)];
                self.on_load_error = entry.choice(&words)?;
            }
            "on_full" => {
                self.on_full = entry.choice(&[("drop", OnFull::Drop), ("wait", OnFull::Wait)])?;
            }
            "integrity_key" => {
                self.integrity_key = Some(integrity_key(entry, base_dir, environment)?);
            }
            "compile_cache" => {
                let path = entry.text("the path of a directory, or off")?;
                self.compile_cache = match path {
                    path if path.eq_ignore_ascii_case("off") => CompileCache::Off,
                    path => CompileCache::Directory(base_dir.join(path)),
                };
            }
            "compile" => {
                let words = [("auto", CompilePolicy::Auto), ("cached_only", CompilePolicy::CachedOnly)];
                self.compile = entry.choice(&words)?;
            }
            "compiler" => {
                let path = entry.text("the path of a program, or off")?;
                self.compiler = match path {
                    path if path.eq_ignore_ascii_case("off") => Compiler::Off,
                    path => Compiler::Program(base_dir.join(path)),
                };
            }
            "compile_memory" => {
                self.compile_limits.memory_bytes = entry.size_bytes(&limits::COMPILE_MEMORY_BYTES)?;
            }
            "compile_cpu_secs" => self.compile_limits.cpu = entry.secs(&limits::COMPILE_CPU_SECS)?,
            "compile_timeout_ms" => {
                self.compile_limits.timeout = entry.millis(&limits::COMPILE_TIMEOUT_MS)?;
            }
            // `kvtier: {pool: }`: a group with nothing in it.
            "pool" if entry.value == Node::Null => {}
            "pool.huge_pages" => {
                let all = [HugePages::Off, HugePages::Transparent, HugePages::Explicit];
                self.pool.huge_pages = entry.choice(&all.map(|pages| (pages.name(), pages)))?;
            }
            "pool.mlock" => self.pool.mlock = entry.boolean()?,
            "pool.prefault" => self.pool.prefault = entry.boolean()?,
            "lane_threads" => self.lane_threads = entry.count(&limits::LANE_THREADS)?,
            "close_timeout_ms" => self.close_timeout = entry.millis(&limits::CLOSE_TIMEOUT_MS)?,
            _ => {
                let advice = match similar_to(key, keys::KVTIER) {
                    Some(near) => format!("did you mean `{}.{near}`?", keys::KVTIER_SECTION),
                    None => format!("`kvtier.` has the keys {}", keys::KVTIER.join(", ")),
                };
                return Err(entry.refuse(ConfigProblem::UnknownKey { key: entry.key.clone(), advice }));
            }
        }
        Ok(())
    }

    fn read_backends(
        &mut self,
        list: &BackendList,
        mut sections: BTreeMap<String, BackendSection>,
        base_dir: &Path,
        warnings: &mut Messages,
    ) -> Result<(), ConfigError> {
        check_names(&list.names, &list.origin, list.key)?;
        let mut listed = Vec::new();
        for name in &list.names {
            listed.push((name, sections.remove(name).unwrap_or_default()));
        }
        // What is left has keys but is not in the list.
        for (name, section) in listed {
            let listed = Listed { name, section: list.section, origin: &list.origin, unlisted: &sections };
            self.backends.push(section.parse(&listed, base_dir, warnings)?);
        }
        for name in sections.keys() {
            warnings.push("backends that have keys and are not listed", || {
                format!(
                    "backend `{}` has keys under `extra_config` but is not listed in `{}`; it is not loaded",
                    shorten(name),
                    list.key
                )
            });
        }
        Ok(())
    }
}

/// The listed names, and where the list stands.
struct BackendList {
    names: Vec<String>,
    key: &'static str,
    section: &'static str,
    origin: Origin,
}

impl BackendList {
    fn read(raw: &mut RawConfig, origin: &Origin) -> Result<Self, ConfigError> {
        let mut list: Option<Self> = None;
        for (key, section) in keys::BACKEND_LISTS.into_iter().zip(keys::BACKEND_SECTIONS) {
            let Some(entry) = raw.take(key) else { continue };
            let names = entry.names()?;
            match &list {
                Some(first) if first.names != names => {
                    return Err(entry.refuse(ConfigProblem::Conflict {
                        first: first.key.to_owned(),
                        second: key.to_owned(),
                    }));
                }
                Some(_) => {}
                None => {
                    list = Some(Self { names, key, section, origin: entry.origin });
                }
            }
        }
        Ok(list.unwrap_or_else(|| Self {
            names: Vec::new(),
            key: keys::BACKEND_LISTS[0],
            section: keys::BACKEND_SECTIONS[0],
            origin: origin.clone(),
        }))
    }
}

fn integrity_key(
    entry: &RawSetting,
    base_dir: &Path,
    environment: &Environment,
) -> Result<Secret, ConfigError> {
    let source = match &entry.value {
        Node::Text(text) => SecretSource::parse(text, base_dir),
        _ => None,
    };
    let source = source.ok_or_else(|| entry.wrong_hidden(SECRET_FORM))?;
    let min = limits::INTEGRITY_KEY_BYTES_MIN;
    source
        .resolve_with(|name| environment.get(name).map(OsString::from))
        .and_then(|secret| match secret.len_bytes() {
            found if found < min => Err(SecretError::TooShort { place: source.to_string(), found, min }),
            _ => Ok(secret),
        })
        .map_err(|reason| entry.refuse(ConfigProblem::Secret { key: entry.key.clone(), reason }))
}
