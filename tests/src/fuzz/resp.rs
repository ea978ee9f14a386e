//! Replies of a Redis server, through the reader of the `redis` backend: its source file, which needs nothing else of
//! the backend.

#[path = "../../../example-backends/redis/src/resp.rs"]
#[expect(dead_code, reason = "the backend also writes commands with it")]
mod protocol;

use protocol::{Head, REPLY_BYTES_MAX, Scan};

use super::Input;

/// The first byte is the number of bytes per piece, the others are what a server sends. Whatever the pieces, the same
/// replies are read, each has its stated length, and an error persists.
pub(super) fn replies(bytes: &[u8]) {
    let mut input = Input(bytes);
    let n_at_once = usize::from(input.byte()) + 1;
    let sent = input.0;
    assert_eq!(read(sent, n_at_once), read(sent, sent.len().max(1)), "{n_at_once} bytes at a time");
    value(sent, n_at_once);
}

/// Reads reply after reply. Returns their lengths, and whether an error followed.
fn read(sent: &[u8], n_at_once: usize) -> (Vec<usize>, bool) {
    let (mut lengths, mut start) = (Vec::new(), 0);
    let (mut scan, mut arrived) = (Scan::default(), n_at_once.min(sent.len()));
    loop {
        match scan.end(&sent[start..arrived]) {
            Err(_) => return (lengths, true),
            Ok(Some(end)) => {
                assert!((1..=arrived - start).contains(&end) && end <= REPLY_BYTES_MAX, "{end}");
                if protocol::reply(&sent[start..start + end]).is_err() {
                    return (lengths, true);
                }
                lengths.push(end);
                start += end;
                scan = Scan::default();
            }
            Ok(None) if arrived == sent.len() => return (lengths, false),
            Ok(None) => arrived = sent.len().min(arrived + n_at_once),
        }
    }
}

/// The head of a value is found once it is complete, and stays the same when more bytes arrive.
fn value(sent: &[u8], n_at_once: usize) {
    let whole = protocol::head(sent);
    for end in (0..sent.len()).step_by(n_at_once) {
        match protocol::head(&sent[..end]) {
            Ok(None) => {}
            found => assert_eq!(found, whole, "after {end} bytes"),
        }
    }
    if let Ok(Some((head, n_bytes))) = whole {
        assert!(n_bytes <= sent.len() && (n_bytes == 0) == (head == Head::Other));
    }
}
