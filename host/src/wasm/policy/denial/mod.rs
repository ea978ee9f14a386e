//! What a guest was refused, reported to the caller, and to the operator with the grant that would allow it.
//!
//! WASI's error codes carry no text, so a guest can only report that something was "not permitted". The host keeps the
//! details: [`Denials`] for the backend's log and status, [`DenialLog`] for the errors of one instance's calls.

mod backend;
mod log;

use std::fmt;
use std::net::SocketAddr;

pub(in crate::wasm) use self::backend::Denials;
pub(in crate::wasm) use self::log::{DenialLog, Directories, Mark};
use crate::config::{FsAccess, Grants, NetGrant, NetHost, PortRange};
use crate::limits::DENIED_TEXT_CHARS_MAX;
use crate::text::{Quotes, harmless};

/// One thing that a guest tried and was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::wasm) enum Denial {
    /// It asked for directories and has none.
    NoDirectory,
    /// A path that leads out of its directories.
    Outside(GuestText),
    /// A change in a directory that is granted for reading.
    ReadOnly(GuestText),
    /// The operating system's own refusal.
    System(GuestText),
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
    Lookup(GuestText),
    /// An HTTP request to a target that is not granted.
    Request(GuestText),
    /// An HTTP request to a name that leads to an address that is not granted, with the kind of that address.
    Led(GuestText, SocketAddr, &'static str),
}

/// A text of the guest, made harmless: one line of bounded length, in quotes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::wasm) struct GuestText(String);

impl GuestText {
    fn new(text: &str) -> Self {
        Self(harmless(text, DENIED_TEXT_CHARS_MAX, Quotes::Escape))
    }
}

