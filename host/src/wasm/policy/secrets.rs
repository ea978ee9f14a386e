//! Keeps a backend's secrets out of what it writes into logs and errors.
//!
//! This protects against a backend that prints its configuration, not against one that means to leak a secret: it could
//! encode the secret, or send it to any target that it may connect to.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::limits::SECRET_HIDDEN_BYTES_MIN;
use crate::text::escaped;

const HIDDEN: &str = "[secret]";

/// The secrets of one backend, in every form in which a line may contain them.
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
            .flat_map(|secret| [secret, secret.trim()])
            .flat_map(spellings)
            .filter(|form| form.len() >= SECRET_HIDDEN_BYTES_MIN)
            .collect();
        // The longest first: one secret may be part of another.
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        Self(forms.into())
    }
}

/// Returns a text as it is and as languages quote it, without the quotes around it.
fn spellings(text: &str) -> [String; 5] {
    let unquoted = |quoted: String| quoted[1..quoted.len() - 1].to_owned();
    [
        text.to_owned(),
        unquoted(format!("{text:?}")),
        unquoted(serde_json::Value::from(text).to_string()),
        text.escape_debug().to_string(),
        // In quotes of the other kind.
        escaped(text, usize::MAX),
    ]
}

impl Secrets {
    /// Returns the text with each secret in it replaced. It may miss some in a text that was escaped, trimmed or cut
    /// before.
    pub(in crate::wasm) fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for form in self.0.iter() {
            if text.contains(form) {
                text = Cow::Owned(text.replace(form, HIDDEN));
            }
        }
        text
    }

    /// As [`Self::hide`], for only the beginning of a text: the part that is left out may end a secret. Returns at
    /// least `bytes` of the text, if it has as many and no secrets.
    pub(in crate::wasm) fn hide_beginning<'a>(&self, text: &'a str, bytes: usize) -> Cow<'a, str> {
        let end = text.floor_char_boundary(bytes.saturating_add(2 * self.longest()));
        let mut beginning = self.hide(&text[..end]);
        if end < text.len() {
            let whole = beginning.floor_char_boundary(beginning.len().saturating_sub(self.longest()));
            beginning = match beginning {
                Cow::Borrowed(text) => Cow::Borrowed(&text[..whole]),
                Cow::Owned(mut text) => {
                    text.truncate(whole);
                    Cow::Owned(text)
                }
            };
        }
        beginning
    }

    /// As [`Self::hide`], for a text whose beginning is lost, perhaps with part of a secret.
    pub(in crate::wasm) fn hide_end(&self, text: &str) -> String {
        let rests = self.0.iter().filter_map(|form| {
            (1..=form.len() - SECRET_HIDDEN_BYTES_MIN)
                .filter_map(|at| form.get(at..))
                .find(|rest| text.starts_with(rest))
        });
        match rests.max_by_key(|rest| rest.len()) {
            Some(rest) => format!("{HIDDEN}{}", self.hide(&text[rest.len()..])),
            None => self.hide(text).into_owned(),
        }
    }

    fn longest(&self) -> usize {
        self.0.first().map_or(0, String::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced_in_every_form_and_place_of_a_line() {
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

    #[test]
    fn secrets_that_need_escapes_are_replaced_as_languages_quote_them() {
        let secret = "{\"key\": \"xyz\\n\"}\n";
        let secrets: Secrets = [secret, "it's the key\n"].into_iter().collect();
        assert_eq!(secrets.hide(&format!("{:?}", "it's the key\n")), "\"[secret]\"");
        let json = serde_json::Value::from(secret).to_string();
        let python = r#"'{"key": "xyz\\n"}\n'"#;
        for said in [secret, secret.trim(), &format!("{secret:?}"), &json, &escaped(secret, 1000), python] {
            let hidden = secrets.hide(said);
            assert!(hidden.contains("[secret]") && !hidden.contains("key"), "{said} is shown as {hidden}");
        }
    }

    #[test]
    fn a_secret_that_a_cut_goes_through_is_replaced_too() {
        let secret = "é0123456789";
        let secrets: Secrets = [secret].into_iter().collect();
        for before in 0..40 {
            let text = format!("{}{secret}{}", "x".repeat(before), "y".repeat(100));
            let hidden = secrets.hide_beginning(&text, 20);
            assert!(!hidden.contains('é') && !hidden.contains('1'), "{before}: {hidden}");
            let expected = format!("{}[secret]", "x".repeat(before));
            assert_eq!(
                hidden[..hidden.len().min(20)],
                format!("{expected}{}", "y".repeat(20))[..20],
                "{before}"
            );
        }
        assert_eq!(secrets.hide_beginning(secret, 1), "[secret]", "nothing is left out");
        for (text, expected) in [
            ("6789, then é0123456789", "[secret], then [secret]"),
            ("0123456789", "[secret]"),
            ("89 is short", "89 is short"),
            ("é0123456789!", "[secret]!"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(secrets.hide_end(text), expected);
        }
    }
}
