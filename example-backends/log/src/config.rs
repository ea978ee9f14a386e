//! What the operator can set.

use kvtier_guest::{Error, Init, Level};

/// The backend's settings.
pub(crate) struct Config {
    /// `config.level`: the level of every line; `info` by default.
    pub(crate) level: Level,
}

impl Config {
    pub(crate) fn from_init(init: &Init) -> Result<Self, Error> {
        init.only(&["level"])?;
        let level = match init.get("level") {
            None | Some("info") => Level::Info,
            Some("trace") => Level::Trace,
            Some("debug") => Level::Debug,
            Some("warn") => Level::Warn,
            Some("error") => Level::Error,
            Some(_) => {
                return Err(Error::invalid_config("level", "must be one of trace, debug, info, warn, error"));
            }
        };
        Ok(Self { level })
    }
}
