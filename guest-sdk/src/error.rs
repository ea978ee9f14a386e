//! Short ways to make an [`Error`].

use crate::Error;

#[expect(
    clippy::needless_pass_by_value,
    reason = "errors and literals are handed over, as to `std::io::Error::other`"
)]
impl Error {
    /// Returns the error that the store cannot be reached, is shutting down, or refuses the call in its present state;
    /// trying again later may help. Counts as a failure of the call's direction, reading or writing.
    pub fn unavailable(why: impl ToString) -> Self {
        Self::Unavailable(why.to_string())
    }

    /// Returns the error that the configuration is wrong at `key`. Counts as a failure.
    pub fn invalid_config(key: &str, why: impl ToString) -> Self {
        Self::InvalidConfig(format!("config.{key}: {}", why.to_string()))
    }

    /// Returns the error that an argument of the call is wrong. Does not count as a failure.
    pub fn invalid_argument(why: impl ToString) -> Self {
        Self::InvalidArgument(why.to_string())
    }

    /// Returns the error that stored bytes are damaged. Counts as a failure, unless the call delivers another chunk.
    pub fn corrupt(which: impl ToString) -> Self {
        Self::Corrupt(which.to_string())
    }

    /// Returns any other error. Counts as a failure.
    pub fn other(why: impl ToString) -> Self {
        Self::Other(why.to_string())
    }
}

impl From<String> for Error {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

impl From<&str> for Error {
    fn from(why: &str) -> Self {
        Self::Other(why.to_owned())
    }
}

impl From<std::io::Error> for Error {
    /// Keeps apart what the host treats apart: a full store, and one that cannot be reached.
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::NoSpace,
            Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::NotConnected
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::BrokenPipe
            | Kind::TimedOut => Self::Unavailable(error.to_string()),
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<wasip3::filesystem::types::ErrorCode> for Error {
    fn from(code: wasip3::filesystem::types::ErrorCode) -> Self {
        use wasip3::filesystem::types::ErrorCode as Code;
        match code {
            Code::InsufficientSpace | Code::Quota | Code::FileTooLarge => Self::NoSpace,
            Code::Access | Code::NotPermitted | Code::ReadOnly => {
                Self::Other("not permitted; grant the directory with `allow.fs` and `:rw`".into())
            }
            Code::Other(Some(words)) => Self::Other(words),
            code => Self::Other(format!("{code:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Error;

    #[test]
    fn a_configuration_error_names_the_key() {
        let error = Error::invalid_config("root", "no such directory");
        assert_eq!(error, Error::InvalidConfig("config.root: no such directory".into()));
    }

    #[test]
    fn a_full_disk_is_no_space_and_a_lost_connection_is_unavailable() {
        let of = |kind: std::io::ErrorKind| Error::from(std::io::Error::from(kind));
        assert_eq!(of(std::io::ErrorKind::StorageFull), Error::NoSpace);
        assert!(matches!(of(std::io::ErrorKind::ConnectionReset), Error::Unavailable(_)));
        assert!(matches!(of(std::io::ErrorKind::NotFound), Error::Other(_)));
    }
}
