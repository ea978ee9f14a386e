//! Secrets: where they come from, and values that never show.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::file::open_file;
use crate::limits::{BACKENDS_MAX, SECRET_BYTES_MAX};
use crate::sync::lock;

/// Holds a secret's bytes and shows only their number.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps the bytes of a secret.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the secret's bytes.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the secret as text, or `None` when it is not UTF-8.
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

/// Says where a secret is read from. It holds no secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretSource {
    /// An environment variable of the host process (`env:NAME`); one line break at its end does not count.
    Env(String),
    /// A file (`file:PATH`); one line break at its end does not count.
    File(PathBuf),
    /// Another source that may have nothing (`?` at its end).
    Optional(Box<SecretSource>),
}

/// Reports why a secret could not be resolved.
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
    /// The secret is shorter than its use asks.
    #[error("the secret in {place} has {found} bytes; it needs at least {min}")]
    TooShort { place: String, found: usize, min: usize },
}

impl SecretError {
    /// Reports whether there is nothing where the secret would be.
    fn is_absence(&self) -> bool {
        match self {
            Self::NotSet { .. } | Self::Empty { .. } => true,
            Self::Unreadable { reason, .. } => reason.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

impl SecretSource {
    /// Parses `env:NAME` or `file:PATH`, optional with a `?` at the end; a relative path is taken from `base_dir`.
    pub(super) fn parse_with_optional(text: &str, base_dir: &Path) -> Option<Self> {
        match text.trim().strip_suffix('?') {
            Some(source) => Some(Self::Optional(Box::new(Self::parse(source, base_dir)?))),
            None => Self::parse(text, base_dir),
        }
    }

    /// Parses `env:NAME` or `file:PATH`; a relative path is taken from `base_dir`.
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

    /// Reads the secret from the process environment or the file.
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        self.resolve_with(|name| std::env::var_os(name))
    }

    /// Reads the secret, or returns `None` if it is optional and there is none: no such variable or file, or an empty one.
    pub fn read(&self) -> Result<Option<Secret>, SecretError> {
        match (self, self.resolve()) {
            (Self::Optional(_), Err(error)) if error.is_absence() => Ok(None),
            (_, outcome) => outcome.map(Some),
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

    /// Reads the secret, asking `variable` for environment variables.
    pub fn resolve_with(
        &self,
        variable: impl FnOnce(&str) -> Option<OsString>,
    ) -> Result<Secret, SecretError> {
        let bytes = match self {
            Self::Env(name) => {
                let value = variable(name).ok_or_else(|| SecretError::NotSet { name: name.clone() })?;
                let text = value.into_string().map_err(|_| SecretError::NotUnicode { name: name.clone() })?;
                text.into_bytes()
            }
            Self::File(path) => read_secret_file(path)
                .map_err(|reason| SecretError::Unreadable { path: path.clone(), reason })?,
            Self::Optional(source) => return source.resolve_with(variable),
        };
        let bytes = without_line_break(bytes);
        if let Some(what) = stray(&bytes).filter(|_| is_news(&self.to_string())) {
            let n_bytes = bytes.len();
            tracing::warn!(
                "the secret in {self} {what}, which is taken as part of it ({n_bytes} bytes); if it is refused, look there"
            );
        }
        if bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(SecretError::TooLarge { place: self.to_string(), max_bytes: SECRET_BYTES_MAX });
        }
        if bytes.is_empty() {
            return Err(SecretError::Empty { place: self.to_string() });
        }
        Ok(Secret(bytes))
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

fn read_secret_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open_file(path)?;
    let mode = file.metadata()?.permissions().mode();
    if let Some(risk) = exposure(mode).filter(|_| is_news(&path.display().to_string())) {
        // Not refused: orchestrators mount secrets readable by all, inside a container of their own.
        let (file, mode) = (path.display(), mode & 0o777);
        tracing::warn!(%file, "{risk} the secret file, whose mode is {mode:o}; chmod 600 it unless that is meant");
    }
    // Two bytes beyond the limit leave room for the line break and still show an oversized file.
    file.take(SECRET_BYTES_MAX + 3).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Takes one line break off the end, which editors, `echo` and orchestrators leave there.
fn without_line_break(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

/// Says what stands at an end of a secret although it seldom belongs there. It stays: a password may have it.
fn stray(bytes: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(bytes).ok()?;
    match text {
        text if text.starts_with('\u{feff}') => Some("begins with a byte order mark"),
        text if text.trim_end() != text => Some("ends in white space"),
        text if text.trim_start() != text => Some("begins with white space"),
        _ => None,
    }
}

/// Reports whether nothing has been pointed out about this place yet: secrets are read again whenever a backend is loaded.
fn is_news(place: &str) -> bool {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = lock(&SAID);
    said.len() < BACKENDS_MAX * 2 && said.insert(place.to_owned())
}

/// Says who besides its owner and its group's readers has a file of this mode.
fn exposure(mode: u32) -> Option<&'static str> {
    match mode {
        _ if mode & 0o022 != 0 => Some("others can replace"),
        _ if mode & 0o004 != 0 => Some("everyone can read"),
        _ => None,
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
    fn env_secrets_lose_one_line_break_and_must_exist() {
        let source = SecretSource::parse("env:PW", Path::new("/etc")).unwrap();
        for (value, secret) in
            [(" pass", " pass"), ("pass\n", "pass"), ("pass\r\n", "pass"), ("pass\n\n", "pass\n")]
        {
            let found = source.resolve_with(|_| Some(value.into())).unwrap();
            assert_eq!(found.expose_text(), Some(secret));
        }
        assert!(matches!(source.resolve_with(|_| Some("\n".into())), Err(SecretError::Empty { .. })));
        let error = source.resolve_with(|_| None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable `PW` is not set; set it or name another source"
        );
        let error = source.resolve_with(|_| Some("".into())).unwrap_err();
        assert_eq!(error.to_string(), "the secret in `env:PW` is empty");
    }

    #[test]
    fn file_secrets_are_relative_to_the_configuration_and_lose_one_line_break() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pw"), b"\xffsecret\r\n").unwrap();
        let secret = SecretSource::parse("file:pw", dir.path()).unwrap().resolve().unwrap();
        assert_eq!(secret.expose_bytes(), b"\xffsecret");
        assert_eq!(secret.expose_text(), None);
        let missing = SecretSource::parse("file:absent", dir.path()).unwrap();
        assert!(matches!(missing.resolve(), Err(SecretError::Unreadable { .. })));
    }

    #[test]
    fn a_secret_of_the_largest_size_passes_and_one_byte_more_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        let source = SecretSource::File(path.clone());
        let mut bytes = vec![b'x'; SECRET_BYTES_MAX as usize];
        bytes.extend(b"\r\n");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(source.resolve().unwrap().len_bytes() as u64, SECRET_BYTES_MAX);
        std::fs::write(&path, vec![b'x'; SECRET_BYTES_MAX as usize + 1]).unwrap();
        assert!(matches!(source.resolve(), Err(SecretError::TooLarge { .. })));
    }

    #[test]
    fn white_space_at_the_end_of_a_secret_is_pointed_out() {
        assert_eq!(stray(b"pass\n"), Some("ends in white space"));
        assert_eq!(stray(b"\tpass"), Some("begins with white space"));
        assert_eq!(stray(b"\xef\xbb\xbfpass"), Some("begins with a byte order mark"));
        assert_eq!(stray(b"a pass"), None);
        assert_eq!(stray(b"\xff\n"), None, "not a text");
    }

    #[test]
    fn secret_files_that_others_can_read_or_replace_are_pointed_out() {
        for mode in [0o600, 0o400, 0o640, 0o440, 0o100_600] {
            assert_eq!(exposure(mode), None, "{mode:o}");
        }
        for (mode, risk) in [
            (0o644, "everyone can read"),
            (0o604, "everyone can read"),
            (0o660, "others can replace"),
            (0o602, "others can replace"),
            (0o666, "others can replace"),
        ] {
            assert_eq!(exposure(mode), Some(risk), "{mode:o}");
        }
    }

    #[test]
    fn optional_secrets_may_be_missing_or_empty_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let parse = |text: &str| SecretSource::parse_with_optional(text, dir.path()).unwrap();
        let optional = parse("file:pw?");
        assert_eq!(optional, SecretSource::Optional(Box::new(parse("file:pw"))));
        assert!(optional.is_file() && !parse("env:PW?").is_file());
        assert_eq!(optional.read().unwrap(), None);
        assert!(parse("file:pw").read().is_err());
        std::fs::write(dir.path().join("pw"), "\n").unwrap();
        assert_eq!(optional.read().unwrap(), None);
        std::fs::write(dir.path().join("pw"), "hunter2\n").unwrap();
        assert_eq!(optional.read().unwrap(), Some(Secret::new("hunter2")));
        assert!(matches!(parse("file:.?").read(), Err(SecretError::Unreadable { .. })), "a directory");
        assert_eq!(parse("env:KVTIER_TEST_NO_SUCH_VARIABLE?").read().unwrap(), None);
        for text in ["file:pw??", "env:?", "?"] {
            assert_eq!(SecretSource::parse_with_optional(text, dir.path()), None, "{text}");
        }
    }

    #[test]
    fn other_forms_are_no_sources() {
        for text in ["hunter2", "env:", "file:", "ENV:X", "env:A=B", "vault:x", "env:A?", "file:a?"] {
            assert_eq!(SecretSource::parse(text, Path::new(".")), None, "{text}");
        }
    }
}
