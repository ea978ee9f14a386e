//! Configuration: an `LMCache`-style YAML text and environment variables become one validated [`Config`].
//!
//! The text is parsed once; the result needs no further checks. This module reads the configuration file and the
//! secrets that it names for the host itself, and nothing else: whether a component's file exists is checked when its
//! backend is loaded. `docs/configuration.md` is the reference of all keys.
//!
//! The path of a setting: `format` turns the text into a tree, `raw` turns the tree and the environment into flat
//! settings, and `read` passes each to the table that has its key. The tables (`engine`, `backend`) define each setting
//! once; `setting` and `kind` are their building blocks.

mod backend;
mod check;
mod digest;
mod engine;
mod error;
mod file;
mod format;
mod hide;
mod keys;
mod kind;
mod lmcache;
mod messages;
mod raw;
mod read;
mod secret;
mod setting;
mod show;
mod suggest;
#[cfg(test)]
mod tests;
mod value;

use std::path::{Path, PathBuf};

pub use backend::grants::{
    EnvGrant, FsAccess, FsGrant, Grants, HttpScheme, IpNetwork, NetGrant, NetHost, PortRange,
};
pub(crate) use backend::placeholder::{Facts, OwnDirectory};
pub use backend::{BackendConfig, BackendLimits, BreakerConfig};
pub(crate) use check::check_tier_names;
pub use digest::Sha256Digest;
pub use engine::{CompileCache, CompileLimits, CompilePolicy, Compiler, Config, OnFull, OnLoadError};
pub use error::{ConfigError, ConfigProblem, Origin};
pub use file::open_file;
use format::Format;
pub use hide::{sounds_secret, without_user_parts};
pub use keys::{CONFIG_FILE_VARIABLE, SKIP_SAVE_VARIABLE};
pub use read::ReadConfig;
pub use secret::{Secret, SecretError, SecretSource};
pub use show::ShownSetting;
pub(crate) use value::size::show_size;

impl Config {
    /// Reads a configuration file, in YAML or, without the feature `yaml`, in JSON. Variables of the process
    /// environment override its keys. Relative paths in it are relative to its directory.
    pub fn from_file(path: impl AsRef<Path>) -> Result<ReadConfig, ConfigError> {
        Self::from_file_with_env(path, process_environment()?)
    }

    /// Reads a configuration file as [`Config::from_file`] does, with the given environment.
    pub fn from_file_with_env(
        path: impl AsRef<Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<ReadConfig, ConfigError> {
        let path = path.as_ref();
        let origin = Origin::File(path.to_owned());
        let text = raw::read_file(path, &origin)?;
        // Absolute, because a backend may be loaded again after the process has changed its directory.
        let absolute = std::path::absolute(path)
            .map_err(|reason| ConfigError::new(&origin, ConfigProblem::Unreadable { reason }))?;
        let base_dir = absolute.parent().unwrap_or(Path::new("/"));
        ReadConfig::parse(&text, Format::FILE, &origin, base_dir, &env.into_iter().collect())
    }

    /// Reads a configuration text. Variables of `env` override its keys. Relative paths in it are relative to
    /// `base_dir`. An empty text gives the defaults.
    #[cfg(feature = "yaml")]
    pub fn from_yaml(
        text: &str,
        base_dir: impl AsRef<Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<ReadConfig, ConfigError> {
        ReadConfig::parse(text, Format::Yaml, &Origin::Text, base_dir.as_ref(), &env.into_iter().collect())
    }

    /// Reads a configuration text in JSON. Variables of `env` override its keys. Relative paths in it are relative to
    /// `base_dir`.
    pub fn from_json(
        text: &str,
        base_dir: impl AsRef<Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<ReadConfig, ConfigError> {
        ReadConfig::parse(text, Format::Json, &Origin::Text, base_dir.as_ref(), &env.into_iter().collect())
    }

    /// Reads the file that `LMCACHE_CONFIG_FILE` names. Without it, reads only the variables of the process
    /// environment, and relative paths are relative to the working directory.
    pub fn from_env() -> Result<ReadConfig, ConfigError> {
        match config_file_from_env() {
            Some(path) => Self::from_file(path),
            None => Self::from_json("{}", "", process_environment()?),
        }
    }
}

/// Returns the path that `LMCACHE_CONFIG_FILE` gives, if it is set and not empty.
#[must_use]
pub fn config_file_from_env() -> Option<PathBuf> {
    std::env::var_os(CONFIG_FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Returns the process environment. Variables other than `LMCache`'s may have any bytes, and are then omitted.
fn process_environment() -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            // A path may have any bytes.
            Err(_) if name == CONFIG_FILE_VARIABLE => {}
            Err(_) if name.starts_with(keys::VARIABLE_PREFIX) => {
                return Err(ConfigError::new(&Origin::Variable(name), ConfigProblem::NotUnicode));
            }
            Err(_) => {}
        }
    }
    Ok(variables)
}
