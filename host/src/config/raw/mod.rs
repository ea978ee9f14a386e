//! Reads YAML text and environment variables into flat entries, before any key is interpreted.
//!
//! Dotted and nested spellings become one dotted key; an environment variable takes the place of the file's
//! entry. Nothing here knows what a key means, apart from which ones exist at the top level.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::config::error::{ConfigError, ConfigProblem, Origin};
use crate::config::file::open_file;
use crate::config::format::{Format, Node, shorten};
use crate::config::lmcache::{self, OtherVariable};
use crate::config::messages::Messages;
use crate::config::suggest::typo_of;
use crate::config::{SKIP_SAVE_VARIABLE, keys};
use crate::limits::{CONFIG_BYTES_MAX, KEY_BYTES_MAX};

/// One setting: its full dotted key, its value, and where it stands.
#[derive(Clone, Debug)]
pub(in crate::config) struct RawSetting {
    pub(in crate::config) key: String,
    pub(in crate::config) value: Node,
    pub(in crate::config) origin: Origin,
}

impl RawSetting {
    pub(in crate::config) fn refuse(&self, problem: ConfigProblem) -> ConfigError {
        ConfigError::new(&self.origin, problem)
    }
}

/// All settings of one file and environment, sorted by section but not interpreted.
#[derive(Debug)]
pub(in crate::config) struct RawConfig {
    /// Top-level keys that kvtier uses.
    top: BTreeMap<&'static str, RawSetting>,
    /// Flat entries of kvtier's sections of `extra_config`, in file order.
    pub(in crate::config) sections: Vec<RawSetting>,
    /// Whether nothing is stored, if the environment says so.
    pub(in crate::config) skip_save: Option<RawSetting>,
    /// Things to tell an operator who looks for them.
    pub(in crate::config) notes: Messages,
    /// Things that an operator should see.
    pub(in crate::config) warnings: Messages,
}

/// The environment as a map, and what the configuration asks of it.
pub(in crate::config) type Environment = BTreeMap<String, String>;

impl RawConfig {
    /// Takes the entry of a top-level key. No value counts as not given, and so does an empty text, which as a list is
    /// an empty one.
    pub(in crate::config) fn take(&mut self, key: &str) -> Option<RawSetting> {
        let is_list = keys::BACKEND_LISTS.contains(&key);
        let is_given = |value: &Node| if is_list { *value != Node::Null } else { !value.is_blank() };
        self.top.remove(key).filter(|entry| is_given(&entry.value))
    }

    /// Reads a text and overrides it with `LMCACHE_<KEY>` variables.
    pub(in crate::config) fn read(
        text: &str,
        format: Format,
        origin: &Origin,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader::default();
        for (key, value) in parse_document(text, format, origin)? {
            reader.file_key(RawSetting { key, value, origin: origin.clone() })?;
        }
        for (variable, value) in environment {
            if let Some(key) = variable.strip_prefix(keys::VARIABLE_PREFIX) {
                reader.variable(variable, key, value)?;
            }
        }
        reader.finish()
    }
}

/// Reads a configuration file's text, within [`CONFIG_BYTES_MAX`].
pub(in crate::config) fn read_file(path: &Path, origin: &Origin) -> Result<String, ConfigError> {
    let refuse = |problem| ConfigError::new(origin, problem);
    let mut bytes = Vec::new();
    open_file(path)
        .and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|reason| refuse(ConfigProblem::Unreadable { reason }))?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(refuse(ConfigProblem::TooLarge { max_bytes: CONFIG_BYTES_MAX }));
    }
    String::from_utf8(bytes).map_err(|_| refuse(ConfigProblem::NotUtf8))
}

