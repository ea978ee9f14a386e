//! Sorts the keys of a text and the variables of the environment into used, ignored and refused ones.

use std::collections::BTreeMap;

use super::extra::{extra_settings, flatten, refuse_duplicates};
use crate::config::error::{ConfigError, ConfigProblem, Origin};
use crate::config::format::{Node, shorten};
use crate::config::keys::{self, SKIP_SAVE_VARIABLE};
use crate::config::lmcache::{self, OtherVariable};
use crate::config::messages::Messages;
use crate::config::suggest::typo_of;
use crate::config::value::RawSetting;

/// All settings of one file and environment, sorted by section but not interpreted.
#[derive(Debug)]
pub(in crate::config) struct RawConfig {
    /// Top-level keys that kvtier uses.
    top: BTreeMap<&'static str, RawSetting>,
    /// Flat settings of kvtier's sections of `extra_config`, in file order.
    pub(in crate::config) sections: Vec<RawSetting>,
    /// Whether storing is disabled, if the environment sets it.
    pub(in crate::config) skip_save: Option<RawSetting>,
    /// Messages of the level info.
    pub(in crate::config) notes: Messages,
    /// Messages that an operator should see.
    pub(in crate::config) warnings: Messages,
}

impl RawConfig {
    /// Takes the setting of a top-level key. No value counts as absent, and so does an empty text, which as a list is
    /// an empty one.
    pub(in crate::config) fn take(&mut self, key: &str) -> Option<RawSetting> {
        let is_list = keys::BACKEND_LISTS.contains(&key);
        let is_given = |value: &Node| if is_list { *value != Node::Null } else { !value.is_blank() };
        self.top.remove(key).filter(|setting| is_given(&setting.value))
    }
}

/// Collects what is read; variables come after the text.
#[derive(Default)]
pub(super) struct Reader {
    top: BTreeMap<&'static str, RawSetting>,
    extra_from_file: Vec<RawSetting>,
    extra_from_variable: Option<Vec<RawSetting>>,
    skip_save: Option<RawSetting>,
    notes: Messages,
    warnings: Messages,
}

// Kinds of messages, in the plural.
const UNUSED: &str = "settings of LMCache that kvtier does not use";
const UNKNOWN: &str = "unknown keys and variables, which are ignored";
const TIERS: &str = "tiers of LMCache that kvtier does not have";
const VARIABLES: &str = "variables of LMCache that have no effect here";
const SERVICE_LINKS: &str = "variables of Kubernetes services";

impl Reader {
    pub(super) fn file_key(&mut self, setting: RawSetting) -> Result<(), ConfigError> {
        let key = setting.key.as_str();
        if key == keys::EXTRA_CONFIG {
            self.extra_from_file.extend(extra_settings(setting)?);
        } else if let Some(rest) = key.strip_prefix("extra_config.") {
            let key = rest.to_owned();
            self.extra_from_file.push(RawSetting { key, ..setting });
        } else if let Some(used) = keys::find_top_level(key) {
            self.top.insert(used, setting);
        } else if lmcache::is_unused_key(key) {
            self.unused(&setting.origin, &format!("`{key}`"), key, &setting.value);
        } else if keys::section_of(key).is_some() {
            return Err(setting
                .refuse(ConfigProblem::Misplaced { key: key.to_owned(), place: "under `extra_config`" }));
        } else if let Some(known) = typo_of(key, keys::top_level()) {
            return Err(setting.refuse(ConfigProblem::UnknownKey {
                key: key.to_owned(),
                advice: format!("did you mean `{known}`?"),
            }));
        } else {
            self.warnings
                .push(UNKNOWN, || format!("{}: unknown key `{}` is ignored", setting.origin, shorten(key)));
        }
        Ok(())
    }

    /// Notes a key of `LMCache` that has no meaning for kvtier, and warns about one that asks for a whole tier.
    fn unused(&mut self, origin: &Origin, shown: &str, key: &str, value: &Node) {
        if lmcache::asks_for_tier(key, value) {
            self.warnings.push(TIERS, || {
                format!(
                    "{origin}: {shown} is ignored: kvtier has no such tier, and stores and finds nothing there; \
                     list a backend in its place"
                )
            });
        } else {
            self.notes.push(UNUSED, || format!("{origin}: {shown} is not used by kvtier"));
        }
    }

