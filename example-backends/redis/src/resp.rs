//! The protocol, RESP2: commands as they are written, and replies as they are read. No input or output, and nothing of
//! the backend: a fuzz target includes this file.
//!
//! Replies are decoded by `redis-protocol` when they are whole; but a value is never held as a whole, so its header is
//! read here.

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

/// Longest reply that is not a value: an error, or the slots of a large cluster.
pub(crate) const REPLY_BYTES_MAX: usize = 1 << 20;
/// Longest line with the length of a value.
const HEADER_BYTES_MAX: usize = 32;
/// Deepest nesting of a reply's arrays; slots have three levels.
const DEPTH_MAX: usize = 8;

/// Appends a command of whole arguments.
pub(crate) fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    begin(out, arguments.len());
    for argument in arguments {
        bulk(out, argument);
    }
}

/// Appends the beginning of a command of `n_arguments`.
pub(crate) fn begin(out: &mut Vec<u8>, n_arguments: usize) {
    out.extend_from_slice(format!("*{n_arguments}\r\n").as_bytes());
}

/// Appends a whole argument.
pub(crate) fn bulk(out: &mut Vec<u8>, argument: &[u8]) {
    bulk_header(out, argument.len() as u64);
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

/// Appends what stands before an argument of `size_bytes`; after it stands a line end.
pub(crate) fn bulk_header(out: &mut Vec<u8>, size_bytes: u64) {
    out.extend_from_slice(format!("${size_bytes}\r\n").as_bytes());
}

/// The beginning of a reply to `GET`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A value of so many bytes and a line end follow.
    Value(u64),
    /// There is no such key.
    Absent,
    /// It is another reply, an error most likely, from its first byte on.
    Other,
}

/// Reads the head of a reply to `GET` and returns it with its length; `None` if more bytes are needed.
///
/// # Errors
/// The fault of the reply.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
    match bytes.first() {
        None => return Ok(None),
        Some(b'$') => {}
        Some(_) => return Ok(Some((Head::Other, 0))),
    }
    let shown = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
    let Some(end) = shown.windows(2).position(|pair| pair == b"\r\n") else {
        return if shown.len() < HEADER_BYTES_MAX {
            Ok(None)
        } else {
            Err("a value without a length".into())
        };
    };
    let digits = std::str::from_utf8(&shown[1..end]).unwrap_or("not a number");
    let head = match digits.parse() {
        Ok(size_bytes) => Head::Value(size_bytes),
        Err(_) if digits == "-1" => Head::Absent,
        Err(_) => return Err(format!("a value of `{digits}` bytes")),
    };
    Ok(Some((head, end + 2)))
}

/// Finds the end of a reply as its bytes come, and looks at each of them once.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Where the next element begins, or the end of all.
    next: usize,
    /// Up to here there is no line end.
    seen: usize,
    /// The elements that are still to come of each list that is open.
    open: Vec<u64>,
    is_done: bool,
}

impl Scan {
    /// Returns the length of the reply that `bytes` begin with; `None` if more are needed. They begin with those of the
    /// last time.
    ///
    /// # Errors
    /// It is longer or deeper than a reply may be.
    pub(crate) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        while !self.is_done {
            self.seen = self.seen.max(self.next);
            let Some(at) =
                bytes.get(self.seen..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n'))
            else {
                self.seen = self.seen.max(bytes.len());
                break;
            };
            let line = &bytes[self.next..self.seen + at];
            self.seen += at + 1;
            if let Some(line) = line.strip_suffix(b"\r") {
                self.next = self.seen;
                self.element(line)?;
            }
        }
        if self.next.max(bytes.len()) > REPLY_BYTES_MAX && !(self.is_done && self.next <= REPLY_BYTES_MAX) {
            return Err(format!("more than {REPLY_BYTES_MAX} bytes"));
        }
        Ok((self.is_done && self.next <= bytes.len()).then_some(self.next))
    }

    /// Takes an element into account that begins with this line.
    fn element(&mut self, line: &[u8]) -> Result<(), String> {
        let number = || std::str::from_utf8(line.get(1..)?).ok()?.parse::<i64>().ok();
        match line.first() {
            Some(b'*') => {
                if let Some(n_elements @ 1..) = number() {
                    self.open.push(n_elements.cast_unsigned());
                    // The decoder calls itself for each.
                    if self.open.len() > DEPTH_MAX {
                        return Err(format!("lists in lists, more than {DEPTH_MAX}"));
                    }
                    return Ok(());
                }
            }
            // The bytes of a string are not lines.
            Some(b'$') => {
                if let Some(n_bytes @ 0..) = number() {
                    self.next = self.next.saturating_add(n_bytes as usize).saturating_add(2);
                }
            }
            _ => {}
        }
        // The end of an element may be the end of a list, which is an element.
        while let Some(n_elements) = self.open.last_mut() {
            *n_elements -= 1;
            if *n_elements > 0 {
                return Ok(());
            }
            self.open.pop();
        }
        self.is_done = true;
        Ok(())
    }
}

