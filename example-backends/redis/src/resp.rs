//! The protocol, RESP2: commands as they are written, and what replies mean. No input or output.
//!
//! Replies are decoded by `redis-protocol`; but a value is never held as a whole, so its header is read here.

use kvtier_guest::Error;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use crate::config::Address;

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

/// What a reply to `GET` begins with.
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
/// What is wrong with it.
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

/// Reads a whole reply and returns it with its length; `None` if more bytes are needed.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn reply(bytes: &[u8]) -> Result<Option<(OwnedFrame, usize)>, String> {
    if is_deep(bytes) {
        return Err(format!("lists in lists, more than {DEPTH_MAX}"));
    }
    match decode(bytes) {
        Ok(None) if bytes.len() >= REPLY_BYTES_MAX => Err(format!("more than {REPLY_BYTES_MAX} bytes")),
        Ok(decoded) => Ok(decoded),
        Err(error) => Err(error.details().to_owned()),
    }
}

/// Whether a reply has more levels than any should. The decoder calls itself for each.
fn is_deep(bytes: &[u8]) -> bool {
    // The elements that are still to come of each list that is open.
    let mut open: Vec<u64> = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let number = std::str::from_utf8(line.get(1..).unwrap_or_default()).unwrap_or_default().trim();
        match line.first() {
            Some(b'*') => {
                if let Ok(n_elements @ 1..) = number.parse() {
                    open.push(n_elements);
                    if open.len() > DEPTH_MAX {
                        return true;
                    }
                    continue;
                }
            }
            // The bytes of a string are no lines.
            Some(b'$') => {
                if let Ok(n_bytes) = number.parse::<usize>() {
                    rest = rest.get(n_bytes.saturating_add(2)..).unwrap_or_default();
                }
            }
            _ => {}
        }
        // The end of an element may be the end of a list, which is an element.
        while let Some(n_elements) = open.last_mut() {
            *n_elements -= 1;
            if *n_elements > 0 {
                break;
            }
            open.pop();
        }
        if open.is_empty() {
            return false;
        }
    }
    false
}

/// Why a server did not do what it was asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refusal {
    /// For good.
    Error(Error),
    /// Another node has the key's slot.
    Moved(Address),
    /// Another node has the key, if it is told that it was asked for.
    Ask(Address),
    /// The cluster is changing: soon it may.
    Later(Error),
    /// The connection broke before the answer.
    Lost(Error),
}

impl Refusal {
    /// What it means for whoever cannot go elsewhere.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Error(error) | Self::Later(error) | Self::Lost(error) => error,
            Self::Moved(to) | Self::Ask(to) => {
                let why =
                    format!("the server belongs to a cluster, where the key is at {to}; set it to true");
                Error::invalid_config("cluster", why)
            }
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Finds out what the words of an error reply of the server at `from` mean.
pub(crate) fn refusal(words: &str, from: &Address) -> Refusal {
    let (code, rest) = words.split_once(' ').unwrap_or((words, ""));
    let target = || rest.split(' ').nth(1).and_then(|to| redirected(to, from));
    let says = || format!("the server at {from} says: {words}");
    Refusal::Error(match code {
        "MOVED" => match target() {
            Some(to) => return Refusal::Moved(to),
            None => Error::unavailable(says()),
        },
        "ASK" => match target() {
            Some(to) => return Refusal::Ask(to),
            None => Error::unavailable(says()),
        },
        "CLUSTERDOWN" | "TRYAGAIN" => return Refusal::Later(Error::unavailable(says())),
        "WRONGPASS" | "NOAUTH" | "NOPERM" => denied(&says()),
        "LOADING" | "MASTERDOWN" | "READONLY" | "MISCONF" | "BUSY" | "NOREPLICAS" => {
            Error::unavailable(says())
        }
        "OOM" => Error::NoSpace,
        _ => Error::other(says()),
    })
}

/// The error of a server that does not let the backend in.
pub(crate) fn denied(says: &str) -> Error {
    Error::InvalidConfig(format!("secrets.password, config.username: {says}"))
}

/// The address in a redirection; without a host it is the host of the server that says it.
fn redirected(to: &str, from: &Address) -> Option<Address> {
    let (host, port) = to.rsplit_once(':')?;
    let host = if host.is_empty() || host == "?" { from.host() } else { host };
    Address::parse(&Address::new(host, port.parse().ok()?).to_string())
}

/// The error for a reply that makes no sense.
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
    use kvtier_guest::Error;
    use redis_protocol::resp2::types::OwnedFrame;

    use super::{Head, REPLY_BYTES_MAX, Refusal, command, head, refusal, reply};
    use crate::config::Address;

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

    #[test]
    fn replies_are_bounded_in_size_and_depth() {
        assert_eq!(reply(b":1\r\n:2\r\n"), Ok(Some((OwnedFrame::Integer(1), 4))));
        assert_eq!(reply(b"+PO"), Ok(None));
        assert!(reply(b"what\r\n").is_err());
        assert!(reply(&[&b"+"[..], &vec![b'x'; REPLY_BYTES_MAX]].concat()).is_err());
        for deep in [&b"*1\r\n"[..], b"*2\r\n:1\r\n", b"*2\r\n$1\r\nx\r\n", b"*2\r\n$4\r\na\nbc\r\n"] {
            assert!(reply(&deep.repeat(10_000)).is_err());
        }
        assert!(reply(&[&b"*100\r\n"[..], &b"*1\r\n:1\r\n".repeat(100)].concat()).unwrap().is_some());
        assert_eq!(reply(&b"*2000000000\r\n:1\r\n"[..]), Ok(None), "takes no memory for what is not there");
    }

    #[test]
    fn errors_are_told_apart() {
        let from = Address::new("10.0.0.1", 7000);
        let other = Address::new("10.0.0.2", 7001);
        for (words, expected) in [
            ("MOVED 3999 10.0.0.2:7001", Refusal::Moved(other.clone())),
            ("ASK 3999 10.0.0.2:7001", Refusal::Ask(other)),
            ("MOVED 3999 :7002", Refusal::Moved(Address::new("10.0.0.1", 7002))),
            ("MOVED 1 fd00::1:7002", Refusal::Moved(Address::new("fd00::1", 7002))),
            ("OOM command not allowed", Refusal::Error(Error::NoSpace)),
        ] {
            assert_eq!(refusal(words, &from), expected, "{words}");
        }
        for words in ["CLUSTERDOWN The cluster is down", "TRYAGAIN Multiple keys"] {
            let Refusal::Later(Error::Unavailable(why)) = refusal(words, &from) else { panic!("{words}") };
            assert!(why.contains(words) && why.contains("10.0.0.1:7000"), "{why}");
        }
        for words in
            ["LOADING Redis is loading", "READONLY You can't write", "MASTERDOWN Link", "MOVED", "MOVED 1 x"]
        {
            assert!(matches!(refusal(words, &from), Refusal::Error(Error::Unavailable(_))), "{words}");
        }
        for words in
            ["WRONGPASS invalid username-password pair", "NOAUTH Authentication required.", "NOPERM no"]
        {
            let Refusal::Error(Error::InvalidConfig(why)) = refusal(words, &from) else { panic!("{words}") };
            assert!(why.contains("secrets.password") && why.contains(words), "{why}");
        }
        assert!(matches!(refusal("ERR unknown command", &from), Refusal::Error(Error::Other(_))));
    }
}
