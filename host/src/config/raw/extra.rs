//! Turns `extra_config` into flat settings.

use crate::config::error::{ConfigError, ConfigProblem};
use crate::config::format::{Format, Node, shorten};
use crate::config::keys;
use crate::config::value::RawSetting;
use crate::limits::{CONFIG_BYTES_MAX, KEY_BYTES_MAX};

/// Returns the settings of an `extra_config` given as a mapping or as JSON text.
pub(super) fn extra_settings(setting: RawSetting) -> Result<Vec<RawSetting>, ConfigError> {
    let RawSetting { key, value, origin } = setting;
    let wrong = |found: String| {
        ConfigError::new(
            &origin,
            ConfigProblem::WrongValue {
                key: key.clone(),
                expected: "a mapping of keys to values, or the same as JSON text".to_owned(),
                found,
            },
        )
    };
    let value = match value {
        Node::Text(text) if text.trim().is_empty() => Node::Null,
        Node::Text(text) if text.len() as u64 > CONFIG_BYTES_MAX => {
            return Err(ConfigError::new(&origin, ConfigProblem::TooLarge { max_bytes: CONFIG_BYTES_MAX }));
        }
        Node::Text(text) => Format::Json.parse(&text).map_err(|message| {
            ConfigError::new(&origin, ConfigProblem::Syntax { format: Format::Json.name(), message })
        })?,
        other => other,
    };
    match value {
        Node::Null => Ok(Vec::new()),
        Node::Map(settings) => Ok(settings
            .into_iter()
            .map(|(key, value)| RawSetting { key, value, origin: origin.clone() })
            .collect()),
        other => Err(wrong(other.describe())),
    }
}

/// Turns nested mappings into settings with dotted keys. An empty mapping leaves nothing.
pub(super) fn flatten(setting: RawSetting, into: &mut Vec<RawSetting>) -> Result<(), ConfigError> {
    if setting.key.len() > KEY_BYTES_MAX {
        return Err(setting.refuse(ConfigProblem::UnknownKey {
            advice: format!(
                "a key has at most {KEY_BYTES_MAX} bytes, including the keys that it is nested in"
            ),
            key: shorten(&setting.key),
        }));
    }
    if setting.key.split('.').any(str::is_empty) {
        return Err(setting.refuse(ConfigProblem::UnknownKey {
            advice: "a dotted key has a name between any two dots".to_owned(),
            key: setting.key.clone(),
        }));
    }
    let RawSetting { key, value, origin } = setting;
    match value {
        Node::Map(settings) => {
            for (inner, value) in settings {
                flatten(RawSetting { key: format!("{key}.{inner}"), value, origin: origin.clone() }, into)?;
            }
        }
        // `extra_config: {kvtier: }` and the like: an empty section.
        Node::Null if keys::SECTIONS.contains(&key.as_str()) => {}
        value => into.push(RawSetting { key, value, origin }),
    }
    Ok(())
}

pub(super) fn refuse_duplicates(settings: &[RawSetting]) -> Result<(), ConfigError> {
    let mut seen = std::collections::HashSet::new();
    for setting in settings {
        if !seen.insert(setting.key.as_str()) {
            return Err(setting.refuse(ConfigProblem::DuplicateKey { key: setting.key.clone() }));
        }
    }
    Ok(())
}
