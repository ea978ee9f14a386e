//! What a guest was refused: told to the operator with the grant that would allow it, and to the caller.
//!
//! WASI's error codes carry no words, so a guest can only report that something was "not permitted". The
//! host keeps what it was: [`Denials`] for the backend's log and status, [`Witness`] for the errors of one
//! instance's calls.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::secrets::Secrets;
use crate::clock::Clock;
use crate::config::{FsAccess, Grants, NetGrant, NetHost, PortRange};
use crate::limits::{DENIALS_LOGGED_MAX, DENIALS_PER_ERROR_MAX, DENIED_TEXT_CHARS_MAX, ERROR_BYTES_MAX};
use crate::repeats::Repeats;
use crate::sync::lock;
use crate::tier::TierError;
use crate::wasm::state::log;

/// One thing that a guest tried and was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::wasm) enum Denial {
    /// It asked for directories and has none.
    NoDirectory,
    /// A path that leads out of its directories.
    Outside(Asked),
    /// A change in a directory that is granted for reading.
    ReadOnly(Asked),
    /// The operating system's own refusal.
    System(Asked),
    /// A TCP socket, without any target.
    Socket,
    /// A connection.
    Connect(SocketAddr),
    /// A local address of its own choice.
    Bind(SocketAddr),
    /// Waiting for connections.
    Listen,
    /// A UDP socket.
    Udp,
    /// A name.
    Lookup(Asked),
    /// An HTTP request to where none may go.
    Request(Asked),
    /// An HTTP request to a name that leads where none may, with what kind of address that is.
    Led(Asked, SocketAddr, &'static str),
}

/// A text of the guest's choice, made harmless: one line, of bounded length, in quotes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::wasm) struct Asked(String);

impl Asked {
    fn new(text: &str) -> Self {
        let mut shown: String =
            text.chars().take(DENIED_TEXT_CHARS_MAX).flat_map(char::escape_debug).collect();
        if text.chars().nth(DENIED_TEXT_CHARS_MAX).is_some() {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDirectory => f.write_str("directories, of which none is granted"),
            Self::Outside(path) => write!(f, "the path {path}, which leads out of the granted directories"),
            Self::ReadOnly(path) => write!(f, "changing {path}, in a directory that is granted for reading"),
            Self::System(path) => write!(f, "the path {path}, by the operating system's permissions"),
            Self::Socket => f.write_str("a TCP socket"),
            Self::Connect(address) => write!(f, "connecting to {address}"),
            Self::Bind(address) => write!(f, "binding to {address}"),
            Self::Listen => f.write_str("listening for connections"),
            Self::Udp => f.write_str("a UDP socket"),
            Self::Lookup(name) => write!(f, "resolving the name {name}"),
            Self::Request(target) => write!(f, "an HTTP request to {target}"),
            Self::Led(target, address, kind) => {
                write!(f, "an HTTP request to {target}, which leads to {address}, a {kind} address")
            }
        }
    }
}

impl Denial {
    /// Says what to do if it is meant to be allowed. `section` is what stands before a key.
    fn remedy(&self, allow: &Grants, section: &str) -> String {
        match self {
            Self::NoDirectory | Self::Outside(_) => {
                format!("add {section}allow.fs: [\"HOST_DIR:GUEST_PATH:ro\"]")
            }
            Self::ReadOnly(_) => {
                let read_only = allow.fs.iter().filter(|grant| grant.access == FsAccess::ReadOnly);
                let writable = read_only.map(|grant| {
                    let mut grant = grant.clone();
                    grant.access = FsAccess::ReadWrite;
                    format!("\"{grant}\"")
                });
                format!("make it {section}allow.fs: [{}]", writable.collect::<Vec<_>>().join(" or "))
            }
            Self::System(_) => "let the host's user in".to_owned(),
            Self::Socket => format!("add {section}allow.net: [\"tcp://HOST:PORT\"]"),
            Self::Connect(address) => {
                let host = NetHost::Address(address.ip().to_canonical());
                let ports = PortRange { first: address.port(), last: address.port() };
                format!("add {section}allow.net: [\"{}\"]", NetGrant::Tcp { host, ports })
            }
            Self::Bind(_) | Self::Listen => "no grant allows a backend to be connected to".to_owned(),
            Self::Udp => "no grant allows UDP".to_owned(),
            // The name is the guest's choice; as a grant it might mean something else, such as a whole network.
            Self::Lookup(Asked(name)) => match NetHost::parse(name.strip_suffix('.').unwrap_or(name)) {
                Some(host @ NetHost::Name(_)) => format!("add {section}allow.net: [\"tcp://{host}:PORT\"]"),
                _ => "no grant allows it, as it is no host name".to_owned(),
            },
            Self::Request(Asked(target)) => match NetGrant::parse(target) {
                Some(grant) => format!("add {section}allow.net: [\"{grant}\"]"),
                None => "no grant allows it, as it is no HTTP target".to_owned(),
            },
            Self::Led(Asked(target), address, _) => match NetGrant::parse(target) {
                Some(NetGrant::Http { scheme, port, .. }) => {
                    let host = NetHost::Address(address.ip().to_canonical());
                    format!(
                        "if that is meant, add {section}allow.net: [\"{}\"]",
                        NetGrant::Http { scheme, host, port }
                    )
                }
                _ => "no grant allows it, as it is no HTTP target".to_owned(),
            },
        }
    }
}

