//! Placeholders in values of `config.*` and in the host's paths of `allow.fs`, so that one file serves all ranks.

use std::io;
use std::path::{Component, PathBuf};

use super::BackendConfig;
use super::grants::FsAccess;
use crate::config::suggest::typo_of;
use crate::limits::PATH_COMPONENT_BYTES_MAX;

const NAMES: [&str; 4] = ["worker_id", "world_size", "model", "namespace"];

/// The values of placeholders.
pub(crate) struct Facts<'a> {
    pub(crate) worker_id: u32,
    pub(crate) world_size: u32,
    pub(crate) model: &'a str,
    /// In the form that a class gets.
    pub(crate) namespace: &'a str,
}

impl Facts<'_> {
    fn value(&self, name: &str) -> Option<String> {
        match name {
            "worker_id" => Some(self.worker_id.to_string()),
            "world_size" => Some(self.world_size.to_string()),
            "model" => Some(path_component(self.model)),
            "namespace" => Some(path_component(self.namespace)),
            _ => None,
        }
    }

    /// Replaces the placeholders in a text. Other braces stay.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((at, word)) = next_word(rest) {
            filled.push_str(&rest[..at]);
            match self.value(word) {
                Some(value) => filled.push_str(&value),
                None => filled.push_str(&rest[at..at + word.len() + 2]),
            }
            rest = &rest[at + word.len() + 2..];
        }
        filled + rest
    }
}

/// A directory that a writable grant names with a placeholder, so that an operator cannot create it in advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnDirectory {
    /// The part that must exist, such as the mount point of a disk.
    within: PathBuf,
    path: PathBuf,
}

impl OwnDirectory {
    /// Creates the directory if its parent exists. If not, opening the grant fails.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn make(&self) -> io::Result<()> {
        if self.within.is_dir() { std::fs::create_dir_all(&self.path) } else { Ok(()) }
    }
}

impl BackendConfig {
    /// Replaces the placeholders in the values of `config.*` and in the host's paths of `allow.fs`. Returns the
    /// directories that belong to this backend alone because of their placeholders.
    pub(crate) fn fill(&mut self, facts: &Facts<'_>) -> Vec<OwnDirectory> {
        for (_, value) in &mut self.config {
            if has_placeholder(value) {
                *value = facts.fill(value);
            }
        }
        let mut own = Vec::new();
        for grant in &mut self.allow.fs {
            // A path that is not UTF-8 does not come from a text.
            let Some(path) = grant.host_dir.to_str().filter(|path| has_placeholder(path)) else { continue };
            let is_fixed = |part: &Component<'_>| !part.as_os_str().to_str().is_some_and(has_placeholder);
            let within = grant.host_dir.components().take_while(is_fixed).collect();
            let path = PathBuf::from(facts.fill(path));
            if grant.access == FsAccess::ReadWrite {
                own.push(OwnDirectory { within, path: path.clone() });
            }
            grant.host_dir = path;
        }
        own
    }
}

fn has_placeholder(text: &str) -> bool {
    words(text).any(|(_, word)| NAMES.contains(&word))
}

/// Refuses a word in braces that looks like a misspelt placeholder, and returns the right one. Other braces may mean
/// anything.
pub(in crate::config) fn check_placeholders(text: &str) -> Result<(), (String, &'static str)> {
    for (_, word) in words(text).filter(|(_, word)| !NAMES.contains(word)) {
        if let Some(near) = typo_of(word, NAMES) {
            return Err((word.to_owned(), near));
        }
    }
    Ok(())
}

/// Returns the words in braces and the positions of their braces.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let (at, word) = next_word(&text[from..])?;
        let at = from + at;
        from = at + word.len() + 2;
        Some((at, word))
    })
}

