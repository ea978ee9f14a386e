//! Reads a text and environment variables into flat settings, before any key is interpreted.
//!
//! Dotted and nested spellings become one dotted key; an environment variable replaces the file's setting. Nothing here
//! knows what a key means, apart from which ones exist at the top level.

mod extra;
mod reader;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use self::reader::Reader;
use crate::config::error::{ConfigError, ConfigProblem, Origin};
use crate::config::file::open_file;
use crate::config::format::{Format, Node};
use crate::config::keys;
use crate::config::messages::Messages;
use crate::limits::CONFIG_BYTES_MAX;

/// One setting as it is written: its full dotted key, its value, and where it is.
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
    /// Flat settings of kvtier's sections of `extra_config`, in file order.
    pub(in crate::config) sections: Vec<RawSetting>,
    /// Whether nothing is stored, if the environment sets it.
    pub(in crate::config) skip_save: Option<RawSetting>,
    /// Messages for an operator who looks for them.
    pub(in crate::config) notes: Messages,
    /// Messages that an operator should see.
    pub(in crate::config) warnings: Messages,
}

/// The environment, by name.
pub(in crate::config) type Environment = BTreeMap<String, String>;

impl RawConfig {
    /// Takes the setting of a top-level key. No value counts as not given, and so does an empty text, which as a list
    /// is an empty one.
    pub(in crate::config) fn take(&mut self, key: &str) -> Option<RawSetting> {
        let is_list = keys::BACKEND_LISTS.contains(&key);
        let is_given = |value: &Node| if is_list { *value != Node::Null } else { !value.is_blank() };
        self.top.remove(key).filter(|setting| is_given(&setting.value))
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
        Node::Map(settings) => Ok(settings),
        other => Err(refuse(ConfigProblem::NotAMapping { found: other.describe() })),
    }
}