/// What one backend was refused, in all its lanes since it was configured.
#[derive(Debug)]
pub(in crate::wasm) struct Denials {
    backend: String,
    allow: Grants,
    count: AtomicU64,
    told: Mutex<Told>,
    /// Of different ones beyond those that are logged.
    further: Repeats,
}

#[derive(Debug, Default)]
struct Told {
    logged: HashSet<Denial>,
    last: Option<Denial>,
}

impl Denials {
    pub(in crate::wasm) fn new(backend: &str, allow: &Grants) -> Arc<Self> {
        Arc::new(Self {
            backend: backend.to_owned(),
            allow: allow.clone(),
            count: AtomicU64::new(0),
            told: Mutex::default(),
            further: Repeats::new(Clock::system()),
        })
    }

    pub(in crate::wasm) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the last denial and its remedy.
    pub(in crate::wasm) fn last(&self) -> Option<String> {
        let last = lock(&self.told).last.clone();
        last.map(|denial| format!("{denial}; {}", self.remedy_in_file(&denial)))
    }

    fn remedy_in_file(&self, denial: &Denial) -> String {
        denial.remedy(&self.allow, &format!("external_backend.{}.", self.backend))
    }

    /// Counts a denial, and logs it if it is new. A guest that invents denials fills neither memory nor log.
    fn record(&self, denial: &Denial) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut told = lock(&self.told);
        if told.last.as_ref() != Some(denial) {
            told.last = Some(denial.clone());
        }
        if told.logged.contains(denial) {
            return;
        }
        // Each kind by itself: a disk on which every chunk is refused must not hide a refused connection.
        let kind = std::mem::discriminant(denial);
        let n_logged = told.logged.iter().filter(|logged| std::mem::discriminant(*logged) == kind).count();
        let n_more = if n_logged < DENIALS_LOGGED_MAX {
            told.logged.insert(denial.clone());
            0
        } else {
            let Some(n_more) = self.further.due() else { return };
            n_more
        };
        drop(told);
        let backend = self.backend.as_str();
        if *denial == Denial::NoDirectory {
            // Not a warning: libraries ask without need, the C library's resolver for one.
            tracing::info!(backend, "denied: {denial}; {}", self.remedy_in_file(denial));
        } else if n_more > 0 {
            tracing::warn!(backend, n_more, "denied: {denial}; {}", self.remedy_in_file(denial));
        } else {
            tracing::warn!(backend, "denied: {denial}; {}", self.remedy_in_file(denial));
        }
    }
}

/// Knows what stands behind the errors of one instance's calls: what it was refused, and which words in them
/// are secrets.
#[derive(Clone, Debug)]
pub(in crate::wasm) struct Witness(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    denials: Arc<Denials>,
    secrets: Secrets,
    count: AtomicU64,
    /// The count when no call was inside last.
    idle: AtomicU64,
    /// Different ones, the latest at the end, each with the count at which it was last seen.
    latest: Mutex<VecDeque<(u64, Denial)>>,
}

/// A moment in an instance's life.
#[derive(Clone, Copy, Debug)]
pub(in crate::wasm) struct Mark(u64);