    /// Reads a variable. One with an unknown name never refuses start: other programs and Kubernetes set variables with
    /// the same prefix.
    pub(super) fn variable(&mut self, variable: &str, key: &str, value: &str) -> Result<(), ConfigError> {
        let origin = Origin::Variable(variable.to_owned());
        let text = unquote(value);
        let lower_key = key.to_ascii_lowercase();
        // Variables are upper case. In another case they are typos.
        let known_key = if key == key.to_ascii_uppercase() { lower_key.as_str() } else { "" };
        let is_list = known_key == keys::EXTRA_CONFIG || keys::BACKEND_LISTS.contains(&known_key);
        let value = Node::Text(text.to_owned());
        if known_key == keys::EXTRA_CONFIG {
            let key = known_key.to_owned();
            self.extra_from_variable = Some(extra_settings(RawSetting { key, value, origin })?);
        } else if let Some(used) = keys::find_top_level(known_key) {
            if is_list || !value.is_blank() {
                let key = used.to_owned();
                self.override_top(used, RawSetting { key, value, origin });
            }
        } else if variable == SKIP_SAVE_VARIABLE {
            self.skip_save = Some(RawSetting { key: lower_key, value, origin });
        } else if lmcache::is_unused_key(known_key) && !lmcache::is_service_link(variable, text) {
            self.unused(&origin, "it", known_key, &value);
        } else if let Some(other) = lmcache::other_variable(variable, text) {
            match other {
                OtherVariable::Quiet => {}
                OtherVariable::Ignored => self.warnings.push(VARIABLES, || {
                    format!("{origin}: a variable of LMCache that has no effect on kvtier")
                }),
                OtherVariable::ServiceLink => self.notes.push(SERVICE_LINKS, || {
                    format!("{origin}: ignored; Kubernetes sets it for a service of that name")
                }),
            }
        } else {
            let advice = typo_of(&lower_key, keys::top_level()).map_or_else(String::new, |known| {
                format!("; did you mean `{}{}`?", keys::VARIABLE_PREFIX, known.to_ascii_uppercase())
            });
            self.warnings.push(UNKNOWN, || format!("{origin}: unknown, and ignored{advice}"));
        }
        Ok(())
    }

    fn override_top(&mut self, used: &'static str, setting: RawSetting) {
        // The list of backends has two spellings; a variable in one overrides a file in either. If both variables are
        // set, both are kept and compared.
        if keys::BACKEND_LISTS.contains(&used) {
            for spelling in keys::BACKEND_LISTS {
                if matches!(self.top.get(spelling), Some(old) if !matches!(old.origin, Origin::Variable(_))) {
                    self.top.remove(spelling);
                }
            }
        }
        self.top.insert(used, setting);
    }

    pub(super) fn finish(mut self) -> Result<RawConfig, ConfigError> {
        let extra = match self.extra_from_variable.take() {
            Some(settings) => settings,
            None => std::mem::take(&mut self.extra_from_file),
        };
        let mut sections = Vec::new();
        for setting in extra {
            self.extra_key(setting, &mut sections)?;
        }
        refuse_duplicates(&sections)?;
        let Self { top, skip_save, notes, warnings, .. } = self;
        Ok(RawConfig { top, sections, skip_save, notes, warnings })
    }

    fn extra_key(&mut self, setting: RawSetting, sections: &mut Vec<RawSetting>) -> Result<(), ConfigError> {
        let key = setting.key.clone();
        let first = key.split('.').next().unwrap_or_default();
        if keys::section_of(&key).is_some() {
            return flatten(setting, sections);
        }
        if keys::BACKEND_LISTS.contains(&key.as_str()) {
            return Err(setting
                .refuse(ConfigProblem::Misplaced { key, place: "out of `extra_config`, to the top level" }));
        }
        if let Some(section) = typo_of(first, keys::SECTIONS) {
            let rest = &key[first.len()..];
            return Err(setting.refuse(ConfigProblem::UnknownKey {
                advice: format!("did you mean `{section}{rest}`?"),
                key,
            }));
        }
        if keys::find_top_level(&key).is_some() {
            self.warnings.push("top-level keys under `extra_config`, which are ignored", || {
                format!("{}: `{key}` under `extra_config` is ignored; it is a top-level key", setting.origin)
            });
        } else if lmcache::asks_for_tier_in_extra(&key, &setting.value) {
            self.warnings.push(TIERS, || {
                format!("{}: `extra_config.{key}` is ignored: kvtier has no such tier", setting.origin)
            });
        } else {
            let shown = shorten(&key);
            self.notes
                .push(UNUSED, || format!("{}: `extra_config.{shown}` is not used by kvtier", setting.origin));
        }
        Ok(())
    }
}

/// Trims a variable's value and removes one pair of matching quotes, which shells and container files often leave.
fn unquote(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}
