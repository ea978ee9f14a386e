//! Hides secrets in a configuration's text, so that a report may be passed on.
//!
//! It works on lines, not on parsed YAML: comments and order survive, and a mistake in the file cannot make it
//! show more. It rather hides too much: from a word that smells of a secret on, the rest of the line goes, and with
//! it all lines that are indented deeper.

use kvtier::config::{secret_word, without_user_parts};

/// What stands in the place of a hidden value.
const HIDDEN: &str = "[hidden]";

/// Answers `text` with its secrets replaced.
pub fn redact(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    // The indentation of the line whose deeper lines are hidden.
    let mut hidden_below: Option<usize> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if hidden_below.is_some_and(|parent| line.trim().is_empty() || indent > parent) {
            continue;
        }
        let secret_at = secret_word(line);
        hidden_below = secret_at.map(|_| indent);
        let line = match secret_at {
            // Up to the colon that ends the key; without one, the word itself may be part of a value.
            Some(at) => match line[at..].find(':') {
                Some(colon) => format!("{} {HIDDEN}", &line[..=at + colon]),
                None => format!("{}{HIDDEN}", &line[..indent]),
            },
            None => without_user_info(line),
        };
        lines.push(line);
    }
    lines.join("\n")
}

/// Hides the user part of URLs and addresses: all from the scheme, or else from the key's colon, to the last `@`. A
/// password may have any character, so nothing before that is certain to be none.
fn without_user_info(line: &str) -> String {
    let Some(at) = line.find('@') else { return line.to_owned() };
    let value_at = line[..at].find(": ").map_or(0, |colon| colon + 2);
    let (key, value) = line.split_at(value_at);
    format!("{key}{}", without_user_parts(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_settings_stay_as_they_are() {
        let text = "chunk_size: 256 # tokens\nextra_config:\n  external_backend.disk.config.root: /data";
        assert_eq!(redact(&text.replace(" # tokens", "")), text.replace(" # tokens", ""));
    }

    #[test]
    fn secrets_are_hidden_in_every_spelling() {
        for text in [
            "external_backend.redis.secrets.name: hunter2",
            "secrets: {name: hunter2, other: hunter2}",
            "a: {\"Password\": \"hunter2\"}",
            "secrets:\n  name: hunter2\n\n  list:\n    - hunter2",
            "kvtier.integrity_key: |\n  hunter2\n  hunter2",
            "- token=hunter2",
            "url: redis://user:hunter2@host:6379/0",
            "urls: [redis://hunter2@a, \"redis://u:hunter2@b\"]",
            "external_backend.redis.config.servers: user:hunter2@host:6379",
            "url: redis://user:hun/hunter2@host:6379",
            "url: 'redis://user:\"hunter2@host:6379'",
            "servers: u:hunter2@a, redis://host",
            "config:\n  servers: >\n    u:hunter2@a",
        ] {
            let shown = redact(&format!("before: 1\n{text}\nafter: 2"));
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.starts_with("before: 1\n") && shown.ends_with("\nafter: 2"), "{shown}");
            assert!(shown.contains(HIDDEN), "{shown}");
        }
    }

    #[test]
    fn what_is_not_secret_in_a_url_stays() {
        assert_eq!(redact("u: redis://bob:pw@host:6379/0 x"), "u: redis://[hidden]@host:6379/0 x");
        // What cannot be told from a password goes as well.
        assert_eq!(redact("u: https://host/a@b"), "u: https://[hidden]@b");
        assert_eq!(redact("u: https://host/a b"), "u: https://host/a b");
    }
}
