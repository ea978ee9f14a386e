//! Reading the operator's configuration.

use crate::value::{Value, size};
use crate::{Error, Init};

impl Init {
    /// Returns the value of `config.<key>` (or `secrets.<key>`), if the operator set it. The last
    /// one if there are several.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut found = self.config.iter().rev().filter(|(name, _)| name == key);
        found.next().map(|(_, value)| value.as_str())
    }

    /// Returns the value of `config.<key>`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], naming the key, if it is not set or empty.
    pub fn require(&self, key: &str) -> Result<&str, Error> {
        match self.get(key) {
            Some(value) if !value.trim().is_empty() => Ok(value),
            Some(_) => Err(Error::invalid_config(key, "is empty")),
            None => Err(Error::invalid_config(key, "is required and not set")),
        }
    }

    /// Returns the value of `config.<key>` as a `bool`, a number or another [`Value`], if it is set and not empty. The
    /// host reads its own settings by the same rules; `docs/configuration.md` has them.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], naming the key, the reason, and the length of the value; not the value, which may be a
    /// secret in the wrong place.
    pub fn parse<T: Value>(&self, key: &str) -> Result<Option<T>, Error> {
        self.read(key, T::from_config)
    }

    /// Returns the value of `config.<key>` in bytes, if it is set and not empty: `4096`, `64KiB`, `64Mi`, `1.5 GiB`,
    /// `2GB`, up to 64 TiB.
    ///
    /// # Errors
    /// As [`Init::parse`].
    pub fn bytes(&self, key: &str) -> Result<Option<u64>, Error> {
        self.read(key, size)
    }

    /// Refuses keys that the backend does not know: most of them are misspelt.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] at the first key that is not one of `known`.
    pub fn only(&self, known: &[&str]) -> Result<(), Error> {
        match self.config.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) if known.is_empty() => {
                Err(Error::invalid_config(key, "unknown key; this backend has no settings"))
            }
            Some((key, _)) => Err(Error::invalid_config(
                key,
                format!("unknown key; this backend knows {}", known.join(", ")),
            )),
        }
    }

    fn read<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, Error> {
        let Some(text) = self.get(key).filter(|text| !text.trim().is_empty()) else {
            return Ok(None);
        };
        let value = parse(text.trim());
        value.map(Some).map_err(|why| {
            Error::invalid_config(key, format!("{why}, found a text of {} bytes (not shown)", text.len()))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::Error;
    use crate::testing::init;

    fn text(error: Error) -> String {
        match error {
            Error::InvalidConfig(text) => text,
            other => panic!("expected invalid-config, found {other:?}"),
        }
    }

    #[test]
    fn values_are_found_by_key_and_errors_name_it() {
        let init = init([("root", "/data"), ("empty", " "), ("n", "12"), ("bad", "x")]);
        assert_eq!(init.require("root").unwrap(), "/data");
        assert_eq!(init.get("none"), None);
        assert!(text(init.require("none").unwrap_err()).contains("config.none"));
        assert!(text(init.require("empty").unwrap_err()).contains("config.empty"));
        assert_eq!(init.parse::<u32>("n").unwrap(), Some(12));
        assert_eq!(init.parse::<u32>("none").unwrap(), None);
        let error = text(init.parse::<u32>("bad").unwrap_err());
        assert!(error.contains("config.bad") && error.contains("a whole number"), "{error}");
    }

    #[test]
    fn unknown_keys_are_refused_with_those_known() {
        let init = init([("root", "/data"), ("capcity", "1GiB")]);
        assert!(init.only(&["root", "capcity"]).is_ok());
        let error = text(init.only(&["root", "capacity"]).unwrap_err());
        assert!(error.contains("config.capcity") && error.contains("root, capacity"), "{error}");
    }

    #[test]
    fn empty_values_are_not_given_and_values_are_not_shown() {
        let init = init([("empty", ""), ("blank", "  "), ("secret", "hunter2")]);
        for key in ["empty", "blank", "none"] {
            assert_eq!(init.parse::<bool>(key).unwrap(), None);
            assert_eq!(init.parse::<u64>(key).unwrap(), None);
            assert_eq!(init.bytes(key).unwrap(), None);
        }
        for error in [
            init.parse::<bool>("secret").unwrap_err(),
            init.parse::<u32>("secret").unwrap_err(),
            init.parse::<f64>("secret").unwrap_err(),
            init.bytes("secret").unwrap_err(),
        ] {
            let error = text(error);
            assert!(error.starts_with("config.secret: expected "), "{error}");
            assert!(error.ends_with("found a text of 7 bytes (not shown)"), "{error}");
        }
    }
}
