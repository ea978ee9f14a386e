//! The sentences of the contract, as data.

use crate::judgement::Judgement;
use crate::kit::Kit;
use crate::promises;

/// Which checks include a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Every check.
    Quick,
    /// Only a full check.
    Full,
}

/// One sentence of the contract, and its test.
#[derive(Debug)]
pub struct Sentence {
    /// Its name in reports and on the command line.
    pub id: &'static str,
    /// The method of the contract that promises it.
    pub method: &'static str,
    /// The sentence, as the contract has it.
    pub text: &'static str,
    /// What backends that break it usually do.
    pub cause: &'static str,
    /// How to keep it.
    pub remedy: &'static str,
    /// Which checks include it.
    pub part: Part,
    /// The sentences without which its test says nothing. It is not tried if one of them is broken.
    pub needs: &'static [&'static str],
    pub(crate) test: fn(&mut Kit) -> Judgement,
}

/// Returns all sentences in the order of their tests: a sentence comes after those that it needs.
pub fn sentences() -> impl Iterator<Item = &'static Sentence> {
    promises::ALL.iter().flat_map(|group| group.iter())
}

/// Returns the sentence with this name.
pub fn sentence(id: &str) -> Option<&'static Sentence> {
    sentences().find(|sentence| sentence.id == id)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_a_sentence_comes_after_those_that_it_needs() {
        let mut earlier = HashSet::new();
        for Sentence { id, needs, text, cause, remedy, .. } in sentences() {
            for need in *needs {
                assert!(earlier.contains(need), "{id} needs {need}, which is no earlier sentence");
            }
            assert!(earlier.insert(*id), "{id} is there twice");
            assert!(
                id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            );
            for words in [text, cause, remedy] {
                assert!(words.ends_with('.') && !words.contains('\n'), "{id}: {words}");
            }
        }
    }

    #[test]
    fn the_documentation_names_every_sentence_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/authors/check.md");
        let text = std::fs::read_to_string(path).expect("the page lies in the workspace");
        let (_, table) = text.split_once("## What is tried").expect("the page has the table");
        let rows = table.lines().filter(|line| line.starts_with("| `"));
        let cells: String = rows.filter_map(|row| row.split('|').nth(1)).collect();
        let named: Vec<&str> = cells.split('`').skip(1).step_by(2).collect();
        let all: HashSet<&str> = sentences().map(|sentence| sentence.id).collect();
        assert_eq!(named.iter().copied().collect::<HashSet<_>>(), all);
        assert_eq!(named.len(), all.len());
    }

    /// Returns a text without markup, with one blank between words.
    fn plain(text: &str) -> String {
        let text = text.replace("///", " ").replace('`', "");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What follows from the contract, and does not stand in it.
    const BEYOND: [&str; 1] = ["steady-memory"];

    #[test]
    fn every_sentence_stands_in_the_contract() {
        let contract = ["backend.wit", "buffers.wit"].map(|name| {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/");
            std::fs::read_to_string(format!("{path}{name}")).expect("the contract lies in the workspace")
        });
        let contract = plain(&contract.concat());
        for sentence in sentences().filter(|sentence| !BEYOND.contains(&sentence.id)) {
            assert!(contract.contains(&plain(sentence.text)), "{}: {}", sentence.id, sentence.text);
        }
    }
}