fn parse_document(text: &str, format: Format, origin: &Origin) -> Result<Vec<(String, Node)>, ConfigError> {
    let refuse = |problem| ConfigError::new(origin, problem);
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(refuse(ConfigProblem::TooLarge { max_bytes: CONFIG_BYTES_MAX }));
    }
    let root = format
        .parse(text)
        .map_err(|message| refuse(ConfigProblem::Syntax { format: format.name(), message }))?;
    match root {
        Node::Null => Ok(Vec::new()),
        Node::Map(entries) => Ok(entries),
        other => Err(refuse(ConfigProblem::NotAMapping { found: other.describe() })),
    }
}

#[derive(Default)]
struct Reader {
    top: BTreeMap<&'static str, RawSetting>,
    extra_from_file: Vec<RawSetting>,
    extra_from_variable: Option<Vec<RawSetting>>,
    skip_save: Option<RawSetting>,
    notes: Messages,
    warnings: Messages,
}

/// Kinds of messages, in words for many.
const UNUSED: &str = "settings of LMCache that kvtier does not use";
const UNKNOWN: &str = "unknown keys and variables, which are ignored";
const TIERS: &str = "tiers of LMCache that kvtier does not have";
const VARIABLES: &str = "variables of LMCache that have no effect here";
const SERVICE_LINKS: &str = "variables of Kubernetes services";

impl Reader {
    fn file_key(&mut self, entry: RawSetting) -> Result<(), ConfigError> {
        let key = entry.key.as_str();
        if key == keys::EXTRA_CONFIG {
            self.extra_from_file.extend(extra_entries(entry)?);
        } else if let Some(rest) = key.strip_prefix("extra_config.") {
            let key = rest.to_owned();
            self.extra_from_file.push(RawSetting { key, ..entry });
        } else if let Some(used) = keys::find_top_level(key) {
            self.top.insert(used, entry);
        } else if lmcache::is_unused_key(key) {
            self.unused(&entry.origin, &format!("`{key}`"), key, &entry.value);
        } else if keys::section_of(key).is_some() {
            return Err(
                entry.refuse(ConfigProblem::Misplaced { key: key.to_owned(), place: "under `extra_config`" })
            );
        } else if let Some(known) = typo_of(key, keys::top_level()) {
            return Err(entry.refuse(ConfigProblem::UnknownKey {
                key: key.to_owned(),
                advice: format!("did you mean `{known}`?"),
            }));
        } else {
            self.warnings
                .push(UNKNOWN, || format!("{}: unknown key `{}` is ignored", entry.origin, shorten(key)));
        }
        Ok(())
    }

    /// Notes a key of `LMCache` that has no meaning here; of whole tiers, a warning is due.
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

