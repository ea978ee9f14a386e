//! Reads a text and environment variables into flat settings, before any key is interpreted.
//!
//! Dotted and nested spellings become one dotted key; an environment variable replaces the file's setting. This module
//! does not know the meaning of a key, only which ones exist at the top level.

mod extra;
mod reader;

use std::io::Read as _;
use std::path::Path;

pub(super) use self::reader::RawConfig;
use self::reader::Reader;
use crate::config::error::{ConfigError, ConfigProblem, Origin};
use crate::config::file::open_file;
use crate::config::format::{Format, Node};
use crate::config::keys;
use crate::config::value::{Environment, RawSetting};
use crate::limits::CONFIG_BYTES_MAX;

impl RawConfig {
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
