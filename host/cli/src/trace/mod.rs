//! Reads traces in Mooncake's form: one JSON object per line with `timestamp`, `input_length`, `output_length` and
//! `hash_ids`.
//!
//! The reader streams, so a trace may be larger than memory. It checks the form of each line, not whether the numbers
//! fit together: block sizes other than 512 tokens are accepted.

mod input;
mod number;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use self::number::{rounded, whole};
use crate::args::STANDARD_INPUT;

/// The largest length of a line, in bytes. A prompt of a million tokens takes about 20 KB.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Some editors put it at the beginning of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Arrival, in milliseconds since the start of the trace.
    pub timestamp_ms: u64,
    /// Tokens of the prompt.
    pub input_length: u64,
    /// Tokens of the answer.
    pub output_length: u64,
    /// One id for each block of the prompt, chained over the prefix: equal ids mean equal prefixes.
    pub block_ids: Vec<u64>,
}

/// A line of the file. Fields that other tools add are ignored. Some tools write all numbers as floats, and times in
/// fractions of a millisecond.
#[derive(Deserialize)]
struct Line {
    #[serde(deserialize_with = "rounded")]
    timestamp: u64,
    #[serde(deserialize_with = "whole")]
    input_length: u64,
    #[serde(deserialize_with = "whole")]
    output_length: u64,
    hash_ids: Vec<u64>,
}

/// Iterates over the requests of a trace in the order of the file. Ends after an error.
pub struct TraceReader<R> {
    input: R,
    path: PathBuf,
    line_number: u64,
    requests: u64,
    line: Vec<u8>,
    ended: bool,
}

/// Size of the read buffer, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// Opens the trace at `path`, or the standard input for [`STANDARD_INPUT`].
///
/// # Errors
/// If the trace cannot be opened; the message names it.
pub fn open(path: &Path) -> Result<TraceReader<BufReader<File>>> {
    if path == Path::new(STANDARD_INPUT) {
        let stdin = io::stdin().as_fd().try_clone_to_owned().context("cannot use the standard input")?;
        let input = BufReader::with_capacity(BUFFER_BYTES, File::from(stdin));
        return Ok(TraceReader::new(input, Path::new("(standard input)")));
    }
    let file = input::open(path, |path| {
        tracing::warn!("nothing writes to the pipe {} yet; waiting for the trace", path.display());
    });
    let file = file.with_context(|| format!("cannot open the trace {}", path.display()))?;
    Ok(TraceReader::new(BufReader::with_capacity(BUFFER_BYTES, file), path))
}