    /// Reads a variable. One with an unknown name never refuses start: other programs and Kubernetes set variables
    /// that begin like ours.
    fn variable(&mut self, variable: &str, key: &str, value: &str) -> Result<(), ConfigError> {
        let origin = Origin::Variable(variable.to_owned());
        let text = unquote(value);
        let lower_key = key.to_ascii_lowercase();
        // Variables are upper case; in another case they are typos.
        let known_key = if key == key.to_ascii_uppercase() { lower_key.as_str() } else { "" };
        let is_list = known_key == keys::EXTRA_CONFIG || keys::BACKEND_LISTS.contains(&known_key);
        let value = Node::Text(text.to_owned());
        if known_key == keys::EXTRA_CONFIG {
            let key = known_key.to_owned();
            self.extra_from_variable = Some(extra_entries(RawSetting { key, value, origin })?);
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

    fn override_top(&mut self, used: &'static str, entry: RawSetting) {
        // The list of backends has two spellings; a variable in one overrides a file in either. Two
        // variables stay side by side, to be compared.
        if keys::BACKEND_LISTS.contains(&used) {
            for spelling in keys::BACKEND_LISTS {
                if matches!(self.top.get(spelling), Some(old) if !matches!(old.origin, Origin::Variable(_))) {
                    self.top.remove(spelling);
                }
            }
        }
        self.top.insert(used, entry);
    }

    fn finish(mut self) -> Result<RawConfig, ConfigError> {
        let extra = match self.extra_from_variable.take() {
            Some(entries) => entries,
            None => std::mem::take(&mut self.extra_from_file),
        };
        let mut sections = Vec::new();
        for entry in extra {
            self.extra_key(entry, &mut sections)?;
        }
        refuse_duplicates(&sections)?;
        let Self { top, skip_save, notes, warnings, .. } = self;
        Ok(RawConfig { top, sections, skip_save, notes, warnings })
    }

    fn extra_key(&mut self, entry: RawSetting, sections: &mut Vec<RawSetting>) -> Result<(), ConfigError> {
        let key = entry.key.clone();
        let first = key.split('.').next().unwrap_or_default();
        if keys::section_of(&key).is_some() {
            return flatten(entry, sections);
        }
        if keys::BACKEND_LISTS.contains(&key.as_str()) {
            return Err(entry
                .refuse(ConfigProblem::Misplaced { key, place: "out of `extra_config`, to the top level" }));
        }
        if let Some(section) = typo_of(first, keys::SECTIONS) {
            let rest = &key[first.len()..];
            return Err(entry.refuse(ConfigProblem::UnknownKey {
                advice: format!("did you mean `{section}{rest}`?"),
                key,
            }));
        }
        if keys::find_top_level(&key).is_some() {
            self.warnings.push("top-level keys under `extra_config`, which are ignored", || {
                format!("{}: `{key}` under `extra_config` is ignored; it is a top-level key", entry.origin)
            });
        } else if lmcache::asks_for_tier_in_extra(&key, &entry.value) {
            self.warnings.push(TIERS, || {
                format!("{}: `extra_config.{key}` is ignored: kvtier has no such tier", entry.origin)
            });
        } else {
            let shown = shorten(&key);
            self.notes
                .push(UNUSED, || format!("{}: `extra_config.{shown}` is not used by kvtier", entry.origin));
        }
        Ok(())
    }
}

/// Returns the entries of an `extra_config` given as a mapping or as JSON text.
fn extra_entries(entry: RawSetting) -> Result<Vec<RawSetting>, ConfigError> {
    let RawSetting { key, value, origin } = entry;
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
        Node::Map(entries) => Ok(entries
            .into_iter()
            .map(|(key, value)| RawSetting { key, value, origin: origin.clone() })
            .collect()),
        other => Err(wrong(other.describe())),
    }
}

/// Turns nested mappings into entries with dotted keys. An empty mapping leaves nothing.
fn flatten(entry: RawSetting, into: &mut Vec<RawSetting>) -> Result<(), ConfigError> {
    if entry.key.len() > KEY_BYTES_MAX {
        return Err(entry.refuse(ConfigProblem::UnknownKey {
            advice: format!("a key has at most {KEY_BYTES_MAX} bytes, with all that it is nested in"),
            key: shorten(&entry.key),
        }));
    }
    if entry.key.split('.').any(str::is_empty) {
        return Err(entry.refuse(ConfigProblem::UnknownKey {
            advice: "a dotted key has a name between any two dots".to_owned(),
            key: entry.key.clone(),
        }));
    }
    let RawSetting { key, value, origin } = entry;
    match value {
        Node::Map(entries) => {
            for (inner, value) in entries {
                flatten(RawSetting { key: format!("{key}.{inner}"), value, origin: origin.clone() }, into)?;
            }
        }
        // `extra_config: {kvtier: }` and the like: a section with nothing in it.
        Node::Null if keys::SECTIONS.contains(&key.as_str()) => {}
        value => into.push(RawSetting { key, value, origin }),
    }
    Ok(())
}

fn refuse_duplicates(entries: &[RawSetting]) -> Result<(), ConfigError> {
    let mut seen = std::collections::HashSet::new();
    for entry in entries {
        if !seen.insert(entry.key.as_str()) {
            return Err(entry.refuse(ConfigProblem::DuplicateKey { key: entry.key.clone() }));
        }
    }
    Ok(())
}

/// Trims a variable's value and takes off one pair of matching quotes, which shells and container files
/// often leave in.
fn unquote(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}
