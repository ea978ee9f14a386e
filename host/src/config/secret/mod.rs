//! Secrets: their sources, and values that are never shown and are wiped when they are dropped.

mod resolve;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Holds a secret's bytes and shows only their number. They are wiped when the last copy is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps the bytes of a secret.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Returns the secret's bytes.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the secret as text, or `None` if it is not UTF-8.
    #[must_use]
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Returns the secret's length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// The source of a secret. It holds no secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretSource {
    /// An environment variable of the host process (`env:NAME`); one line break at its end is removed.
    Env(String),
    /// A file (`file:PATH`); one line break at its end is removed.
    File(PathBuf),
    /// Another source that may be empty or missing (`?` at its end).
    Optional(Box<SecretSource>),
}

/// Form of a secret's source, for error messages.
pub(super) const SECRET_FORM: &str =
    "`env:NAME` or `file:PATH` (a secret is never written into the configuration itself)";

/// The reason why a secret could not be resolved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message explains its fields")]
pub enum SecretError {
    /// The variable does not exist.
    #[error("the environment variable `{name}` is not set; set it or name another source")]
    NotSet { name: String },
    /// The variable is not Unicode.
    #[error("the environment variable `{name}` is not Unicode text; use `file:PATH` for binary secrets")]
    NotUnicode { name: String },
    /// The file could not be read.
    #[error("the secret file `{}` cannot be read: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: io::Error },
    /// The secret is larger than a secret may be.
    #[error("the secret in {place} is larger than {max_bytes} bytes")]
    TooLarge { place: String, max_bytes: u64 },
    /// The secret has no bytes.
    #[error("the secret in {place} is empty")]
    Empty { place: String },
    /// The secret is too short for its use.
    #[error("the secret in {place} has {found} bytes; it needs at least {min}")]
    TooShort { place: String, found: usize, min: usize },
}

impl SecretError {
    /// Reports whether the source of the secret is missing or empty.
    fn is_absence(&self) -> bool {
        match self {
            Self::NotSet { .. } | Self::Empty { .. } => true,
            Self::Unreadable { reason, .. } => reason.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

impl SecretSource {
    /// Parses `env:NAME` or `file:PATH`, optional with a `?` at the end. A relative path is relative to `base_dir`.
    pub(super) fn parse_with_optional(text: &str, base_dir: &Path) -> Option<Self> {
        match text.trim().strip_suffix('?') {
            Some(source) => Some(Self::Optional(Box::new(Self::parse(source, base_dir)?))),
            None => Self::parse(text, base_dir),
        }
    }

    /// Parses `env:NAME` or `file:PATH`. A relative path is relative to `base_dir`.
    pub(super) fn parse(text: &str, base_dir: &Path) -> Option<Self> {
        match text.trim().split_once(':')? {
            _ if text.trim().ends_with('?') => None,
            ("env", name) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Some(Self::Env(name.to_owned()))
            }
            ("file", path) if !path.is_empty() => Some(Self::File(base_dir.join(path))),
            _ => None,
        }
    }

    /// Reports whether the secret is read from a file, and so may change while the process runs.
    #[must_use]
    pub fn is_file(&self) -> bool {
        match self {
            Self::Env(_) => false,
            Self::File(_) => true,
            Self::Optional(source) => source.is_file(),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "`env:{name}`"),
            Self::File(path) => write!(f, "`file:{}`", path.display()),
            Self::Optional(source) => write!(f, "{source}, which is optional"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_length_only() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(7 bytes)");
    }

    #[test]
    fn other_forms_are_no_sources() {
        for text in ["hunter2", "env:", "file:", "ENV:X", "env:A=B", "vault:x", "env:A?", "file:a?"] {
            assert_eq!(SecretSource::parse(text, Path::new(".")), None, "{text}");
        }
    }
}