impl Witness {
    pub(in crate::wasm) fn new(denials: &Arc<Denials>, secrets: &Secrets) -> Self {
        Self(Arc::new(Seen {
            denials: Arc::clone(denials),
            secrets: secrets.clone(),
            count: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            latest: Mutex::default(),
        }))
    }

    pub(in crate::wasm) fn record(&self, denial: Denial) {
        self.0.denials.record(&denial);
        let mut latest = lock(&self.0.latest);
        let at = self.0.count.fetch_add(1, Ordering::Relaxed) + 1;
        latest.retain(|(_, known)| *known != denial);
        if latest.len() == DENIALS_PER_ERROR_MAX {
            latest.pop_front();
        }
        latest.push_back((at, denial));
    }

    /// Notes the moment at which a call goes in.
    pub(in crate::wasm) fn mark(&self) -> Mark {
        Mark(self.0.count.load(Ordering::Relaxed))
    }

    /// Notes that no call is inside.
    pub(in crate::wasm) fn idle(&self) {
        self.0.idle.store(self.mark().0, Ordering::Relaxed);
    }

    /// Returns a text of the guest's choice as it may be shown. Reads no more of it than that.
    pub(in crate::wasm) fn asked(&self, text: &str) -> Asked {
        // One character more, so that it shows that some are left out; of four bytes at most, each.
        Asked::new(&self.0.secrets.hide_beginning(text, 4 * (DENIED_TEXT_CHARS_MAX + 1)))
    }

    /// Returns the secrets.
    pub(in crate::wasm) fn secrets(&self) -> &Secrets {
        &self.0.secrets
    }

    /// Returns a call's error, in the guest's own words, as it may be shown: without secrets, escaped and cut.
    pub(in crate::wasm) fn tame(&self, mut error: TierError) -> TierError {
        if let Some(text) = error.text_mut() {
            // In this order: what is escaped or cut is not recognised as a secret.
            let hidden = self.0.secrets.hide_beginning(text, ERROR_BYTES_MAX);
            *text = log::escaped(&hidden, ERROR_BYTES_MAX);
        }
        error
    }

    /// As [`Self::tame`], with what was refused since the call went in.
    pub(in crate::wasm) fn explain(&self, mark: Mark, error: TierError) -> TierError {
        let mut error = self.tame(error);
        if let Some(text) = error.text_mut() {
            *text = self.with_note(mark, std::mem::take(text));
        }
        error
    }

    /// As [`Self::explain`], for the constructor and `open`: since no call was inside last.
    pub(in crate::wasm) fn explain_start(&self, error: TierError) -> TierError {
        self.explain(self.idle_mark(), error)
    }

    /// As [`Self::explain_start`], for an end that all calls inside share. The cause is harmless already.
    pub(in crate::wasm) fn explain_end(&self, cause: String) -> String {
        self.with_note(self.idle_mark(), cause)
    }

    fn idle_mark(&self) -> Mark {
        Mark(self.0.idle.load(Ordering::Relaxed))
    }

    fn with_note(&self, mark: Mark, text: String) -> String {
        match self.note_since(mark) {
            Some(note) => format!("{text}; {note}"),
            None => text,
        }
    }