impl fmt::Display for GuestText {
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
    /// Returns how to allow it. `section` is the prefix of configuration keys.
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
            // The guest chooses the name; as a grant it might mean something else, such as a whole network.
            Self::Lookup(GuestText(name)) => match NetHost::parse(name.strip_suffix('.').unwrap_or(name)) {
                Some(host @ NetHost::Name(_)) => format!("add {section}allow.net: [\"tcp://{host}:PORT\"]"),
                _ => "no grant allows it, because it is not a host name".to_owned(),
            },
            Self::Request(GuestText(target)) => match NetGrant::parse(target) {
                Some(grant) => format!("add {section}allow.net: [\"{grant}\"]"),
                None => "no grant allows it, because it is not an HTTP target".to_owned(),
            },
            Self::Led(GuestText(target), address, _) => match NetGrant::parse(target) {
                Some(NetGrant::Http { scheme, port, .. }) => {
                    let host = NetHost::Address(address.ip().to_canonical());
                    format!(
                        "if that is meant, add {section}allow.net: [\"{}\"]",
                        NetGrant::Http { scheme, host, port }
                    )
                }
                _ => "no grant allows it, because it is not an HTTP target".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::FsGrant;

    fn lookup(name: &str) -> Denial {
        Denial::Lookup(GuestText::new(name))
    }

    #[test]
    fn each_denial_names_the_grant_that_would_allow_it_or_states_that_none_does() {
        let mut allow = Grants::default();
        allow.fs.extend(FsGrant::parse("/srv/kv:/data:ro", Path::new("/")));
        allow.fs.extend(FsGrant::parse("/srv/rw:/tmp:rw", Path::new("/")));
        let text = |denial: Denial| format!("{denial}; {}", denial.remedy(&allow, "external_backend.b."));
        let path = || GuestText::new("../x");
        insta::assert_snapshot!(text(Denial::NoDirectory), @r#"directories, of which none is granted; add external_backend.b.allow.fs: ["HOST_DIR:GUEST_PATH:ro"]"#);
        insta::assert_snapshot!(text(Denial::Outside(path())), @r#"the path "../x", which leads out of the granted directories; add external_backend.b.allow.fs: ["HOST_DIR:GUEST_PATH:ro"]"#);
        insta::assert_snapshot!(text(Denial::ReadOnly(path())), @r#"changing "../x", in a directory that is granted for reading; make it external_backend.b.allow.fs: ["/srv/kv:/data:rw"]"#);
        insta::assert_snapshot!(text(Denial::System(path())), @r#"the path "../x", by the operating system's permissions; let the host's user in"#);
        insta::assert_snapshot!(text(Denial::Socket), @r#"a TCP socket; add external_backend.b.allow.net: ["tcp://HOST:PORT"]"#);
        insta::assert_snapshot!(text(Denial::Connect("10.0.0.1:6379".parse().unwrap())), @r#"connecting to 10.0.0.1:6379; add external_backend.b.allow.net: ["tcp://10.0.0.1:6379"]"#);
        insta::assert_snapshot!(text(Denial::Connect("[::1]:80".parse().unwrap())), @r#"connecting to [::1]:80; add external_backend.b.allow.net: ["tcp://[::1]:80"]"#);
        insta::assert_snapshot!(text(Denial::Bind("0.0.0.0:9".parse().unwrap())), @"binding to 0.0.0.0:9; no grant allows a backend to be connected to");
        insta::assert_snapshot!(text(Denial::Listen), @"listening for connections; no grant allows a backend to be connected to");
        insta::assert_snapshot!(text(Denial::Udp), @"a UDP socket; no grant allows UDP");
        let target = || GuestText::new("https://a.example:443");
        insta::assert_snapshot!(text(Denial::Request(target())), @r#"an HTTP request to "https://a.example:443"; add external_backend.b.allow.net: ["https://a.example:443"]"#);
        insta::assert_snapshot!(text(Denial::Request(GuestText::new("x y"))), @r#"an HTTP request to "x y"; no grant allows it, because it is not an HTTP target"#);
        insta::assert_snapshot!(text(Denial::Led(target(), "10.0.0.1:443".parse().unwrap(), "private")), @r#"an HTTP request to "https://a.example:443", which leads to 10.0.0.1:443, a private address; if that is meant, add external_backend.b.allow.net: ["https://10.0.0.1:443"]"#);
        insta::assert_snapshot!(text(lookup("a.example")), @r#"resolving the name "a.example"; add external_backend.b.allow.net: ["tcp://a.example:PORT"]"#);
    }

    #[test]
    fn the_reference_has_every_denial() {
        let (text, address) = (|| GuestText::new("T"), "10.0.0.1:80".parse().unwrap());
        let denials = [
            Denial::NoDirectory,
            Denial::Outside(text()),
            Denial::ReadOnly(text()),
            Denial::System(text()),
            Denial::Socket,
            Denial::Connect(address),
            Denial::Bind(address),
            Denial::Listen,
            Denial::Udp,
            Denial::Lookup(text()),
            Denial::Request(text()),
            Denial::Led(text(), address, "KIND"),
        ];
        let reference = include_str!("../../../../docs/operation.md");
        let cells = reference.lines().filter_map(|row| row.strip_prefix("| `")?.split(" | ").next());
        let documented: Vec<&str> = cells.flat_map(|cell| cell.split('`').step_by(2)).collect();
        for denial in &denials {
            // A new denial needs an arm here, and a value above.
            match denial {
                Denial::NoDirectory
                | Denial::Outside(_)
                | Denial::ReadOnly(_)
                | Denial::System(_)
                | Denial::Socket
                | Denial::Connect(_)
                | Denial::Bind(_)
                | Denial::Listen
                | Denial::Udp
                | Denial::Lookup(_)
                | Denial::Request(_)
                | Denial::Led(..) => {}
            }
            let shown = ["\"T\"", "10.0.0.1:80", "KIND"]
                .iter()
                .fold(denial.to_string(), |shown, part| shown.replace(part, "..."));
            assert!(documented.contains(&shown.as_str()), "{shown}");
        }
    }

    #[test]
    fn a_text_of_the_guests_is_one_short_line() {
        let target = GuestText::new("a\n\u{1b}[2J\"b");
        assert_eq!(target.to_string(), r#""a\n\u{1b}[2J\"b""#);
        let long = GuestText::new(&"x".repeat(100_000)).to_string();
        assert!(long.len() == DENIED_TEXT_CHARS_MAX + 5 && long.ends_with("...\""), "{long}");
        assert!(!GuestText::new(&"x".repeat(DENIED_TEXT_CHARS_MAX)).to_string().contains("..."));
    }

    #[test]
    fn a_name_that_is_not_a_host_name_is_never_proposed_as_a_grant() {
        let remedy = |name: &str| lookup(name).remedy(&Grants::default(), "");
        for name in ["0.0.0.0/0", "::/0", "[::]", "10.0.0.1", "a:1\"], x: [\"b", "", "a b", &"x".repeat(300)]
        {
            assert_eq!(remedy(name), "no grant allows it, because it is not a host name", "{name}");
        }
        assert_eq!(remedy("A.example."), "add allow.net: [\"tcp://a.example:PORT\"]");
    }
}
