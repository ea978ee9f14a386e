//! The prose of this repository has no misspelt words and no lines that are too wide.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot read a file")]

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use typos::tokens::{Identifier, Tokenizer, Word};
use typos::{Dictionary, Status};

const WIDTH_MAX: usize = 120;

/// The files that are read, by the ending of their names.
const ENDINGS: [&str; 12] = ["c", "h", "js", "md", "py", "pyi", "rs", "wit", "toml", "yaml", "yml", "sh"];

/// Folders without files written by hand.
const SKIPPED: [&str; 3] = ["target", ".git", "bindings"];

/// Words that are not mistakes: keys that tests misspell on purpose, and a constant of the system.
const WORDS: [&str; 7] = ["acces", "arange", "capcity", "sice", "sise", "writeable", "wronly"];

struct English;

impl Dictionary for English {
    fn correct_ident<'s>(&'s self, _: Identifier<'_>) -> Option<Status<'s>> {
        None
    }

    fn correct_word<'s>(&'s self, word: Word<'_>) -> Option<Status<'s>> {
        // Short words are names of variables, and parts of hexadecimal digits.
        if word.token().len() < 4 || WORDS.contains(&word.token().to_lowercase().as_str()) {
            return None;
        }
        let corrections = typos_dict::WORD.find(&word.token().into())?;
        Some(Status::Corrections(corrections.iter().map(|&correction| Cow::Borrowed(correction)).collect()))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn files() -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![root().to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (kind, path) = (entry.file_type().unwrap(), entry.path());
            if kind.is_dir() && !SKIPPED.iter().any(|&skipped| entry.file_name() == skipped) {
                folders.push(path);
            } else if kind.is_file()
                && path.extension().is_some_and(|e| ENDINGS.iter().any(|&ending| e == ending))
            {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 300, "only {} files were found", files.len());
    files.sort();
    files
}

/// Returns what `check` finds in each line of each file, as `file:line: finding`. Fenced code of a page of Markdown is
/// left out if `prose_only`.
fn findings(prose_only: bool, check: impl Fn(&Path, &str) -> Vec<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for path in files() {
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display();
        let mut in_code = false;
        for (index, line) in text.lines().enumerate() {
            in_code ^= line.trim_start().starts_with("```");
            if !(in_code && prose_only) {
                findings
                    .extend(check(&path, line).iter().map(|found| format!("{shown}:{}: {found}", index + 1)));
            }
        }
    }
    findings
}

fn misspelt(line: &str) -> Vec<String> {
    let tokenizer = Tokenizer::new();
    let found = typos::check_str(line, &tokenizer, &English);
    found.map(|typo| format!("`{}`, should it be {:?}?", typo.typo, typo.corrections)).collect()
}

/// Reports whether `line` is prose that could be broken: not a row of a table, not code, not one long word such as a
/// link.
fn is_too_wide(path: &Path, line: &str) -> bool {
    let text = line.trim_start();
    let words = text.trim_start_matches(['/', '!', '#', '-', '*', ' ']);
    let prose = match path.extension().and_then(|ending| ending.to_str()) {
        Some("md") => true,
        // Docstrings are prose without a mark, and code is as narrow.
        Some("py" | "pyi") => return line.chars().count() > WIDTH_MAX,
        Some("c" | "h" | "js") => text.starts_with("//") || text.starts_with('*'),
        Some("rs" | "wit") => text.starts_with("//"),
        _ => text.starts_with('#'),
    };
    prose && line.chars().count() > WIDTH_MAX && words.contains(' ') && !words.starts_with('|')
}

#[test]
fn no_word_is_misspelt() {
    let findings = findings(false, |_, line| misspelt(line));
    assert!(findings.is_empty(), "{} words:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn a_misspelt_word_is_found() {
    let found = misspelt(&["the c", "omponant of a tier"].concat());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(misspelt("the component of a tier"), Vec::<String>::new());
}

#[test]
fn no_line_of_prose_is_too_wide() {
    let findings = findings(true, |path, line| {
        let wide = is_too_wide(path, line).then(|| format!("{} characters", line.chars().count()));
        wide.into_iter().collect()
    });
    assert!(findings.is_empty(), "{} lines:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn a_wide_line_is_found() {
    let wide = |prefix: &str| format!("{prefix}{}", "word ".repeat(25));
    assert!(is_too_wide(Path::new("a.md"), &wide("")));
    assert!(is_too_wide(Path::new("a.rs"), &wide("    /// ")));
    assert!(is_too_wide(Path::new("a.yaml"), &wide("# ")));
    assert!(!is_too_wide(Path::new("a.md"), &wide("| ")), "a row of a table is one line");
    assert!(!is_too_wide(Path::new("a.rs"), &wide("//! | ")), "a row of a table is one line");
    assert!(
        !is_too_wide(Path::new("a.rs"), &format!("/// <https://{}>", "x".repeat(120))),
        "a link cannot be broken"
    );
}
