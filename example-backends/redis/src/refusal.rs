//! Refusals of a server.

use kvtier_guest::Error;

use crate::config::Address;

/// Why a server did not do what it was asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refusal {
    /// For good.
    Error(Error),
    /// Another node has the key's slot.
    Moved(Address),
    /// Another node has the key and serves it after `ASKING`.
    Ask(Address),
    /// The cluster is changing: soon it may.
    Later(Error),
    /// This server does not, and another may: it is a replica, or is not ready.
    Elsewhere(Error),
    /// The connection broke before the answer.
    Lost(Error),
}

impl Refusal {
    /// Returns the error for a caller that cannot go elsewhere.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Error(error) | Self::Later(error) | Self::Elsewhere(error) | Self::Lost(error) => error,
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

/// Interprets the words of an error reply of the server at `from`.
pub(crate) fn refusal(words: &str, from: &Address) -> Refusal {
    let (code, rest) = words.split_once(' ').unwrap_or((words, ""));
    let target = || rest.split(' ').nth(1).and_then(|to| redirected(to, from));
    let answered = || format!("the server at {from} answered: {words}");
    Refusal::Error(match code {
        "MOVED" => match target() {
            Some(to) => return Refusal::Moved(to),
            None => Error::unavailable(answered()),
        },
        "ASK" => match target() {
            Some(to) => return Refusal::Ask(to),
            None => Error::unavailable(answered()),
        },
        "CLUSTERDOWN" | "TRYAGAIN" => return Refusal::Later(Error::unavailable(answered())),
        "WRONGPASS" | "NOAUTH" | "NOPERM" => denied(&answered()),
        "READONLY" | "LOADING" | "MASTERDOWN" => return Refusal::Elsewhere(Error::unavailable(answered())),
        "MISCONF" | "BUSY" | "NOREPLICAS" => Error::unavailable(answered()),
        "OOM" => Error::NoSpace,
        _ => Error::other(answered()),
    })
}

/// Reports whether words mean that a value is larger than the server takes. It ends the connection after them.
pub(crate) fn is_too_large(words: &str) -> bool {
    words.contains("Protocol error") && words.contains("bulk length")
}

/// Returns the error for a value of `n_bytes` that was too large for the server at `from`.
pub(crate) fn too_large(n_bytes: u64, words: &str, from: &Address) -> Error {
    Error::other(format!(
        "a chunk of {n_bytes} bytes: the server at {from} answered: {words}; it takes no value larger than its \
         `proto-max-bulk-len`: raise that, or lower `chunk_size`"
    ))
}

/// Interprets the words of the first error that the server at `from` sends, in answer to the greeting. `Ok` if only the
/// greeting is refused: a server that does not know one command may well know others.
///
/// # Errors
/// `unavailable` if the server takes no connections now, `invalid-config` if it does not take ours.
pub(crate) fn greeting(words: &str, from: &Address) -> Result<(), Error> {
    let answered = || format!("the server at {from} answered: {words}");
    match words.split(' ').next().unwrap_or_default() {
        "NOAUTH" => Err(denied(&answered())),
        // Of a server without a password, to all that do not come from its own machine.
        "LOADING" | "MASTERDOWN" | "DENIED" => Err(Error::unavailable(answered())),
        _ if words.contains("max number of clients") => Err(Error::unavailable(answered())),
        _ => Ok(()),
    }
}

/// Returns the error of a server that does not let the backend in.
pub(crate) fn denied(answer: &str) -> Error {
    Error::InvalidConfig(format!("secrets.password, config.username: {answer}"))
}

/// Returns the address in a redirection; without a host, the host of the server that sent it.
fn redirected(to: &str, from: &Address) -> Option<Address> {
    let (host, port) = to.rsplit_once(':')?;
    let host = if host.is_empty() || host == "?" { from.host() } else { host };
    Address::parse(&Address::new(host, port.parse().ok()?).to_string())
}

#[cfg(test)]
mod tests {
    use kvtier_guest::Error;

    use super::{Refusal, greeting, is_too_large, refusal, too_large};
    use crate::config::Address;

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
        for words in ["LOADING Redis is loading", "READONLY You can't write", "MASTERDOWN Link"] {
            assert!(matches!(refusal(words, &from), Refusal::Elsewhere(Error::Unavailable(_))), "{words}");
        }
        for words in ["MISCONF Redis is configured", "NOREPLICAS Not enough", "MOVED", "MOVED 1 x"] {
            assert!(matches!(refusal(words, &from), Refusal::Error(Error::Unavailable(_))), "{words}");
        }
        for words in
            ["WRONGPASS invalid username-password pair", "NOAUTH Authentication required.", "NOPERM no"]
        {
            let Refusal::Error(Error::InvalidConfig(why)) = refusal(words, &from) else { panic!("{words}") };
            assert!(why.contains("secrets.password") && why.contains(words), "{why}");
        }
        assert!(matches!(refusal("ERR unknown command", &from), Refusal::Error(Error::Other(_))));
        let words = "ERR Protocol error: invalid bulk length";
        assert!(is_too_large(words) && !is_too_large("ERR Protocol error: unbalanced quotes"));
        let Error::Other(why) = too_large(1 << 30, words, &from) else { panic!("{words}") };
        for part in [words, "a chunk of 1073741824 bytes", "proto-max-bulk-len", "chunk_size"] {
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn any_answer_is_a_greeting_but_those_of_a_server_that_does_not_let_us_in() {
        let from = Address::new("10.0.0.1", 7000);
        for words in [
            "MISCONF Redis is configured to save RDB snapshots",
            "NOPERM this user has no permissions to run the 'ping' command",
            "ERR unknown command 'PING'",
            "READONLY",
            "",
        ] {
            assert_eq!(greeting(words, &from), Ok(()), "{words}");
        }
        for words in [
            "LOADING Redis is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down",
            "ERR max number of clients reached",
            "ERR max number of clients + cluster connections reached",
            "DENIED Redis is running in protected mode",
        ] {
            let Err(Error::Unavailable(why)) = greeting(words, &from) else { panic!("{words}") };
            assert!(why.contains(words) && why.contains("10.0.0.1:7000"), "{why}");
        }
        let Err(Error::InvalidConfig(why)) = greeting("NOAUTH Authentication required.", &from) else {
            panic!("NOAUTH")
        };
        assert!(why.contains("secrets.password"), "{why}");
    }
}
