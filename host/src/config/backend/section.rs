//! Reads one backend's section of `extra_config`.

use std::collections::{BTreeMap, HashMap};

use super::grants::Grants;
use super::{BackendConfig, BackendLimits, BreakerConfig};
use crate::config::error::{ConfigError, ConfigProblem, Origin};
use crate::config::format::Node;
use crate::config::hide::is_surely_secret;
use crate::config::keys;
use crate::config::messages::Messages;
use crate::config::secret::{SECRET_FORM, SecretSource};
use crate::config::setting::{Context, Settings as _};
use crate::config::suggest::similar_to;
use crate::config::value::RawSetting;

/// The settings of one backend's section, with keys relative to it.
#[derive(Debug, Default)]
pub(in crate::config) struct BackendSection {
    settings: Vec<(String, RawSetting)>,
    index_by_key: HashMap<String, usize>,
}

/// The place of a backend in the list, for messages.
pub(in crate::config) struct Listed<'a> {
    pub(in crate::config) name: &'a str,
    /// The spelling of the section that goes with the list's spelling.
    pub(in crate::config) section: &'static str,
    pub(in crate::config) origin: &'a Origin,
    /// Sections of unlisted names.
    pub(in crate::config) unlisted: &'a BTreeMap<String, BackendSection>,
}

impl BackendSection {
    /// Adds a setting. Both spellings of one key may be given if they agree.
    pub(in crate::config) fn add(&mut self, key: String, raw: RawSetting) -> Result<(), ConfigError> {
        let first = self.index_by_key.get(&key).map(|index| &self.settings[*index].1);
        match first {
            None => {
                self.index_by_key.insert(key.clone(), self.settings.len());
                self.settings.push((key, raw));
            }
            Some(first) if first.value == raw.value => {}
            Some(first) => {
                return Err(
                    raw.refuse(ConfigProblem::Conflict { first: first.key.clone(), second: raw.key.clone() })
                );
            }
        }
        Ok(())
    }

    /// Reads the section of a listed backend.
    pub(in crate::config) fn parse(
        self,
        listed: &Listed<'_>,
        context: &Context<'_>,
        warnings: &mut Messages,
    ) -> Result<BackendConfig, ConfigError> {
        let mut backend = BackendConfig::new(listed.name, "", "");
        for (key, raw) in &self.settings {
            backend.read(key, raw, context)?;
            if let Some(name) = key.strip_prefix("config.").filter(|name| is_surely_secret(name)) {
                warnings.push("secrets in the configuration itself", || {
                    let prefix = raw.key.strip_suffix(key.as_str()).unwrap_or_default();
                    format!(
                        "{}: `{}` sounds like a secret; take it out of the file and give `{prefix}secrets.{name}: \
                         env:NAME` or `file:PATH`",
                        raw.origin, raw.key
                    )
                });
            }
        }
        for (key, is_missing) in [
            ("module_path", backend.module_path.as_os_str().is_empty()),
            ("class_name", backend.class_name.is_empty()),
        ] {
            if is_missing {
                return Err(listed.missing(key));
            }
        }
        // The origin of the first setting is used for all: a section is seldom spread over a file and a variable.
        let origin = self.settings.first().map_or(listed.origin, |(_, raw)| &raw.origin);
        backend.check(origin, listed.section)?;
        Ok(backend)
    }
}

impl Listed<'_> {
    fn missing(&self, key: &str) -> ConfigError {
        let place = match similar_to(self.name, self.unlisted.keys().map(String::as_str)) {
            Some(other) => {
                format!("under `extra_config` (keys are given for `{other}`, which is not listed) ")
            }
            None => "under `extra_config` ".to_owned(),
        };
        ConfigError::new(
            self.origin,
            ConfigProblem::MissingKey {
                backend: self.name.to_owned(),
                key: format!("{}.{}.{key}", self.section, self.name),
                place,
            },
        )
    }
}

impl BackendConfig {
    /// Returns all keys of a backend, except those that its author chooses.
    pub(in crate::config) fn known_keys() -> impl Iterator<Item = &'static str> {
        Self::keys().chain(Grants::keys()).chain(BackendLimits::keys()).chain(BreakerConfig::keys())
    }

    fn read(&mut self, key: &str, raw: &RawSetting, context: &Context<'_>) -> Result<(), ConfigError> {
        match key.split_once('.') {
            Some(("config", key)) => {
                self.config.push((key.to_owned(), raw.scalar_text()?));
                return Ok(());
            }
            Some(("secrets", key)) => {
                let source = match &raw.value {
                    Node::Text(text) => SecretSource::parse_with_optional(text, context.base_dir),
                    _ => None,
                };
                let source = source.ok_or_else(|| raw.wrong_hidden(SECRET_FORM))?;
                self.secrets.push((key.to_owned(), source));
                return Ok(());
            }
            None if key.is_empty() || keys::BACKEND_GROUPS.contains(&key) => {
                return match raw.value {
                    Node::Null => Ok(()),
                    _ => Err(raw.wrong_hidden("a mapping of keys to values")),
                };
            }
            _ => {}
        }
        let is_known = self.read_setting(key, raw, context)?
            || self.allow.read_setting(key, raw, context)?
            || self.limits.read_setting(key, raw, context)?
            || self.breaker.read_setting(key, raw, context)?;
        if is_known { Ok(()) } else { Err(unknown_key(raw, key)) }
    }
}

/// Makes the error of a key that a backend does not have, with the nearest key that it has.
fn unknown_key(raw: &RawSetting, key: &str) -> ConfigError {
    let known = || BackendConfig::known_keys().chain(keys::BACKEND_FREE_GROUPS);
    let group = key.split('.').next().unwrap_or_default();
    let full = |path: &str| {
        let prefix = raw.key.strip_suffix(key).unwrap_or_default();
        format!("did you mean `{prefix}{path}`?")
    };
    let advice = if let Some(near) = similar_to(key, known()) {
        full(near)
    } else if let Some(near) = similar_to(group, keys::BACKEND_GROUPS).filter(|near| *near != group) {
        full(&format!("{near}{}", &key[group.len()..]))
    } else {
        let keys: Vec<&str> = BackendConfig::known_keys().collect();
        format!(
            "a backend has {}, config.* and secrets.*; write keys for the class itself under `config.`",
            keys.join(", ")
        )
    };
    raw.refuse(ConfigProblem::UnknownKey { key: raw.key.clone(), advice })
}
