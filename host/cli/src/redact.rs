//! Hides secrets in a configuration's text, so that a report may be passed on.
//!
//! It works on lines, not on parsed YAML: comments and order survive, and a mistake in the file cannot make it
//! show more. It rather hides too much: from a word that smells of a secret on, the rest of the line goes, and with
//! it all lines that its value may go on in.

use kvtier::config::{secret_word, without_user_parts};

/// What stands in the place of a hidden value.
const HIDDEN: &str = "[hidden]";

/// Answers `text` with its secrets replaced.
pub fn redact(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut hidden: Option<Hidden> = None;
    for line in text.lines() {
        if hidden.as_mut().is_some_and(|hidden| hidden.takes(line)) {
            continue;
        }
        let indent = indent_of(line);
        let secret_at = secret_word(line);
        hidden = secret_at.map(|at| Hidden::new(line, at));
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

/// A value that is hidden, which may go on for lines.
struct Hidden {
    indent: usize,
    /// It stands in a list.
    is_item: bool,
    open: Open,
}

impl Hidden {
    /// Of a line with a word that smells of a secret, which ends at `word_end`.
    fn new(line: &str, word_end: usize) -> Self {
        let mut open = Open::default();
        open.read(line, word_end);
        Self { indent: indent_of(line), is_item: line.trim_start().starts_with('-'), open }
    }

    /// Reports whether the next line belongs to the value, for all that can be seen.
    fn takes(&mut self, line: &str) -> bool {
        let indent = indent_of(line);
        let text = line.trim();
        let takes = self.open.is_open()
            || text.is_empty()
            || text.starts_with('#')
            || indent > self.indent
            || (indent == self.indent && !self.is_followed_by(text));
        if takes {
            self.open.read(line, 0);
        }
        takes
    }

    /// Reports whether a line that is indented as this one begins something else: the next item of the list, or the next
    /// key. The items of a list need not be indented deeper than their key.
    fn is_followed_by(&self, text: &str) -> bool {
        let is_item = text.starts_with('-');
        let is_key = !is_item && !text.starts_with(':') && (text.ends_with(':') || text.contains(": "));
        is_key || (is_item && self.is_item)
    }
}

/// Quotes and brackets that are open: what is in them may be indented in any way.
#[derive(Default)]
struct Open {
    quote: Option<char>,
    n_brackets: usize,
}

impl Open {
    fn is_open(&self) -> bool {
        self.quote.is_some() || self.n_brackets > 0
    }

    /// Reads a line, and of its brackets those from `brackets_from` on.
    fn read(&mut self, line: &str, brackets_from: usize) {
        let mut before = ' ';
        let mut chars = line.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let is_first = before.is_whitespace() || "[{,:".contains(before);
            match (self.quote, c) {
                (Some('"'), '\\') => drop(chars.next()),
                (Some('\''), '\'') if chars.next_if(|(_, next)| *next == '\'').is_some() => {}
                (Some(quote), c) => self.quote = (c != quote).then_some(quote),
                (None, '#') if before.is_whitespace() => return,
                (None, '"' | '\'') if is_first => self.quote = Some(c),
                (None, '[' | '{') if is_first && at >= brackets_from => self.n_brackets += 1,
                (None, ']' | '}') if at >= brackets_from => {
                    self.n_brackets = self.n_brackets.saturating_sub(1);
                }
                _ => {}
            }
            before = c;
        }
    }
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
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
            "tokens:\n- hunter2\n# two of them\n- hunter2",
            "a:\n  tokens:\n  - hunter2\n  - hunter2",
            "token: \"a\nhunter2: b\"",
            "token: 'it''s a\nhunter2'",
            "tokens: [a,\nhunter2,\nb: hunter2]",
            "tokens: {a: '}',\nb: hunter2}",
            "? token\n: hunter2",
            "- PGPASS=hunter2",
        ] {
            let shown = redact(&format!("before: 1\n{text}\nafter: 2"));
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.starts_with("before: 1\n") && shown.ends_with("\nafter: 2"), "{shown}");
            assert!(shown.contains(HIDDEN), "{shown}");
        }
    }

    #[test]
    fn what_comes_after_a_hidden_value_stays() {
        for text in [
            "token: abc{def  # it's {his\nafter: 2",
            "tokens:\n- a\nafter: 2",
            "tokens: [a,\n  b]\nafter: 2",
            "- token=a\n- after: 2",
            "{\"a\": {\"secrets\": {\n  \"x\": \"}\"\n},\n\"after\": 2",
        ] {
            let shown = redact(text);
            assert!(shown.contains(HIDDEN) && shown.contains("after"), "{text}: {shown}");
            assert_eq!(shown.lines().count(), 2, "{text}: {shown}");
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
