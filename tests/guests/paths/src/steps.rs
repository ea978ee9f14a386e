//! The steps that a test asks for, and what is logged of their outcomes.

use kvtier_guest::{DirectoryEntry, EntryKind, Error, info};

/// One line of `config.steps`.
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    Read(&'a str),
    /// Writes this many bytes.
    Write(&'a str, usize),
    Remove(&'a str),
    /// Lists what comes after a name.
    List(&'a str, &'a str),
    /// Lists everything, page by page.
    Pages(&'a str),
    /// Writes a number of bytes to a file of a directory from a byte on, by descriptors.
    WriteAt(&'a str, &'a str, u64, usize),
    /// Reads as many.
    ReadAt(&'a str, &'a str, u64, usize),
    /// Lists a directory by its descriptor.
    Entries(&'a str),
}

impl<'a> Step<'a> {
    pub(crate) fn all(steps: &'a str) -> impl Iterator<Item = (&'a str, Self)> {
        steps.lines().map(|line| (line, Self::parse(line)))
    }

    fn parse(line: &'a str) -> Self {
        let mut words = line.split(' ');
        if line.starts_with("at ") {
            return Self::parse_by_descriptor(line);
        }
        let (what, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        let n = rest.parse().unwrap_or_default();
        match what {
            "read" => Self::Read(path),
            "write" => Self::Write(path, n),
            "remove" => Self::Remove(path),
            "list" => Self::List(path, rest),
            "pages" => Self::Pages(path),
            _ => panic!("no such step: {line}"),
        }
    }
}

impl<'a> Step<'a> {
    /// Parses `at DIRECTORY write|read FILE AT N` or `at DIRECTORY entries`.
    fn parse_by_descriptor(line: &'a str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        match words[..] {
            ["at", directory, "write", file, _, _] => {
                Self::WriteAt(directory, file, number(4), number(5) as usize)
            }
            ["at", directory, "read", file, _, _] => {
                Self::ReadAt(directory, file, number(4), number(5) as usize)
            }
            ["at", directory, "entries"] => Self::Entries(directory),
            _ => panic!("no such step: {line}"),
        }
    }
}

pub(crate) fn tell(line: &str, outcome: Result<String, Error>) {
    match outcome {
        Ok(text) => info!("{line}: {text}"),
        Err(error) => info!("{line}: {error:?}"),
    }
}

pub(crate) fn content(read: Option<Vec<u8>>) -> String {
    match read {
        None => "none".to_owned(),
        Some(bytes) => {
            let same = bytes.first().is_none_or(|first| bytes.iter().all(|byte| byte == first));
            format!("{} bytes, {}", bytes.len(), if same { "alike" } else { "different" })
        }
    }
}

pub(crate) fn listing(entries: &[DirectoryEntry]) -> String {
    let entry = |entry: &DirectoryEntry| {
        let dated = if entry.modified_ns > 1_000_000_000_000_000_000 { "" } else { " without a date" };
        let kind = match entry.kind {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Link => "link",
            EntryKind::Other => "other",
        };
        format!("{}: {kind} of {}{dated}", entry.name, entry.size)
    };
    entries.iter().map(entry).collect::<Vec<_>>().join(", ")
}

/// The number of entries, of pages, and whether they are in order.
pub(crate) fn summary(pages: &[Vec<DirectoryEntry>]) -> String {
    let names: Vec<&str> = pages.iter().flatten().map(|entry| entry.name.as_str()).collect();
    let order = if names.is_sorted_by(|a, b| a < b) { "in order" } else { "out of order" };
    format!("{} entries in {} pages, {order}", names.len(), pages.len())
}
