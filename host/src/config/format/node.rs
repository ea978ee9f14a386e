//! The untyped tree of a configuration text.

use crate::config::hide::without_user_parts;

/// How much of a text value an error message shows, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// One value of a configuration text.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum Node {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Describes the value for an error message.
    pub(in crate::config) fn describe(&self) -> String {
        match self {
            Self::Null => "no value".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value:?}"),
            // The user part of a URL is usually a password.
            Self::Text(text) => format!("the text {:?}", shorten(&without_user_parts(text))),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Describes the value's type and length but not the value, for keys that may hold secrets.
    pub(in crate::config) fn describe_type(&self) -> String {
        match self {
            Self::Null => "no value".to_owned(),
            Self::Bool(_) => "a boolean".to_owned(),
            Self::Int(_) | Self::Float(_) => "a number".to_owned(),
            Self::Text(text) => format!("another text of {} bytes (not shown)", text.len()),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Reports whether there is no value, or an empty text.
    pub(in crate::config) fn is_blank(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Text(text) => text.trim().is_empty(),
            _ => false,
        }
    }
}

/// Cuts a text to the length that an error message shows.
pub(in crate::config) fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS_MAX).chain("...".chars()).collect()
}
