//! What the operator can set.

use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use kvtier_guest::{Error, Init};

const PREFIX_DEFAULT: &str = "kvtier:";
const CONNECTIONS_DEFAULT: usize = 8;
const CONNECTIONS_MAX: usize = 256;
const RECONNECT_PAUSE_MAX_MS_DEFAULT: u64 = 1_000;
const IO_TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// A time in milliseconds must fit into one in nanoseconds.
const DURATIONS: RangeInclusive<u64> = 1..=999_999_999_999;
const PORT_DEFAULT: u16 = 6379;

/// The backend's settings.
pub(crate) struct Config {
    /// `config.servers`: seeds of a cluster, or alternatives that are tried in turn. At least one.
    pub(crate) servers: Vec<Address>,
    /// `config.cluster`
    pub(crate) cluster: bool,
    /// The beginning of every key: `config.prefix` and the namespace.
    pub(crate) prefix: String,
    /// `config.ttl_s`: how long a chunk is kept after its last put; without limit by default.
    pub(crate) ttl: Option<Duration>,
    /// Settings of connections.
    pub(crate) link: Rc<Link>,
}

/// The settings of connections.
pub(crate) struct Link {
    /// `config.username`
    pub(crate) username: Option<String>,
    /// `secrets.password`
    pub(crate) password: Option<String>,
    /// `config.database`; 0 needs no selection.
    pub(crate) database: u32,
    /// `config.connections`, to each server.
    pub(crate) connections: usize,
    /// `config.reconnect_pause_max_ms`
    pub(crate) reconnect_pause_max: Duration,
    /// `config.io_timeout_ms`: a connection on which no byte moves for this long is closed.
    pub(crate) io_timeout: Duration,
}

/// A server: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address(Rc<str>);

impl Address {
    /// Reads `HOST`, `HOST:PORT`, `1.2.3.4:PORT` or `[::1]:PORT`. `None` if it is none of these.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let has_port =
            text.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if has_port => (host, port.parse().ok().filter(|&port| port != 0)?),
            _ => (text, PORT_DEFAULT),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        (!host.is_empty() && host.bytes().all(is_host)).then(|| Self::new(host, port))
    }

    pub(crate) fn new(host: &str, port: u16) -> Self {
        let text = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self(text.into())
    }

    /// Returns the host, without brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.0.rsplit_once(':').map_or(&*self.0, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(PORT_DEFAULT)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Config {
    pub(crate) fn from_init(init: &Init) -> Result<Self, Error> {
        init.only(&[
            "servers",
            "cluster",
            "database",
            "username",
            "password",
            "ttl_s",
            "prefix",
            "connections",
            "reconnect_pause_max_ms",
            "io_timeout_ms",
        ])?;
        let servers = servers(init.require("servers")?)?;
        let cluster = init.parse("cluster")?.unwrap_or(false);
        let database = init.parse("database")?.unwrap_or(0);
        if cluster && database != 0 {
            return Err(Error::invalid_config("database", "a cluster has database 0 only"));
        }
        let [username, password] = ["username", "password"].map(|key| init.get(key).map(str::to_owned));
        if username.is_some() && password.is_none() {
            return Err(Error::invalid_config("username", "needs `secrets.password` too"));
        }
        let prefix = init.get("prefix").unwrap_or(PREFIX_DEFAULT);
        if prefix.contains(['{', '}']) {
            let why = "must not contain `{` or `}`, which would put all chunks on one node of a cluster";
            return Err(Error::invalid_config("prefix", why));
        }
        let ttl = init.parse_in("ttl_s", DURATIONS)?.map(Duration::from_secs);
        let connections = init.parse_in("connections", 1..=CONNECTIONS_MAX)?.unwrap_or(CONNECTIONS_DEFAULT);
        let pause_max_ms =
            init.parse_in("reconnect_pause_max_ms", DURATIONS)?.unwrap_or(RECONNECT_PAUSE_MAX_MS_DEFAULT);
        let io_timeout_ms = init.parse_in("io_timeout_ms", DURATIONS)?.unwrap_or(IO_TIMEOUT_MS_DEFAULT);
        let link = Link {
            username,
            password,
            database,
            connections,
            reconnect_pause_max: Duration::from_millis(pause_max_ms),
            io_timeout: Duration::from_millis(io_timeout_ms),
        };
        Ok(Self {
            servers,
            cluster,
            prefix: format!("{prefix}{}:", init.namespace),
            ttl,
            link: Rc::new(link),
        })
    }
}

fn servers(text: &str) -> Result<Vec<Address>, Error> {
    // Not shown: what is before an `@` is a password.
    let parse = |(index, server): (usize, &str)| {
        let why = || {
            let n_bytes = server.trim().len();
            format!(
                "entry {} ({n_bytes} bytes, not shown) is not a server; expected HOST:PORT without user and scheme, several \
                 separated by commas; the password is `secrets.password`",
                index + 1
            )
        };
        Address::parse(server).ok_or_else(|| Error::invalid_config("servers", why()))
    };
    text.split(',').enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::{Address, servers};

    #[test]
    fn servers_are_hosts_and_ports() {
        for (text, host, port) in [
            ("cache.example:7000", "cache.example", 7000),
            ("cache.example", "cache.example", 6379),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("[fd00::1]:6380", "fd00::1", 6380),
            ("[fd00::1]", "fd00::1", 6379),
            ("fd00::1", "fd00::1", 6379),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!((address.host(), address.port()), (host, port), "{text}");
            assert_eq!(Address::parse(&address.to_string()), Some(address), "{text}");
        }
        for text in ["", ":6379", "a:0", "a:65536", "a:b", "redis://a", "a/0", "u@a", "[]:1"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_list_of_servers_names_the_wrong_one() {
        assert_eq!(servers("a:1, b:2").map(|servers| servers.len()), Ok(2));
        let error = servers("a:1,user:hunter2@b").expect_err("a URL").to_string();
        assert!(error.contains("config.servers: entry 2 (14 bytes, not shown)"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        assert!(servers("a:1,").is_err());
    }
}