/// Decodes a reply whose length [`Scan`] has found.
///
/// # Errors
/// The fault of the reply.
pub(crate) fn reply(bytes: &[u8]) -> Result<OwnedFrame, String> {
    match decode(bytes) {
        Ok(Some((frame, n_bytes))) if n_bytes == bytes.len() => Ok(frame),
        Ok(_) => Err("a reply whose end differs from its stated length".to_owned()),
        Err(error) => Err(error.details().to_owned()),
    }
}

/// Returns the error for a reply that makes no sense.
pub(crate) fn unexpected(reply: &OwnedFrame) -> String {
    let kind = match reply {
        OwnedFrame::SimpleString(_) => "a word",
        OwnedFrame::Error(_) => "an error",
        OwnedFrame::Integer(_) => "a number",
        OwnedFrame::BulkString(_) => "a value",
        OwnedFrame::Array(_) => "a list",
        OwnedFrame::Null => "nothing",
    };
    format!("{kind}, where another reply was expected")
}

#[cfg(test)]
mod tests {
    use redis_protocol::resp2::types::OwnedFrame;

    use super::{Head, REPLY_BYTES_MAX, Scan, command, head, reply};

    #[test]
    fn a_command_is_a_list_of_values() {
        let mut out = Vec::new();
        command(&mut out, &[b"SET", b"key", b"\r\n\0"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$3\r\n\r\n\0\r\n");
    }

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        for end in 0..5 {
            assert_eq!(head(&b"$12\r\nvalue"[..end]), Ok(None), "{end}");
        }
        assert_eq!(head(b"$12\r\nvalue"), Ok(Some((Head::Value(12), 5))));
        assert_eq!(head(b"$0\r\n"), Ok(Some((Head::Value(0), 4))));
        assert_eq!(head(b"$-1\r\n"), Ok(Some((Head::Absent, 5))));
        assert_eq!(head(b"-ERR no\r\n"), Ok(Some((Head::Other, 0))));
    }

    #[test]
    fn heads_that_are_no_length_are_errors() {
        for bad in
            [&b"$\r\n"[..], b"$-2\r\n", b"$1x\r\n", b"$99999999999999999999\r\n", b"$\xff\r\n", &[b'$'; 40]]
        {
            assert!(head(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    /// Reads the reply that bytes begin with, as they come: `n` more each time.
    fn read(bytes: &[u8], n: usize) -> Result<Option<(OwnedFrame, usize)>, String> {
        let mut scan = Scan::default();
        for end in (0..bytes.len()).step_by(n).chain([bytes.len()]) {
            if let Some(end) = scan.end(&bytes[..end])? {
                return Ok(Some((reply(&bytes[..end])?, end)));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_reply_is_the_same_however_its_bytes_come() {
        for (bytes, end) in [
            (&b":1\r\n:2\r\n"[..], 4),
            (b"+OK\r\n", 5),
            (b"-ERR\nno\r\n+OK\r\n", 9),
            (b"$-1\r\n", 5),
            (b"$4\r\na\r\nb\r\n:1\r\n", 10),
            (b"*2\r\n$1\r\n\n\r\n*1\r\n:1\r\n:2\r\n", 19),
            (b"*0\r\n:1\r\n", 4),
        ] {
            for n in 1..=bytes.len() {
                let found = read(bytes, n).expect("it is a reply");
                assert_eq!(found.map(|(_, end)| end), Some(end), "{}", String::from_utf8_lossy(bytes));
            }
        }
        assert_eq!(read(b":1\r\n:2\r\n", 1), Ok(Some((OwnedFrame::Integer(1), 4))));
    }

    #[test]
    fn replies_are_bounded_in_size_and_depth() {
        assert_eq!(read(b"+PO", 1), Ok(None));
        assert!(read(b"what\r\n", 1).is_err());
        assert!(read(&[&b"+"[..], &vec![b'x'; REPLY_BYTES_MAX]].concat(), 4096).is_err());
        assert!(read(b"*1\r\n$2000000\r\n", 1).is_err(), "refused before it has come");
        for deep in [&b"*1\r\n"[..], b"*2\r\n:1\r\n", b"*2\r\n$1\r\nx\r\n", b"*2\r\n$4\r\na\nbc\r\n"] {
            assert!(read(&deep.repeat(10_000), 4096).is_err());
        }
        assert!(read(&[&b"*100\r\n"[..], &b"*1\r\n:1\r\n".repeat(100)].concat(), 7).unwrap().is_some());
        let promise = read(b"*2000000000\r\n:1\r\n", 1);
        assert_eq!(promise, Ok(None), "takes no memory for what is not there");
    }
}
