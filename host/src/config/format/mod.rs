//! The text formats of a configuration. Both produce the same tree; no other module knows their parsers.

mod build;
mod json;
mod node;
#[cfg(feature = "yaml")]
mod yaml;

pub(super) use node::{Node, shorten};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    #[cfg(feature = "yaml")]
    Yaml,
    Json,
}

impl Format {
    /// The format of configuration files.
    #[cfg(feature = "yaml")]
    pub(super) const FILE: Self = Self::Yaml;

    /// The format of configuration files, in a library that was built without YAML.
    #[cfg(not(feature = "yaml"))]
    pub(super) const FILE: Self = Self::Json;

    /// Returns the name for messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "yaml")]
            Self::Yaml => "YAML",
            Self::Json => "JSON",
        }
    }

    /// Parses a document. A byte order mark at its beginning is skipped.
    pub(super) fn parse(self, text: &str) -> Result<Node, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match self {
            #[cfg(feature = "yaml")]
            Self::Yaml => yaml::parse(text),
            Self::Json => json::parse(text),
        }
    }
}
