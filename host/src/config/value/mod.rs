//! Turns the value of one setting into a typed value, or returns the expected form.

pub(super) mod bound;
pub(super) mod plain;
pub(super) mod size;

use std::collections::BTreeMap;
use std::time::Duration;

use self::bound::Bound;
use self::plain::{SizeError, boolean, has_leading_zero, size, whole};
use self::size::{BYTES_PER_GIB, show_gib, show_size};
use crate::config::error::{ConfigError, ConfigProblem, Origin};
use crate::config::format::{Node, shorten};
use crate::limits::SIZE_BYTES_MAX;

/// Forms of a boolean, for error messages.
const BOOLEAN_FORM: &str = "true or false (or 1/0, yes/no, on/off)";

/// Form of a whole number, for error messages. YAML 1.1 reads `020` as 16, YAML 1.2 as 20.
const WHOLE_FORM: &str = "a whole number in decimal digits, without leading zeros and `_`";

/// Form of a size, for error messages. `M` alone is 10^6 in Kubernetes and 2^20 elsewhere.
const SIZE_FORM: &str =
    "a size in bytes such as 67108864, \"64MiB\", \"64Mi\" or \"64MB\" (`M` alone has two meanings)";

/// The environment, by name.
pub(in crate::config) type Environment = BTreeMap<String, String>;

/// One setting as it is written: its full dotted key, its value and its place.
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

impl RawSetting {
    /// Makes the error of a value of the wrong type or form, and shows it.
    pub(in crate::config) fn wrong(&self, expected: impl Into<String>) -> ConfigError {
        self.wrong_found(expected, self.value.describe())
    }

    /// Makes the error of a value of the wrong type or form, without showing it.
    pub(in crate::config) fn wrong_hidden(&self, expected: impl Into<String>) -> ConfigError {
        self.wrong_found(expected, self.value.describe_type())
    }

    pub(in crate::config) fn wrong_found(&self, expected: impl Into<String>, found: String) -> ConfigError {
        self.refuse(ConfigProblem::WrongValue { key: self.key.clone(), expected: expected.into(), found })
    }

    fn out_of_range(&self, min: String, max: String) -> ConfigError {
        let found = match &self.value {
            Node::Int(value) => value.to_string(),
            Node::Float(value) => format!("{value:?}"),
            Node::Text(text) => shorten(text),
            other => other.describe(),
        };
        self.refuse(ConfigProblem::OutOfRange { key: self.key.clone(), found, min, max })
    }

    /// Reads a whole number within `bound`.
    pub(in crate::config) fn whole(&self, bound: &Bound) -> Result<u64, ConfigError> {
        let number = match &self.value {
            Node::Int(value) => Some(*value),
            // `as` saturates, and the range check follows.
            Node::Float(value) if value.fract() == 0.0 => Some(*value as i128),
            Node::Float(value) if value.is_infinite() => Some(i128::MAX),
            Node::Text(text) => whole(text),
            _ => None,
        };
        let number = number.ok_or_else(|| self.wrong(WHOLE_FORM))?;
        u64::try_from(number)
            .ok()
            .filter(|value| bound.accepts(*value))
            .ok_or_else(|| self.out_of_range(bound.min.to_string(), bound.max.to_string()))
    }

    /// Reads a count within `bound`.
    pub(in crate::config) fn count(&self, bound: &Bound) -> Result<usize, ConfigError> {
        self.whole(bound).map(|value| value as usize)
    }

    /// Reads milliseconds within `bound`.
    pub(in crate::config) fn millis(&self, bound: &Bound) -> Result<Duration, ConfigError> {
        self.whole(bound).map(Duration::from_millis)
    }

    /// Reads seconds within `bound`.
    pub(in crate::config) fn secs(&self, bound: &Bound) -> Result<Duration, ConfigError> {
        self.whole(bound).map(Duration::from_secs)
    }

