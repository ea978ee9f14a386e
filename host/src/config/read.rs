//! Turns flat settings into a [`Config`].

use std::collections::BTreeMap;
use std::path::Path;

use super::backend::section::{BackendSection, Listed};
use super::check::check_names;
use super::engine::Config;
use super::error::{ConfigError, ConfigProblem, Origin};
use super::format::{Format, Node, shorten};
use super::keys;
use super::messages::Messages;
use super::raw::RawConfig;
use super::setting::{Context, Settings as _};
use super::suggest::similar_to;
use super::value::{Environment, RawSetting};

/// A configuration that was read, with messages for the operator.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReadConfig {
    /// The configuration. It is valid.
    pub config: Config,
    /// Messages to log as info, such as keys of `LMCache` that have no meaning for kvtier.
    pub notes: Vec<String>,
    /// Messages to log as warnings, such as unknown keys.
    pub warnings: Vec<String>,
}

impl ReadConfig {
    /// Logs the notes and the warnings, and returns the configuration.
    pub fn log(self) -> Config {
        self.notes.iter().for_each(|note| tracing::info!("{note}"));
        self.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        self.config
    }
}

impl ReadConfig {
    pub(super) fn parse(
        text: &str,
        format: Format,
        origin: &Origin,
        base_dir: &Path,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let mut raw = RawConfig::read(text, format, origin, environment)?;
        let context = Context { base_dir, environment };
        let mut config = Config::default();
        config.read_top_level(&mut raw, &context)?;
        let list = BackendList::read(&mut raw, origin)?;
        let mut sections = BTreeMap::<String, BackendSection>::new();
        for setting in raw.sections {
            match setting.key.split_once('.') {
                Some((keys::KVTIER_SECTION, _)) => config.read_kvtier(&setting, &context)?,
                Some((_, backend)) => {
                    let (name, key) = backend.split_once('.').unwrap_or((backend, ""));
                    let (name, key) = (name.to_owned(), key.to_owned());
                    sections.entry(name).or_default().add(key, setting)?;
                }
                None => return Err(setting.wrong_hidden("a mapping of keys to values")),
            }
        }
        config.read_backends(&list, sections, &context, &mut raw.warnings)?;
        Ok(Self { config, notes: raw.notes.finish(), warnings: raw.warnings.finish() })
    }
}

impl Config {
    fn read_top_level(&mut self, raw: &mut RawConfig, context: &Context<'_>) -> Result<(), ConfigError> {
        for key in keys::top_level_settings() {
            let Some(setting) = raw.take(key) else { continue };
            self.read_setting(key, &setting, context)?;
            if key == "max_local_cpu_size" && self.pool_size_bytes == 0 {
                raw.warnings.push("settings", || {
                    format!(
                        "{}: `{key}` is 0: the CPU tier keeps no chunks, and the buffer pool has only what one \
                         retrieval needs at a time, so that longer prefixes are cut there",
                        setting.origin
                    )
                });
            }
        }
        if let Some(setting) = raw.skip_save.take().filter(|setting| !setting.value.is_blank()) {
            self.skip_save = setting.boolean()?;
            if self.skip_save {
                raw.warnings.push("settings", || format!("{}: nothing is stored", setting.origin));
            }
        }
        if self.pool_size_bytes == 0 {
            self.local_cpu = false;
        }
        Ok(())
    }

    fn read_kvtier(&mut self, raw: &RawSetting, context: &Context<'_>) -> Result<(), ConfigError> {
        // `kvtier: {pool: }`: an empty group.
        if raw.key == keys::POOL_GROUP && raw.value == Node::Null {
            return Ok(());
        }
        let is_known = self.read_setting(&raw.key, raw, context)?
            || self.compile_limits.read_setting(&raw.key, raw, context)?
            || self.pool.read_setting(&raw.key, raw, context)?;
        if is_known {
            return Ok(());
        }
        let below = |key: &'static str| key.trim_start_matches(keys::KVTIER_PREFIX);
        let known: Vec<&str> = keys::kvtier().map(below).collect();
        let key = raw.key.trim_start_matches(keys::KVTIER_PREFIX);
        let advice = match similar_to(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{}{near}`?", keys::KVTIER_PREFIX),
            None => format!("`{}` has the keys {}", keys::KVTIER_PREFIX, known.join(", ")),
        };
        Err(raw.refuse(ConfigProblem::UnknownKey { key: raw.key.clone(), advice }))
    }

    fn read_backends(
        &mut self,
        list: &BackendList,
        mut sections: BTreeMap<String, BackendSection>,
        context: &Context<'_>,
        warnings: &mut Messages,
    ) -> Result<(), ConfigError> {
        check_names(&list.names, &list.origin, list.key)?;
        let mut listed = Vec::new();
        for name in &list.names {
            listed.push((name, sections.remove(name).unwrap_or_default()));
        }
        // The remaining sections belong to names that are not listed.
        for (name, section) in listed {
            let listed = Listed { name, section: list.section, origin: &list.origin, unlisted: &sections };
            self.backends.push(section.parse(&listed, context, warnings)?);
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

/// The listed names, and the place of the list.
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
            let Some(setting) = raw.take(key) else { continue };
            let names = setting.names()?;
            match &list {
                Some(first) if first.names != names => {
                    return Err(setting.refuse(ConfigProblem::Conflict {
                        first: first.key.to_owned(),
                        second: key.to_owned(),
                    }));
                }
                Some(_) => {}
                None => list = Some(Self { names, key, section, origin: setting.origin }),
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
