//! What passes between the host and its compiler.
//!
//! The host starts `kvtier compile-one KEY=VALUE...`, an [`Order`]. The compiler reads the component from its standard
//! input and writes one thing to its standard output: an entry or a [`Failure`], each with its own magic. Nothing else
//! passes between them: no environment, no file, no working directory.

use super::super::code::Fingerprint;
use crate::config::Sha256Digest;
use crate::wasm::engine::Traps;

/// The word after which the `kvtier` command compiles one component.
pub const COMPILER_COMMAND: &str = "compile-one";

/// For which engine to compile, and within which limits.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Order {
    pub(in super::super) component: Sha256Digest,
    /// The fingerprint of the host's engine, in hexadecimal digits.
    pub(in super::super) engine: String,
    pub(in super::super) traps: Traps,
    pub(in super::super) memory_bytes: u64,
    pub(in super::super) cpu_secs: u64,
}

impl Order {
    const TRAPS: [(Traps, &'static str); 2] = [(Traps::Signals, "signals"), (Traps::Checks, "checks")];

    pub(in super::super) fn new(
        component: Sha256Digest,
        engine: Fingerprint,
        traps: Traps,
        memory_bytes: u64,
        cpu_secs: u64,
    ) -> Self {
        Self { component, engine: engine.hex(), traps, memory_bytes, cpu_secs }
    }

    pub(in super::super) fn words(&self) -> [String; 5] {
        [
            format!("component={}", self.component),
            format!("engine={}", self.engine),
            format!(
                "traps={}",
                Self::TRAPS.iter().find(|(traps, _)| *traps == self.traps).map_or("", |(_, word)| word)
            ),
            format!("memory_bytes={}", self.memory_bytes),
            format!("cpu_secs={}", self.cpu_secs),
        ]
    }

    /// Reads what [`Order::words`] has written. `None` if a word is missing, wrong or unknown: the host is then of
    /// another version.
    pub(in super::super) fn read(words: &[String]) -> Option<Self> {
        let [component, engine, traps, memory_bytes, cpu_secs] = words else { return None };
        let traps = traps.strip_prefix("traps=")?;
        Some(Self {
            component: Sha256Digest::parse(component.strip_prefix("component=")?)?,
            engine: engine.strip_prefix("engine=")?.to_owned(),
            traps: Self::TRAPS.iter().find(|(_, word)| *word == traps)?.0,
            memory_bytes: memory_bytes.strip_prefix("memory_bytes=")?.parse().ok()?,
            cpu_secs: cpu_secs.strip_prefix("cpu_secs=")?.parse().ok()?,
        })
    }
}

/// Why the compiler returns no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum FailureKind {
    /// The component does not compile.
    Refused,
    /// The memory limit.
    Memory,
    /// The compiler cannot do it: it is of another version, or could not read its input.
    Unable,
}

impl FailureKind {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Refused, "refused"), (Self::Memory, "memory"), (Self::Unable, "unable")];
}

/// Returns what the compiler writes instead of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Failure {
    pub(in super::super) kind: FailureKind,
    pub(in super::super) text: String,
}

impl Failure {
    const MAGIC: &'static str = "kvtierE1 ";

    pub(in super::super) fn unable(text: impl Into<String>) -> Self {
        Self { kind: FailureKind::Unable, text: text.into() }
    }

    pub(in super::super) fn bytes(&self) -> Vec<u8> {
        let kind = FailureKind::ALL.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, word)| word);
        format!("{}{kind}\n{}", Self::MAGIC, self.text).into_bytes()
    }

    /// Reads what [`Failure::bytes`] has written; `None` if the bytes are something else.
    pub(in super::super) fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(Self::MAGIC.as_bytes())?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (word, text) = (&rest[..end], &rest[end + 1..]);
        let (kind, _) = FailureKind::ALL.iter().find(|(_, known)| known.as_bytes() == word)?;
        Some(Self { kind: *kind, text: String::from_utf8_lossy(text).into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_as_they_were_sent_and_others_are_refused() {
        let order = Order {
            component: Sha256Digest([7; 32]),
            engine: "0f".repeat(32),
            traps: Traps::Checks,
            memory_bytes: 1 << 30,
            cpu_secs: 9,
        };
        let words = order.words();
        assert_eq!(Order::read(&words), Some(order));
        assert_eq!(Order::read(&words[..3]), None);
        for index in 0..words.len() {
            let mut other = words.clone();
            other[index].insert(0, 'x');
            assert_eq!(Order::read(&other), None, "{other:?}");
        }
        let mut more = words.to_vec();
        more.push("nice=1".into());
        assert_eq!(Order::read(&more), None);
    }

    #[test]
    fn failures_arrive_as_they_were_sent_and_other_bytes_are_none() {
        for (kind, _) in FailureKind::ALL {
            let failure = Failure { kind, text: "what\nand why".into() };
            assert_eq!(Failure::read(&failure.bytes()), Some(failure));
        }
        for bytes in
            [&b""[..], b"kvtierE1 ", b"kvtierE1 refused", b"kvtierE1 sulks\nwhy", b"kvtierC2refused\n"]
        {
            assert_eq!(Failure::read(bytes), None, "{bytes:?}");
        }
        assert_eq!(Failure::read(b"kvtierE1 refused\n\xff").unwrap().text, "\u{fffd}");
    }
}
