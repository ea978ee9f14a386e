//! Keeps a backend's secrets out of what it writes into logs and errors.
//!
//! This is for the backend that prints its configuration, not for one that wants a secret to get out: that one
//! spells it differently. What it is given, it may also send to wherever it may connect.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::limits::SECRET_HIDDEN_BYTES_MIN;

const HIDDEN: &str = "[secret]";

/// The secrets of one backend, in every form in which they may stand in a line.
#[derive(Clone, Default)]
pub(in crate::wasm) struct Secrets(Arc<[String]>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl<'a> FromIterator<&'a str> for Secrets {
    fn from_iter<I: IntoIterator<Item = &'a str>>(secrets: I) -> Self {
        let long = secrets.into_iter().filter(|secret| secret.len() >= SECRET_HIDDEN_BYTES_MIN);
        let mut forms: Vec<String> = long
            .flat_map(|secret| {
                [secret.to_owned(), secret.trim().to_owned(), secret.escape_debug().to_string()]
            })
            .filter(|form| form.len() >= SECRET_HIDDEN_BYTES_MIN)
            .collect();
        // The longest first: one secret may be part of another.
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        Self(forms.into())
    }
}

impl Secrets {
    /// Returns the text with each secret in it replaced.
    pub(in crate::wasm) fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for form in self.0.iter() {
            if text.contains(form) {
                text = Cow::Owned(text.replace(form, HIDDEN));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced_wherever_they_stand_in_whatever_form_a_line_has() {
        let secrets: Secrets =
            ["hunter2", "hunter2-more", "two\nlines", " padded ", "abc"].into_iter().collect();
        assert_eq!(secrets.hide("a=hunter2,b=hunter2-more"), "a=[secret],b=[secret]");
        assert_eq!(secrets.hide("Config { key: \"two\\nlines\" }"), "Config { key: \"[secret]\" }");
        assert_eq!(secrets.hide("two\nlines|padded|"), "[secret]|[secret]|");
        assert_eq!(secrets.hide("abc"), "abc", "too short to be told from a word");
        assert!(matches!(secrets.hide("nothing"), Cow::Borrowed(_)));
        assert_eq!(Secrets::default().hide("hunter2"), "hunter2");
        assert!(!format!("{secrets:?}").contains("hunter2"));
    }
}
