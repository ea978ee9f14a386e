//! Finds values that may be secrets although they are not declared as secrets: values of keys that sound like a secret,
//! and the user part of a URL.

use std::borrow::Cow;

/// Replaces a hidden value.
pub(super) const HIDDEN: &str = "[hidden]";

/// Parts of keys whose values are secrets, or may be.
const WORDS: [&str; 11] =
    ["secret", "pass", "pwd", "token", "credential", "private", "auth", "bearer", "apikey", "_key", "-key"];

/// Parts of keys whose values are certainly secrets.
const SURE_WORDS: [&str; 5] = ["secret", "password", "passwd", "passphrase", "private_key"];

/// Reports whether a key of `config.*` sounds as if its value were a secret. In doubt it does.
#[must_use]
pub fn sounds_secret(key: &str) -> bool {
    secret_word(key).is_some()
}

/// Returns the end of the first word in `text` that sounds like a secret.
pub(super) fn secret_word(text: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    WORDS.iter().filter_map(|word| lower.find(word).map(|at| at + word.len())).min()
}

/// Reports whether a key of `config.*` belongs under `secrets.*`.
pub(super) fn is_surely_secret(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    SURE_WORDS.iter().any(|word| lower.contains(word))
}

/// Cuts the user part out of the URLs and addresses in a text: from the scheme, or else the beginning, to the last `@`.
/// In doubt it cuts too much, since a password may have any character.
#[must_use]
pub fn without_user_parts(text: &str) -> Cow<'_, str> {
    let (Some(first), Some(last)) = (text.find('@'), text.rfind('@')) else { return Cow::Borrowed(text) };
    let start = text[..first].rfind("://").map_or(0, |at| at + 3);
    Cow::Owned(format!("{}{HIDDEN}{}", &text[..start], &text[last..]))
}

/// Returns the parts of a value that may be secrets: the user parts of the URLs and addresses in it, whole and without
/// the name before the colon.
pub(crate) fn user_parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || c == ',') {
        let Some((before, _)) = word.rsplit_once('@') else { continue };
        let user = before.split_once("://").map_or(before, |(_, user)| user);
        parts.push(user);
        parts.extend(user.split_once(':').map(|(_, password)| password));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_parts_are_cut_wherever_they_begin_and_end() {
        for (text, shown) in [
            ("redis://bob:pw@host:6379/0", "redis://[hidden]@host:6379/0"),
            ("bob:pw@host:6379", "[hidden]@host:6379"),
            ("redis://bob:p/w@host", "redis://[hidden]@host"),
            ("redis://a:pw@h1,redis://b:pw@h2", "redis://[hidden]@h2"),
            ("a:pw@h1, redis://b:pw@h2", "[hidden]@h2"),
            ("https://host/path", "https://host/path"),
        ] {
            assert_eq!(without_user_parts(text), shown, "{text}");
        }
        assert_eq!(user_parts("redis://bob:p:w@h1, pw@h2 h3"), ["bob:p:w", "p:w", "pw"]);
    }

    #[test]
    fn keys_that_sound_like_secrets_are_told_from_others() {
        for key in ["password", "PGPASS", "Redis_Password", "session_token", "aws.secret-access-key", "auth"]
        {
            assert!(sounds_secret(key), "{key}");
        }
        for key in ["root", "capacity", "servers", "ttl_s", "key_prefix"] {
            assert!(!sounds_secret(key), "{key}");
        }
        assert!(is_surely_secret("password") && !is_surely_secret("max_tokens"));
    }
}