/// Returns the first word of letters, digits, `_` and `-` in braces, and its position.
fn next_word(text: &str) -> Option<(usize, &str)> {
    let mut from = 0;
    loop {
        let open = from + text[from..].find('{')?;
        let inside = &text[open + 1..];
        let end = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
        match end {
            Some(end) if end > 0 && inside[end..].starts_with('}') => return Some((open, &inside[..end])),
            Some(end) => from = open + 1 + end,
            None => return None,
        }
    }
}

/// Turns a text into one component of a path: letters, digits, `.`, `_` and `-` stay, everything else becomes `_`, as
/// does a dot at the beginning. Two texts may become equal: namespaces separate chunks, not directories.
pub(crate) fn path_component(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let mut component: String = text.chars().take(PATH_COMPONENT_BYTES_MAX).map(safe).collect();
    if component.is_empty() || component.starts_with('.') {
        component.replace_range(..component.len().min(1), "_");
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts<'static> =
        Facts { worker_id: 3, world_size: 8, model: "meta-llama/Llama-3-8B", namespace: "00ff" };

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        for (text, filled) in [
            ("/kv/{model}/{worker_id}-of-{world_size}", "/kv/meta-llama_Llama-3-8B/3-of-8"),
            ("{namespace}", "00ff"),
            ("{{worker_id}}", "{3}"),
            (r#"{"a": {"b": 1}}"#, r#"{"a": {"b": 1}}"#),
            ("{other} {} { worker_id } {worker_id", "{other} {} { worker_id } {worker_id"),
            ("{{{{", "{{{{"),
            ("plain", "plain"),
        ] {
            assert_eq!(FACTS.fill(text), filled, "{text}");
        }
    }

    #[test]
    fn what_a_placeholder_becomes_is_one_component_of_a_path() {
        for (text, component) in [
            ("../../etc/passwd", "_._.._etc_passwd"),
            ("..", "_."),
            (".", "_"),
            ("", "_"),
            ("/", "_"),
            ("a\0b\\c:d é", "a_b_c_d__"),
            ("Llama-3.1_8B", "Llama-3.1_8B"),
        ] {
            assert_eq!(path_component(text), component, "{text:?}");
        }
        assert_eq!(path_component(&"é".repeat(1000)).len(), PATH_COMPONENT_BYTES_MAX);
    }

    #[test]
    fn a_directory_of_ones_own_is_made_in_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut backend = BackendConfig::new("a", "a.wasm", "A");
        let grant = |path: &str, mode: &str| {
            crate::config::FsGrant::parse(&format!("{path}:/{}:{mode}", path.len()), dir.path()).unwrap()
        };
        backend.allow.fs = vec![
            grant("{model}/x-{worker_id}", "rw"),
            grant("none/{worker_id}", "rw"),
            grant("{worker_id}", "ro"),
        ];
        backend.config = vec![("root".to_owned(), "/data/{worker_id}".to_owned())];
        let own = backend.fill(&FACTS);
        assert_eq!(backend.config[0].1, "/data/3");
        for directory in own {
            directory.make().unwrap();
        }
        let path = dir.path().join("meta-llama_Llama-3-8B/x-3");
        assert_eq!(backend.allow.fs[0].host_dir, path);
        assert!(path.is_dir());
        // A disk that is not mounted, and a directory that is only read.
        assert!(!dir.path().join("none").exists() && !dir.path().join("3").exists());
    }

    #[test]
    fn near_misses_are_named() {
        assert_eq!(check_placeholders("/kv/{worker_id}/{x}/{\"model\": 1}"), Ok(()));
        assert_eq!(check_placeholders("/kv/{workerid}"), Err(("workerid".to_owned(), "worker_id")));
        assert_eq!(check_placeholders("{Model}"), Err(("Model".to_owned(), "model")));
    }

    #[test]
    fn one_pass_over_many_braces_is_enough() {
        let text = "{".repeat(1 << 20);
        assert_eq!(FACTS.fill(&text), text);
        let text = "{x}".repeat(1 << 18);
        assert_eq!(FACTS.fill(&text), text);
    }
}
