//! The lines of the log.

use std::fmt::{Arguments, Display};

use kvtier_guest::{ChunkKey, Level};

/// Takes the place of a store: logs each operation.
pub(crate) struct Log {
    level: Level,
}

impl Log {
    pub(crate) fn new(level: Level) -> Self {
        Self { level }
    }

    pub(crate) fn line(&self, line: Arguments<'_>) {
        kvtier_guest::log(self.level, line);
    }

    /// Logs an operation on `keys`.
    pub(crate) fn keys(&self, operation: &str, keys: &[ChunkKey]) {
        self.line(format_args!("{operation}: {}", named(keys)));
    }

    /// Logs an operation that moves `size_bytes` in all.
    pub(crate) fn chunks(&self, operation: &str, keys: &[ChunkKey], size_bytes: u64) {
        self.line(format_args!("{operation}: {}, {size_bytes} bytes", named(keys)));
    }
}

/// Names the first key: enough to find a request, and short however many chunks it has.
fn named(keys: &[ChunkKey]) -> impl Display {
    match keys {
        [] => "no chunks".to_owned(),
        [key] => format!("1 chunk, {key}"),
        [first, ..] => format!("{} chunks from {first}", keys.len()),
    }
}

#[cfg(test)]
mod tests {
    use kvtier_guest::ChunkKey;

    use super::named;

    #[test]
    fn a_line_counts_the_chunks_and_names_the_first() {
        let keys = [ChunkKey { hi: 0, lo: 1 }, ChunkKey { hi: 0, lo: 2 }];
        assert_eq!(named(&[]).to_string(), "no chunks");
        assert_eq!(named(&keys[..1]).to_string(), format!("1 chunk, {}", keys[0]));
        assert_eq!(named(&keys).to_string(), format!("2 chunks from {}", keys[0]));
    }
}
