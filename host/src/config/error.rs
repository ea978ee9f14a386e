//! Errors of the configuration: the place, the key, the value found, and the remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::secret::SecretError;
use crate::limits::CONFIG_MESSAGE_BYTES_MAX;
use crate::text::shown;

/// The origin of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A configuration file.
    File(PathBuf),
    /// A text given to [`Config::from_yaml`](super::Config::from_yaml) or
    /// [`Config::from_json`](super::Config::from_json).
    Text,
    /// An environment variable.
    Variable(String),
    /// Values set by the embedding program.
    Code,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "configuration file `{}`", path.display()),
            Self::Text => f.write_str("configuration text"),
            Self::Variable(name) => write!(f, "environment variable `{name}`"),
            Self::Code => f.write_str("configuration built in code"),
        }
    }
}

/// The reason why a configuration was refused: the place and the problem.
///
/// The message is complete, without a further source. It is one line: quotes from a configuration are escaped, and cut
/// if they are long.
#[derive(Debug, thiserror::Error)]
#[error("{}", shown(&format!("{origin}: {problem}"), CONFIG_MESSAGE_BYTES_MAX))]
pub struct ConfigError {
    origin: Origin,
    // Boxed so that a `Result<_, ConfigError>` stays small.
    problem: Box<ConfigProblem>,
}

impl ConfigError {
    pub(super) fn new(origin: &Origin, problem: ConfigProblem) -> Self {
        Self { origin: origin.clone(), problem: Box::new(problem) }
    }

    /// Returns where the refused setting comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the problem.
    #[must_use]
    pub fn problem(&self) -> &ConfigProblem {
        &self.problem
    }
}

/// The problem with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message explains its fields")]
pub enum ConfigProblem {
    /// The file could not be read.
    #[error("cannot be read: {reason}; check the path")]
    Unreadable { reason: io::Error },
    /// The text is larger than a configuration may be.
    #[error("is larger than {max_bytes} bytes, the most a configuration may have; is this the right file?")]
    TooLarge { max_bytes: u64 },
    /// The text is not UTF-8.
    #[error("is not UTF-8 text; give a YAML text file")]
    NotUtf8,
    /// The text does not follow its format.
    #[error("is not valid {format}: {message}")]
    Syntax { format: &'static str, message: String },
    /// The document is a list or a scalar.
    #[error("must be a mapping of keys to values (`key: value` lines), found {found}")]
    NotAMapping { found: String },
    /// An unknown key in a place where that refuses start.
    #[error("unknown key `{key}`; {advice}")]
    UnknownKey { key: String, advice: String },
    /// The same setting is given twice.
    #[error("`{key}` is given twice, dotted and nested; keep one")]
    DuplicateKey { key: String },
    /// A key that belongs elsewhere.
    #[error("`{key}` does not belong here; move it {place}")]
    Misplaced { key: String, place: &'static str },
    /// A value of the wrong type or form.
    #[error("`{key}`: expected {expected}, found {found}")]
    WrongValue { key: String, expected: String, found: String },
    /// A number outside its range.
    #[error("`{key}`: {found} is out of range; give a value from {min} to {max}")]
    OutOfRange { key: String, found: String, min: String, max: String },
    /// Two spellings of one setting disagree.
    #[error("`{first}` and `{second}` are two spellings of one setting and have different values; keep one")]
    Conflict { first: String, second: String },
    /// A listed backend lacks a required key.
    #[error(
        "backend `{backend}` is listed but `{key}` is missing; give it {place}or take the name off the list"
    )]
    MissingKey { backend: String, key: String, place: String },
    /// A backend name with characters that are not allowed.
    #[error("`{key}`: {name:?} cannot name a backend; use 1 to {chars_max} letters, digits, `_` or `-`")]
    InvalidName { key: String, name: String, chars_max: usize },
    /// A backend name that belongs to a built-in tier.
    #[error("`{key}`: the backend name `{name}` belongs to a built-in tier; choose another name")]
    ReservedName { key: String, name: String },
    /// A backend name that is listed twice.
    #[error("`{key}`: the backend `{name}` is listed twice; names must be unique")]
    DuplicateName { key: String, name: String },
    /// More backends than a chain may have.
    #[error("`{key}`: {found} backends are listed; a chain has at most {max}")]
    TooManyBackends { key: String, found: usize, max: usize },
    /// A Python module as `module_path`, as in files of `LMCache`.
    #[error(
        "`{key}`: `{found}` looks like a Python module; kvtier loads WebAssembly components, so give the path \
         of a `.wasm` file such as `{example}`, relative to the configuration file (write `./{found}` if it \
         is a file of that name)"
    )]
    PythonModule { key: String, found: String, example: String },
    /// Two entries of a list that must differ.
    #[error("`{key}`: {what} is given twice; keep one")]
    Repeated { key: String, what: String },
    /// A word in braces that looks like a misspelt placeholder.
    #[error("`{key}`: `{{{found}}}` is not a placeholder; did you mean `{{{near}}}`?")]
    Placeholder { key: String, found: String, near: &'static str },
    /// A secret that could not be resolved.
    #[error("`{key}`: {reason}")]
    Secret { key: String, reason: SecretError },
    /// A value that is not Unicode.
    #[error("is not Unicode text; set it to UTF-8 text or unset it")]
    NotUnicode,
}
