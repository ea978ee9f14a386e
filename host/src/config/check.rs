//! Checks of typed settings, both of configurations that were read and of those made in code.

use std::collections::HashSet;

use super::backend::grants::EnvGrant;
use super::backend::placeholder::check_placeholders;
use super::backend::{BackendConfig, is_class_name};
use super::engine::Config;
use super::error::{ConfigError, ConfigProblem, Origin};
use super::format::{Node, shorten};
use super::keys;
use super::setting::Settings as _;
use crate::limits;

impl Config {
    /// Checks a configuration made in code: the ranges of all settings, and the backends. One that was read from a text
    /// has been checked.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let origin = &Origin::Code;
        self.check_ranges(origin, str::to_owned)?;
        self.compile_limits.check_ranges(origin, str::to_owned)?;
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

/// Refuses names of backends and native tiers together that no chain may have.
pub(crate) fn check_tier_names(names: &[String]) -> Result<(), ConfigError> {
    check_names(names, &Origin::Code, "EngineBuilder::tier")
}

impl BackendConfig {
    /// Checks everything about this backend that its types do not ensure. `section` names its place in messages.
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
        self.check_ranges(origin, key)?;
        self.limits.check_ranges(origin, key)?;
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