    /// Reads a size in bytes, plain or with a unit.
    pub(in crate::config) fn size_bytes(&self, bound: &Bound) -> Result<u64, ConfigError> {
        let range = || self.out_of_range(show_size(bound.min), show_size(bound.max));
        let bytes = match &self.value {
            Node::Int(value) => u64::try_from(*value).map_err(|_| range())?,
            Node::Text(text) => size(text, SIZE_BYTES_MAX).map_err(|error| match error {
                SizeError::Form => self.wrong(SIZE_FORM),
                SizeError::Range => range(),
            })?,
            // JSON writers may write `1e9` or numbers beyond 64 bits.
            Node::Float(value) if value.fract() == 0.0 || value.is_infinite() => {
                if !(0.0..=SIZE_BYTES_MAX as f64).contains(value) {
                    return Err(range());
                }
                *value as u64
            }
            _ => return Err(self.wrong(SIZE_FORM)),
        };
        if bound.accepts(bytes) { Ok(bytes) } else { Err(range()) }
    }

    /// Reads a size in GiB, the unit of `LMCache`, and returns whole bytes.
    pub(in crate::config) fn gib_as_bytes(&self, bound: &Bound) -> Result<u64, ConfigError> {
        let gib = match &self.value {
            Node::Int(value) => Some(*value as f64),
            Node::Float(value) => Some(*value),
            Node::Text(text) if has_leading_zero(text.trim()) => None,
            Node::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        let gib = gib
            .filter(|value: &f64| !value.is_nan())
            .ok_or_else(|| self.wrong("a number of GiB such as 5 or 0.5"))?;
        let bytes = gib * BYTES_PER_GIB;
        if bytes == 0.0 && bound.or_zero {
            return Ok(0);
        }
        if bytes >= bound.min as f64 && bytes <= bound.max as f64 {
            Ok(bytes as u64)
        } else {
            let shown = |bytes| format!("{} GiB", show_gib(bytes));
            Err(self.out_of_range(shown(bound.min), shown(bound.max)))
        }
    }

    /// Reads a boolean in any of the usual words.
    pub(in crate::config) fn boolean(&self) -> Result<bool, ConfigError> {
        let value = match &self.value {
            Node::Bool(value) => return Ok(*value),
            Node::Int(value) => boolean(&value.to_string()),
            Node::Text(text) => boolean(text),
            _ => None,
        };
        value.ok_or_else(|| self.wrong(BOOLEAN_FORM))
    }

    /// Reads text that is not empty.
    pub(in crate::config) fn text(&self, expected: &str) -> Result<&str, ConfigError> {
        match &self.value {
            Node::Text(text) if !text.trim().is_empty() => Ok(text.trim()),
            _ => Err(self.wrong(expected)),
        }
    }

    /// Reads one of a few words, in any case.
    pub(in crate::config) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let found = match &self.value {
            Node::Text(text) => words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.trim())),
            _ => None,
        };
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.wrong(format!("one of {}", words.join(", ")))
        })
    }

    /// Reads a list of names: a list unchanged, or text split at commas, trimmed, without empty parts.
    pub(in crate::config) fn names(&self) -> Result<Vec<String>, ConfigError> {
        match &self.value {
            Node::Text(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()),
            Node::List(_) => self.items("a list of names"),
            _ => Err(self.wrong("a list of names, or text with names between commas")),
        }
    }

    /// Reads a list of texts; one text is a list of one.
    pub(in crate::config) fn items(&self, expected: &str) -> Result<Vec<String>, ConfigError> {
        match &self.value {
            Node::Text(text) => Ok(vec![text.clone()]),
            Node::List(items) => items
                .iter()
                .map(|item| match item {
                    Node::Text(text) => Ok(text.clone()),
                    other => {
                        Err(self.wrong_found(expected, format!("a list with {} in it", other.describe())))
                    }
                })
                .collect(),
            _ => Err(self.wrong(expected)),
        }
    }

    /// Reads a scalar as the text that a class's constructor gets.
    pub(in crate::config) fn scalar_text(&self) -> Result<String, ConfigError> {
        match &self.value {
            Node::Text(text) => Ok(text.clone()),
            Node::Bool(value) => Ok(value.to_string()),
            Node::Int(value) => Ok(value.to_string()),
            Node::Float(value) => Ok(format!("{value:?}")),
            Node::Null => Err(self.wrong("a value (empty text is written \"\")")),
            Node::List(_) | Node::Map(_) => Err(self.wrong("one text, number or boolean")),
        }
    }
}
