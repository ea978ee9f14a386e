//! The lines in which a child reports its operations, and what follows from them for the files.
//!
//! The line that begins an operation is written before it begins, the line that ends it after it was answered. Written
//! lines outlive the process.

use std::fmt;

/// A line of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The backend is open.
    Open,
    /// A put begins.
    Put(u64),
    /// The backend has a chunk that was put.
    Stored(u64),
    /// A removal begins.
    Remove(u64),
    /// The removal was answered.
    Removed(u64),
    /// A chunk was read, and every byte was right.
    Hit(u64),
    /// A chunk was absent.
    Miss(u64),
    /// Two operations disagree about whether a chunk is present, or its bytes are wrong.
    Wrong(u64),
    /// The engine was closed; this is the last line.
    Closed,
}

impl Line {
    /// Reads a line; `None` if it is torn.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (word, number) = text.split_once(' ').unwrap_or((text, "0"));
        let number = number.parse().ok()?;
        Some(match word {
            "open" => Self::Open,
            "put" => Self::Put(number),
            "stored" => Self::Stored(number),
            "remove" => Self::Remove(number),
            "removed" => Self::Removed(number),
            "hit" => Self::Hit(number),
            "miss" => Self::Miss(number),
            "wrong" => Self::Wrong(number),
            "closed" => Self::Closed,
            _ => return None,
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Put(number) => write!(f, "put {number}"),
            Self::Stored(number) => write!(f, "stored {number}"),
            Self::Remove(number) => write!(f, "remove {number}"),
            Self::Removed(number) => write!(f, "removed {number}"),
            Self::Hit(number) => write!(f, "hit {number}"),
            Self::Miss(number) => write!(f, "miss {number}"),
            Self::Wrong(number) => write!(f, "wrong {number}"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// What is known of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was stored, and no operation has changed it since.
    Present,
    /// It is absent, and no put of it has begun since.
    #[default]
    Absent,
    /// The process died in the middle of an operation on it.
    Unknown,
}

/// Returns what is known of each chunk after `lines`.
pub(crate) fn apply(known: &mut [Known], lines: &[Line]) {
    for line in lines {
        let (number, is) = match line {
            Line::Put(number) | Line::Remove(number) => (number, Known::Unknown),
            Line::Stored(number) => (number, Known::Present),
            Line::Removed(number) => (number, Known::Absent),
            _ => continue,
        };
        known[*number as usize] = is;
    }
}
