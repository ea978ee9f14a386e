//! Hides secrets in a configuration's text, so that a report may be passed on.
//!
//! It works on lines, not on parsed YAML: comments and order survive, and a mistake in the file cannot make it
//! show more. It rather hides too much: from a word that smells of a secret on, the rest of the line goes, and with
//! it all lines that are indented deeper.

/// What stands in the place of a hidden value.
const HIDDEN: &str = "[hidden]";

/// Words that make a line a secret.
const WORDS: [&str; 11] = [
    "secret",
    "password",
    "passwd",
    "token",
    "credential",
    "private",
    "auth",
    "bearer",
    "apikey",
    "_key",
    "-key",
];

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
        let lower = line.to_ascii_lowercase();
        let secret_at = WORDS.iter().filter_map(|word| lower.find(word).map(|at| at + word.len())).min();
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

/// Hides `user:password@` in URLs.
fn without_user_info(line: &str) -> String {
    let mut rest = line;
    let mut shown = String::with_capacity(line.len());
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/\"',".contains(c)).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                shown.push_str(HIDDEN);
                &after[at..]
            }
            None => after,
        };
    }
    shown + rest
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
        assert_eq!(redact("u: https://host/a@b"), "u: https://host/a@b");
    }
}