/// Counts the requests of the trace at `path`, at most `limit` of them, so that a broken line is found before any work
/// starts. Returns `None` for a trace that can be read only once, such as a pipe or the standard input.
///
/// # Errors
/// Those of the reader: the first broken line among those counted, or a trace without requests.
pub fn count_requests(path: &Path, limit: u64) -> Result<Option<u64>> {
    if path == Path::new(STANDARD_INPUT) {
        return Ok(None);
    }
    let metadata =
        std::fs::metadata(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut requests = 0;
    let mut reader = open(path)?;
    while requests < limit {
        match reader.next() {
            Some(request) => request.map(|_| requests += 1)?,
            None => break,
        }
    }
    Ok(Some(requests))
}

impl<R: BufRead> TraceReader<R> {
    /// Reads from `input`. Error messages name it `path`.
    pub fn new(input: R, path: &Path) -> Self {
        Self { input, path: path.to_owned(), line_number: 0, requests: 0, line: Vec::new(), ended: false }
    }

    /// Reads the next line that is not blank. Returns `None` at the end of a trace that had requests.
    fn read(&mut self) -> Result<Option<Request>> {
        loop {
            self.line.clear();
            self.line_number += 1;
            let n_bytes = (&mut self.input)
                .take(LINE_BYTES_MAX + 1)
                .read_until(b'\n', &mut self.line)
                .with_context(|| format!("cannot read the trace {}", self.path.display()))?;
            if self.line_number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
                self.line.drain(..BYTE_ORDER_MARK.len());
            }
            if n_bytes == 0 {
                ensure!(
                    self.requests > 0,
                    "the trace {} is empty: it needs at least one request, one JSON object per line",
                    self.path.display()
                );
                return Ok(None);
            }
            if n_bytes as u64 > LINE_BYTES_MAX {
                bail!(
                    "trace {}, line {}: longer than {LINE_BYTES_MAX} bytes; is this a file of JSON lines?",
                    self.path.display(),
                    self.line_number
                );
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            let request = self.parse()?;
            self.requests += 1;
            return Ok(Some(request));
        }
    }

    fn parse(&self) -> Result<Request> {
        let line: Line = serde_json::from_slice(self.line.trim_ascii_end()).map_err(|error| {
            // The parser's line number is always 1 here; its column is useful.
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or(&text);
            anyhow::anyhow!(
                "trace {}, line {}, column {}: {what}; each line is one object with timestamp, input_length, \
                 output_length and hash_ids",
                self.path.display(),
                self.line_number,
                error.column()
            )
        })?;
        Ok(Request {
            timestamp_ms: line.timestamp,
            input_length: line.input_length,
            output_length: line.output_length,
            block_ids: line.hash_ids,
        })
    }
}

impl<R: BufRead> Iterator for TraceReader<R> {
    type Item = Result<Request>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Request>> {
        TraceReader::new(text.as_bytes(), Path::new("chat.jsonl")).collect()
    }

    fn error_of(text: &str) -> String {
        format!("{:#}", read(text).expect_err("the trace must be refused"))
    }

    const GOOD: &str =
        r#"{"timestamp": 7, "input_length": 600, "output_length": 5, "hash_ids": [0, 18446744073709551615]}"#;

    #[test]
    fn reads_each_field_and_the_largest_id() {
        let requests = read(&format!("{GOOD}\n\n{GOOD}")).unwrap();
        let expected =
            Request { timestamp_ms: 7, input_length: 600, output_length: 5, block_ids: vec![0, u64::MAX] };
        assert_eq!(requests, [expected.clone(), expected]);
    }

    #[test]
    fn a_broken_line_is_named_with_file_line_and_fault() {
        let error =
            error_of(&format!("{GOOD}\n\n{{\"timestamp\": 1, \"input_length\": 2, \"hash_ids\": []}}\n"));
        assert!(error.starts_with("trace chat.jsonl, line 3, column "), "{error}");
        assert!(error.contains("missing field `output_length`"), "{error}");

        let error = error_of(&GOOD.replace('7', "-7"));
        assert!(error.starts_with("trace chat.jsonl, line 1, column "), "{error}");
        assert!(error.contains("invalid value: integer `-7`"), "{error}");

        let error = error_of(&format!("{GOOD} {GOOD}"));
        assert!(error.contains("trailing characters"), "{error}");
    }

    #[test]
    fn floats_and_a_byte_order_mark_are_read() {
        let float = r#"{"timestamp": 7.5, "input_length": 600.0, "output_length": 5e0, "hash_ids": [0]}"#;
        let requests = read(&format!("\u{feff}{float}\n{GOOD}")).unwrap();
        let expected = Request { timestamp_ms: 8, input_length: 600, output_length: 5, block_ids: vec![0] };
        assert_eq!(requests[0], expected);
        assert_eq!(requests.len(), 2);

        for (field, value) in [
            ("\"timestamp\": 7", "\"timestamp\": -0.6"),
            ("\"timestamp\": 7", "\"timestamp\": 1e300"),
            ("\"input_length\": 600", "\"input_length\": 600.5"),
            ("\"timestamp\": 7", "\"timestamp\": \"7\""),
        ] {
            let error = error_of(&GOOD.replace(field, value));
            assert!(error.contains("line 1, column ") && error.contains("expected "), "{error}");
        }
        assert!(error_of(&format!("{GOOD}\n\u{feff}{GOOD}")).contains("line 2"), "only at the beginning");
    }

    #[test]
    fn the_reader_stops_after_an_error() {
        let text = format!("nonsense\n{GOOD}\n");
        let mut reader = TraceReader::new(text.as_bytes(), Path::new("chat.jsonl"));
        assert!(reader.next().is_some_and(|item| item.is_err()));
        assert!(reader.next().is_none());
    }

    #[test]
    fn an_empty_trace_is_an_error() {
        for text in ["", "\n \n"] {
            assert!(error_of(text).contains("the trace chat.jsonl is empty"));
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_a_broken_line() {
        let input: &[u8] = b"\xff\xfe\n";
        let error =
            TraceReader::new(input, Path::new("chat.jsonl")).next().expect("an item").expect_err("refused");
        assert!(error.to_string().contains("chat.jsonl, line 1"), "{error}");
    }

    #[test]
    fn a_missing_file_and_a_directory_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none.jsonl");
        assert!(format!("{:#}", count_requests(&missing, 1).unwrap_err()).contains("none.jsonl"));
        let error = open(folder.path()).and_then(|mut reader| reader.next().expect("an item").map(|_| ()));
        assert!(error.unwrap_err().to_string().contains(&*folder.path().to_string_lossy()));
    }

    #[test]
    fn counting_looks_no_further_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.jsonl");
        std::fs::write(&path, format!("{GOOD}\n{GOOD}\nnonsense\n")).unwrap();
        assert_eq!(count_requests(&path, 2).unwrap(), Some(2));
        assert!(count_requests(&path, 3).unwrap_err().to_string().contains("line 3"));
    }
}