    /// Says what was refused since `mark`, and what would allow it; `None` if nothing was. Calls that
    /// overlap in one instance cannot be told apart: each is told what was refused while it was inside.
    fn note_since(&self, mark: Mark) -> Option<String> {
        if self.mark().0 == mark.0 {
            return None;
        }
        let latest = lock(&self.0.latest);
        let since = latest.iter().filter(|(at, _)| *at > mark.0);
        let texts =
            since.map(|(_, denial)| format!("{denial}; {}", denial.remedy(&self.0.denials.allow, "")));
        let note = texts.collect::<Vec<_>>().join("; denied: ");
        (!note.is_empty()).then(|| format!("denied: {note}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::FsGrant;

    fn witness(denials: &Arc<Denials>) -> Witness {
        Witness::new(denials, &["hunter2"].into_iter().collect())
    }

    fn lookup(name: &str) -> Denial {
        Denial::Lookup(Asked::new(name))
    }

    #[test]
    fn each_denial_names_the_grant_that_would_allow_it_or_says_that_none_does() {
        let mut allow = Grants::default();
        allow.fs.extend(FsGrant::parse("/srv/kv:/data:ro", Path::new("/")));
        allow.fs.extend(FsGrant::parse("/srv/rw:/tmp:rw", Path::new("/")));
        let told = |denial: Denial| format!("{denial}; {}", denial.remedy(&allow, "external_backend.b."));
        let path = || Asked::new("../x");
        insta::assert_snapshot!(told(Denial::NoDirectory), @r#"directories, of which none is granted; add external_backend.b.allow.fs: ["HOST_DIR:GUEST_PATH:ro"]"#);
        insta::assert_snapshot!(told(Denial::Outside(path())), @r#"the path "../x", which leads out of the granted directories; add external_backend.b.allow.fs: ["HOST_DIR:GUEST_PATH:ro"]"#);
        insta::assert_snapshot!(told(Denial::ReadOnly(path())), @r#"changing "../x", in a directory that is granted for reading; make it external_backend.b.allow.fs: ["/srv/kv:/data:rw"]"#);
        insta::assert_snapshot!(told(Denial::System(path())), @r#"the path "../x", by the operating system's permissions; let the host's user in"#);
        insta::assert_snapshot!(told(Denial::Socket), @r#"a TCP socket; add external_backend.b.allow.net: ["tcp://HOST:PORT"]"#);
        insta::assert_snapshot!(told(Denial::Connect("10.0.0.1:6379".parse().unwrap())), @r#"connecting to 10.0.0.1:6379; add external_backend.b.allow.net: ["tcp://10.0.0.1:6379"]"#);
        insta::assert_snapshot!(told(Denial::Connect("[::1]:80".parse().unwrap())), @r#"connecting to [::1]:80; add external_backend.b.allow.net: ["tcp://[::1]:80"]"#);
        insta::assert_snapshot!(told(Denial::Bind("0.0.0.0:9".parse().unwrap())), @"binding to 0.0.0.0:9; no grant allows a backend to be connected to");
        insta::assert_snapshot!(told(Denial::Listen), @"listening for connections; no grant allows a backend to be connected to");
        insta::assert_snapshot!(told(Denial::Udp), @"a UDP socket; no grant allows UDP");
        let asked = || Asked::new("https://a.example:443");
        insta::assert_snapshot!(told(Denial::Request(asked())), @r#"an HTTP request to "https://a.example:443"; add external_backend.b.allow.net: ["https://a.example:443"]"#);
        insta::assert_snapshot!(told(Denial::Request(Asked::new("x y"))), @r#"an HTTP request to "x y"; no grant allows it, as it is no HTTP target"#);
        insta::assert_snapshot!(told(Denial::Led(asked(), "10.0.0.1:443".parse().unwrap(), "private")), @r#"an HTTP request to "https://a.example:443", which leads to 10.0.0.1:443, a private address; if that is meant, add external_backend.b.allow.net: ["https://10.0.0.1:443"]"#);
        insta::assert_snapshot!(told(lookup("a.example")), @r#"resolving the name "a.example"; add external_backend.b.allow.net: ["tcp://a.example:PORT"]"#);
    }

    #[test]
    fn a_text_of_the_guests_is_one_short_line() {
        let asked = Asked::new("a\n\u{1b}[2J\"b");
        assert_eq!(asked.to_string(), r#""a\n\u{1b}[2J\"b""#);
        let long = Asked::new(&"x".repeat(100_000)).to_string();
        assert!(long.chars().count() == DENIED_TEXT_CHARS_MAX + 3 && long.ends_with("…\""), "{long}");
        assert!(!Asked::new(&"x".repeat(DENIED_TEXT_CHARS_MAX)).to_string().contains('…'));
    }

    #[test]
    fn a_call_is_told_what_was_refused_while_it_was_inside_and_nothing_else() {
        let denials = Denials::new("b", &Grants::default());
        let (this, other) = (witness(&denials), witness(&denials));
        this.record(Denial::Udp);
        let mark = this.mark();
        assert_eq!(this.note_since(mark), None);
        other.record(lookup("elsewhere"));
        assert_eq!(this.note_since(mark), None, "another instance's");
        this.record(lookup("a"));
        this.record(lookup("a"));
        insta::assert_snapshot!(this.note_since(mark).unwrap(), @r#"denied: resolving the name "a"; add allow.net: ["tcp://a:PORT"]"#);
        this.record(Denial::Udp);
        insta::assert_snapshot!(this.note_since(mark).unwrap(), @r#"denied: resolving the name "a"; add allow.net: ["tcp://a:PORT"]; denied: a UDP socket; no grant allows UDP"#);
        assert_eq!(denials.count(), 5);
        assert!(denials.last().unwrap().starts_with("a UDP socket"));
    }

    #[test]
    fn an_error_is_told_with_the_denial_and_without_secrets() {
        let witness = witness(&Denials::new("b", &Grants::default()));
        let mark = witness.mark();
        let error =
            |witness: &Witness| witness.explain(mark, TierError::Other("login hunter2".into())).to_string();
        assert_eq!(error(&witness), "login [secret]");
        witness.record(Denial::Lookup(witness.asked("hunter2.example")));
        let told =
            "denied: resolving the name \"[secret].example\"; no grant allows it, as it is no host name";
        assert_eq!(error(&witness), format!("login [secret]; {told}"));
        assert_eq!(witness.explain(mark, TierError::NoSpace), TierError::NoSpace);
        assert_eq!(witness.explain_end("dead".into()), format!("dead; {told}"));
        witness.idle();
        assert_eq!(witness.explain_end("dead".into()), "dead");
    }

    #[test]
    fn what_a_guest_says_of_an_error_is_cleared_of_secrets_escaped_and_cut_in_this_order() {
        const PEM: &str = "-----BEGIN KEY-----\nMIIEvQIBADANBg\"\\kqhkiG9w0BAQ\n-----END KEY-----\n";
        let witness = Witness::new(&Denials::new("b", &Grants::default()), &[PEM].into_iter().collect());
        let said = |text: &str| witness.explain(witness.mark(), TierError::Other(text.into())).to_string();
        assert_eq!(said("a `b`\n\u{1b}[31m"), "a `b`\\n\\u{1b}[31m");
        assert_eq!(said(&"x".repeat(ERROR_BYTES_MAX)).len(), ERROR_BYTES_MAX);
        assert_eq!(said(&"x".repeat(ERROR_BYTES_MAX + 1)).len(), ERROR_BYTES_MAX);
        assert_eq!(said(&format!("key {PEM}\nrefused")), "key [secret]\\nrefused");
        // Across the place of the cut, and beyond.
        for before in ERROR_BYTES_MAX - 100..ERROR_BYTES_MAX + 100 {
            for key in [PEM, PEM.trim(), &format!("{PEM:?}")] {
                let told = said(&format!("{}{key}{}", "x".repeat(before), "y".repeat(1000)));
                assert!(told.trim_start_matches('x').len() < 110, "{told}");
                assert!(!told.contains("BEGIN") && !told.contains("MII"), "{told}");
            }
        }
    }

    #[test]
    fn a_name_that_is_no_host_name_is_never_proposed_as_a_grant() {
        let remedy = |name: &str| lookup(name).remedy(&Grants::default(), "");
        for name in ["0.0.0.0/0", "::/0", "[::]", "10.0.0.1", "a:1\"], x: [\"b", "", "a b", &"x".repeat(300)]
        {
            assert_eq!(remedy(name), "no grant allows it, as it is no host name", "{name}");
        }
        assert_eq!(remedy("A.example."), "add allow.net: [\"tcp://a.example:PORT\"]");
    }

    #[test]
    fn a_flood_of_different_denials_is_counted_and_fills_no_memory() {
        let denials = Denials::new("b", &Grants::default());
        let witness = witness(&denials);
        let mark = witness.mark();
        for number in 0..10_000 {
            witness.record(lookup(&number.to_string()));
        }
        assert_eq!(denials.count(), 10_000);
        let last = denials.last().unwrap();
        assert_eq!(lock(&denials.told).logged.len(), DENIALS_LOGGED_MAX);
        witness.record(Denial::Udp);
        assert!(lock(&denials.told).logged.contains(&Denial::Udp), "another kind is told all the same");
        assert_eq!(lock(&witness.0.latest).len(), DENIALS_PER_ERROR_MAX);
        let note = witness.note_since(mark).unwrap();
        assert_eq!(note.matches("denied: ").count(), DENIALS_PER_ERROR_MAX);
        assert!(note.contains("\"9999\"") && last.contains("\"9999\""), "{note}");
    }
}
