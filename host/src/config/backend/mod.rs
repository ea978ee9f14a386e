//! One backend of the chain.

pub(super) mod grants;
mod limits;
pub(super) mod placeholder;
pub(super) mod section;

use std::fmt;
use std::path::{Path, PathBuf};

pub use self::limits::{BackendLimits, BreakerConfig};

use self::grants::{EnvGrant, Grants};
use super::digest::Sha256Digest;
use super::error::{ConfigError, ConfigProblem};
use super::hide::{sounds_secret, user_parts};
use super::kind::{count, other};
use super::secret::SecretSource;
use super::setting::{Blank, Context, settings};
use super::value::RawSetting;
use super::value::plain::{boolean, whole};
use crate::limits::CLASS_NAME_CHARS_MAX;

settings! {
    /// One backend: a class of a component, its arguments, its grants and its limits.
    #[derive(Clone, PartialEq, Eq)]
    pub struct BackendConfig {
        /// The component's file. Whether it exists is checked when the backend is loaded.
        module_path: PathBuf =
            other("module_path", PathBuf::new(), Blank::NotGiven, read_module_path, |path| show_path(path)),
        /// The class to construct.
        class_name: String = other("class_name", String::new(), Blank::NotGiven, read_class_name, String::clone),
        /// The hash that the component's file must have, if it is pinned.
        digest: Option<Sha256Digest> = other("digest", None, Blank::Refused, read_digest, |digest| {
            digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string())
        }),
        /// A PEM file of the certificates that may vouch for HTTPS servers. `None`: those that the system trusts or,
        /// without any, the bundled ones.
        ca_file: Option<PathBuf> = other("tls.ca_file", None, Blank::Refused, read_ca_file, |file| {
            file.as_ref().map_or_else(|| "none".to_owned(), |path| show_path(path))
        }),
        /// Number of independent instances.
        lanes: usize = count("lanes", 1, 1..=64),
    }
    beside {
        /// Name in the chain, in logs and in metrics: 1 to 64 letters, digits, `_` or `-`.
        name: String = String::new(),
        /// Keys and values for the constructor, in the order of the file. Placeholders in the values are replaced when
        /// the backend is loaded.
        config: Vec<(String, String)> = Vec::new(),
        /// Keys for the constructor whose values are read when the backend is loaded.
        secrets: Vec<(String, SecretSource)> = Vec::new(),
        /// The access that the backend is granted.
        allow: Grants = Grants::default(),
        /// The limits of the backend.
        limits: BackendLimits = BackendLimits::default(),
        /// When the backend is skipped because it fails.
        breaker: BreakerConfig = BreakerConfig::default(),
    }
}

impl BackendConfig {
    /// Makes a backend without grants and with default limits.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        module_path: impl Into<PathBuf>,
        class_name: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            module_path: module_path.into(),
            class_name: class_name.into(),
            ..Self::with_defaults()
        }
    }

    /// Returns values that may be secrets although they are not declared as secrets: values of `config.*` and of
    /// granted variables whose name sounds like a secret, and the user parts of URLs. Numbers and words such as `true`
    /// are omitted, because they are common in logs.
    pub(crate) fn unnamed_secrets(&self) -> Vec<String> {
        let variables = self.allow.env.iter().filter_map(|grant| match grant {
            EnvGrant::Set { name, value } => Some((name.clone(), value.clone())),
            EnvGrant::Inherit(name) => Some((name.clone(), std::env::var(name).ok()?)),
        });
        let mut found = Vec::new();
        for (name, value) in self.config.iter().cloned().chain(variables) {
            found.extend(user_parts(&value).into_iter().map(str::to_owned));
            if sounds_secret(&name) && whole(&value).is_none() && boolean(&value).is_none() {
                found.push(value);
            }
        }
        found
    }
}

// Values of `config.*` are omitted: operators put passwords there, alone and in URLs.
impl fmt::Debug for BackendConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            module_path,
            class_name,
            digest,
            config,
            secrets,
            allow,
            ca_file,
            limits,
            breaker,
            lanes,
        } = self;
        let config: Vec<_> =
            config.iter().map(|(key, value)| (key, format!("{} bytes", value.len()))).collect();
        f.debug_struct("BackendConfig")
            .field("name", name)
            .field("module_path", module_path)
            .field("class_name", class_name)
            .field("digest", digest)
            .field("config", &config)
            .field("secrets", secrets)
            .field("allow", allow)
            .field("ca_file", ca_file)
            .field("limits", limits)
            .field("breaker", breaker)
            .field("lanes", lanes)
            .finish()
    }
}

/// Reports whether a text may name a class: a class name in any case style, or `ns:pkg/interface@version` and resource.
/// Whether the component exports it is checked when the backend is loaded.
pub(super) fn is_class_name(name: &str) -> bool {
    (1..=CLASS_NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'-' | b'_' | b':' | b'/' | b'@' | b'.' | b'+' | b'#')
        })
}

fn show_path(path: &Path) -> String {
    path.display().to_string()
}

fn read_class_name(raw: &RawSetting, _: &Context<'_>) -> Result<String, ConfigError> {
    let expected = "the name of a class, such as ExternalLogBackend";
    let name = raw.text(expected)?;
    if is_class_name(name) { Ok(name.to_owned()) } else { Err(raw.wrong(expected)) }
}

fn read_digest(raw: &RawSetting, _: &Context<'_>) -> Result<Option<Sha256Digest>, ConfigError> {
    let expected = "`sha256:` followed by 64 hexadecimal digits";
    let digest = Sha256Digest::parse(raw.text(expected)?);
    digest.map(Some).ok_or_else(|| raw.wrong(expected))
}

fn read_ca_file(raw: &RawSetting, context: &Context<'_>) -> Result<Option<PathBuf>, ConfigError> {
    let path = raw.text("the path of a file of certificates (PEM)")?;
    Ok(Some(context.base_dir.join(path)))
}

fn read_module_path(raw: &RawSetting, context: &Context<'_>) -> Result<PathBuf, ConfigError> {
    let path = raw.text("the path of a .wasm file, as text")?;
    match python_module_example(path) {
        None => Ok(context.base_dir.join(path)),
        Some(example) => Err(raw.refuse(ConfigProblem::PythonModule {
            key: raw.key.clone(),
            found: path.to_owned(),
            example,
        })),
    }
}

/// If `path` reads as a Python module (`pkg.module`, `module.py`), returns a path to give instead.
fn python_module_example(path: &str) -> Option<String> {
    let is_identifier = |part: &str| {
        !part.starts_with(|c: char| c.is_ascii_digit())
            && !part.is_empty()
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let parts: Vec<&str> = path.split('.').collect();
    let is_wasm = parts.len() > 1 && parts.last().is_some_and(|end| end.eq_ignore_ascii_case("wasm"));
    if is_wasm || !parts.iter().all(|part| is_identifier(part)) {
        return None;
    }
    let ([.., module, "py"] | [.., module]) = parts.as_slice() else {
        return None;
    };
    Some(format!("backends/{module}.wasm"))
}
