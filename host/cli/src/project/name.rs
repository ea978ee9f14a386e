//! The name of a project, and the names that are made of it.

use thiserror::Error;

/// Most bytes of a name: those that a configuration allows for the name of a backend.
const BYTES_MAX: usize = 64;

/// Names that Rust or this repository uses.
const TAKEN: [&str; 10] = [
    "alloc",
    "core",
    "kvtier",
    "kvtier-cli",
    "kvtier-guest",
    "kvtier-guest-macros",
    "proc-macro",
    "std",
    "test",
    "wit",
];

/// Rust's keywords in lower case, which cannot name a crate.
const KEYWORDS: [&str; 52] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "union", "unsafe", "unsized", "use",
    "virtual", "where", "while", "yield",
];

/// The traits of the SDK, which a class of the same name would hide.
const TRAITS: [&str; 2] = ["BlockingBackend", "StorageBackend"];

/// The ending of each class, and the last word of a name that needs no ending.
const ENDING: &str = "Backend";

/// The name of a project: words of lower-case letters and digits with `-` or `_` between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

/// A text cannot name a project.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// It has other characters, begins with a digit, or is empty or too long.
    #[error(
        "use 1 to 64 lower-case letters and digits, with `-` or `_` between words and a letter first, such as \
         `{suggestion}`"
    )]
    Form {
        /// A name of this form.
        suggestion: String,
    },
    /// A tool or a language uses the name.
    #[error("this name is taken: it is a keyword or a crate; add a word, such as `{suggestion}`")]
    Taken {
        /// A name that is not taken.
        suggestion: String,
    },
}

impl Name {
    /// Returns the name in a text.
    ///
    /// # Errors
    /// If it is not a name; the message proposes one that is.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if !has_form(text) {
            return Err(NameError::Form { suggestion: suggest(text) });
        }
        let name = Self(text.to_owned());
        let is_taken = TAKEN.contains(&text.replace('_', "-").as_str()) || KEYWORDS.contains(&text);
        if is_taken || TRAITS.contains(&name.class().as_str()) {
            return Err(NameError::Taken { suggestion: format!("{text}-cache") });
        }
        Ok(name)
    }

    /// Returns the name itself: `my-cache`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of a module: `my_cache`.
    pub fn module(&self) -> String {
        self.0.replace('-', "_")
    }

    /// Returns the name of a class: `MyCacheBackend`.
    pub fn class(&self) -> String {
        let words = self.0.split(['-', '_']).map(capitalized);
        let mut class: String = words.collect();
        if !class.ends_with(ENDING) {
            class.push_str(ENDING);
        }
        class
    }
}

fn has_form(text: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.split(['-', '_']).all(is_word)
}

/// Makes a name of the letters and digits of a text.
fn suggest(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars().filter(char::is_ascii).take(BYTES_MAX / 2) {
        let begins_word = c.is_ascii_uppercase() && name.ends_with(|last: char| last.is_ascii_lowercase());
        if (begins_word || !c.is_ascii_alphanumeric()) && !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if c.is_ascii_alphabetic() || (c.is_ascii_digit() && !name.is_empty()) {
            name.push(c.to_ascii_lowercase());
        }
    }
    let name = name.trim_end_matches('-');
    if name.is_empty() { "my-cache".to_owned() } else { name.to_owned() }
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_converted_to_that_of_a_module_and_of_a_class() {
        for (text, module, class) in [
            ("my-cache", "my_cache", "MyCacheBackend"),
            ("my_cache", "my_cache", "MyCacheBackend"),
            ("s3-backend", "s3_backend", "S3Backend"),
            ("backend", "backend", "Backend"),
            ("a", "a", "ABackend"),
            ("log2", "log2", "Log2Backend"),
        ] {
            let name = Name::parse(text).unwrap();
            assert_eq!((name.as_str(), name.module().as_str(), name.class().as_str()), (text, module, class));
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_name_that_is_accepted() {
        let long = "x".repeat(65);
        for (text, suggestion) in [
            ("MyCache", "my-cache"),
            ("my cache", "my-cache"),
            ("../up", "up"),
            ("2nd", "nd"),
            ("a--b", "a-b"),
            ("a-", "a"),
            ("", "my-cache"),
            ("ü", "my-cache"),
            (&long, &long[..32]),
        ] {
            let error = Name::parse(text).expect_err(text);
            assert_eq!(error, NameError::Form { suggestion: suggestion.to_owned() }, "{text}");
            assert!(Name::parse(suggestion).is_ok(), "{suggestion}");
        }
        for text in ["async", "kvtier_guest", "kvtier-guest", "test", "storage"] {
            let suggestion = format!("{text}-cache");
            assert!(Name::parse(&suggestion).is_ok());
            assert_eq!(Name::parse(text), Err(NameError::Taken { suggestion }));
        }
    }
}
