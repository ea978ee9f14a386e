//! Reads a secret from its source, and logs suspicious facts about it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;

use zeroize::Zeroizing;

use super::{Secret, SecretError, SecretSource};
use crate::config::file::open_file;
use crate::limits::{BACKENDS_MAX, SECRET_BYTES_MAX};
use crate::sync::lock;

impl SecretSource {
    /// Reads the secret from the process environment or the file.
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        self.resolve_with(|name| std::env::var_os(name))
    }

    /// Reads the secret, or returns `None` if it is optional and its variable or file is missing or empty.
    pub fn read(&self) -> Result<Option<Secret>, SecretError> {
        match (self, self.resolve()) {
            (Self::Optional(_), Err(error)) if error.is_absence() => Ok(None),
            (_, outcome) => outcome.map(Some),
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
                Zeroizing::new(text.into_bytes())
            }
            Self::File(path) => read_secret_file(path)
                .map_err(|reason| SecretError::Unreadable { path: path.clone(), reason })?,
            Self::Optional(source) => return source.resolve_with(variable),
        };
        let bytes = without_line_break(bytes);
        if let Some(what) = stray(&bytes).filter(|_| is_news(&self.to_string())) {
            let n_bytes = bytes.len();
            tracing::warn!(
                "the secret in {self} {what}, which is part of it ({n_bytes} bytes); check this if the secret is refused"
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

fn read_secret_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Two bytes beyond the limit leave room for the line break, and one more shows an oversized file. Memory for all is
    // reserved in one step, because a growing vector leaves its bytes behind.
    const BYTES_MAX: usize = SECRET_BYTES_MAX as usize + 3;
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES_MAX));
    let file = open_file(path)?;
    let mode = file.metadata()?.permissions().mode();
    if let Some(risk) = exposure(mode).filter(|_| is_news(&path.display().to_string())) {
        // Not refused: orchestrators mount secrets readable by all inside a container.
        let (file, mode) = (path.display(), mode & 0o777);
        tracing::warn!(%file, "{risk} the secret file, whose mode is {mode:o}; chmod 600 it unless this is intended");
    }
    file.take(BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Takes one line break off the end, which editors, `echo` and orchestrators leave there.
fn without_line_break(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

/// Returns a description of unusual characters at an end of a secret. They are kept, since a password may have them.
fn stray(bytes: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(bytes).ok()?;
    match text {
        text if text.starts_with('\u{feff}') => Some("begins with a byte order mark"),
        text if text.trim_end() != text => Some("ends in white space"),
        text if text.trim_start() != text => Some("begins with white space"),
        _ => None,
    }
}

/// Reports whether nothing has been logged about this place yet: secrets are read again whenever a backend is loaded.
fn is_news(place: &str) -> bool {
    static LOGGED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut logged = lock(&LOGGED);
    logged.len() < BACKENDS_MAX * 2 && logged.insert(place.to_owned())
}

/// Returns what users other than the owner and the group's readers can do with a file of this mode.
fn exposure(mode: u32) -> Option<&'static str> {
    match mode {
        _ if mode & 0o022 != 0 => Some("others can replace"),
        _ if mode & 0o004 != 0 => Some("everyone can read"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

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
}
