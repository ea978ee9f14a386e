//! Shows the configuration in force: every setting by its key, without secrets.
//!
//! Secrets are known by type: `integrity_key` shows its length, `secrets.*` their source, granted variables their name.
//! Values of `config.*` are texts that may contain passwords, so those whose key or text sounds like a secret are
//! hidden, as are the user parts of URLs.

use std::fmt;

use super::backend::BackendConfig;
use super::engine::Config;
use super::hide::{HIDDEN, secret_word, without_user_parts};
use super::keys;
use super::setting::Settings;
use crate::text::one_line;

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShownSetting {
    /// The key as in `docs/configuration.md`; that of a backend with its section and name.
    pub key: String,
    /// The value on one line, without secrets.
    pub value: String,
    /// Whether the value is the default.
    pub is_default: bool,
}

impl fmt::Display for ShownSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.value)
    }
}

impl Config {
    /// Returns all settings in force, including those at their default, in the order of the reference. They contain no
    /// secrets.
    #[must_use]
    pub fn shown(&self) -> Vec<ShownSetting> {
        let defaults = Self::default();
        let mut shown = Vec::new();
        add(&mut shown, "", self, &defaults);
        add(&mut shown, "", &self.compile_limits, &defaults.compile_limits);
        add(&mut shown, "", &self.pool, &defaults.pool);
        shown.push(ShownSetting {
            key: keys::SKIP_SAVE_VARIABLE.to_owned(),
            value: self.skip_save.to_string(),
            is_default: !self.skip_save,
        });
        let names: Vec<&str> = self.backends.iter().map(|backend| backend.name.as_str()).collect();
        shown.push(ShownSetting {
            key: keys::BACKEND_LISTS[0].to_owned(),
            value: names.join(", "),
            is_default: names.is_empty(),
        });
        for backend in &self.backends {
            backend.add_shown(&mut shown);
        }
        shown
    }
}

impl BackendConfig {
    fn add_shown(&self, shown: &mut Vec<ShownSetting>) {
        let prefix = format!("{}.{}.", keys::BACKEND_SECTIONS[0], self.name);
        let defaults = Self::new("", "", "");
        add(shown, &prefix, self, &defaults);
        let mut push = |key: String, value: String| {
            shown.push(ShownSetting { key: format!("{prefix}{key}"), value, is_default: false });
        };
        for (key, value) in &self.config {
            push(format!("config.{key}"), show_value(key, value));
        }
        for (key, source) in &self.secrets {
            push(format!("secrets.{key}"), source.to_string().replace('`', ""));
        }
        add(shown, &prefix, &self.allow, &defaults.allow);
        add(shown, &prefix, &self.limits, &defaults.limits);
        add(shown, &prefix, &self.breaker, &defaults.breaker);
    }
}

fn add<T: Settings>(shown: &mut Vec<ShownSetting>, prefix: &str, settings: &T, defaults: &T) {
    shown.extend(T::SETTINGS.iter().map(|setting| {
        let value = (setting.show)(settings);
        ShownSetting {
            key: format!("{prefix}{}", setting.key),
            is_default: value == (setting.show)(defaults),
            value: one_line(&value),
        }
    }));
}

/// Shows a value of `config.*`.
fn show_value(key: &str, value: &str) -> String {
    match secret_word(key).or_else(|| secret_word(value)) {
        Some(_) => HIDDEN.to_owned(),
        None => one_line(&without_user_parts(value)),
    }
}
