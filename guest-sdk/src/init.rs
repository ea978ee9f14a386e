//! Reading the operator's configuration.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

use crate::value::{Value, size};
use crate::{Error, Init};

impl Init {
    /// Returns the value of `config.<key>` (or `secrets.<key>`), if the operator set it. The last one if there are
    /// several.
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

    /// Returns the value of `config.<key>` as [`parse`](Self::parse) does, if it lies in `range`.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and if the value lies outside.
    pub fn parse_in<T>(&self, key: &str, range: impl RangeBounds<T>) -> Result<Option<T>, Error>
    where
        T: Value + PartialOrd + Display,
    {
        check(key, self.parse(key)?, &range, "")
    }

    /// Returns the value of `config.<key>` as [`bytes`](Self::bytes) does, if it lies in `range`.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and if the value lies outside.
    pub fn bytes_in(&self, key: &str, range: impl RangeBounds<u64>) -> Result<Option<u64>, Error> {
        check(key, self.bytes(key)?, &range, " bytes")
    }

    /// Returns `limits.<name>` of the operator's configuration, or its default: in bytes, in milliseconds if the name
    /// ends in `_ms`, or as a number. `None` if the host does not have this limit, and in native tests.
    ///
    /// ```
    /// # use kvtier_guest::{Error, Init};
    /// # fn capacity(init: &Init) -> Result<u64, Error> {
    /// // Half of the memory, unless the operator says otherwise.
    /// let half = init.limit("memory").unwrap_or(64 << 20) / 2;
    /// let capacity = init.bytes("capacity")?.unwrap_or(half);
    /// # Ok(capacity)
    /// # }
    /// ```
    pub fn limit(&self, name: &str) -> Option<u64> {
        limit(name)
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

#[cfg(target_arch = "wasm32")]
fn limit(name: &str) -> Option<u64> {
    crate::bindings::kvtier::storage::limits::get(name)
}

#[cfg(not(target_arch = "wasm32"))]
fn limit(_: &str) -> Option<u64> {
    None
}

fn check<T: PartialOrd + Display>(
    key: &str,
    value: Option<T>,
    range: &impl RangeBounds<T>,
    unit: &str,
) -> Result<Option<T>, Error> {
    if value.as_ref().is_none_or(|value| range.contains(value)) {
        return Ok(value);
    }
    let expected = match (range.start_bound(), range.end_bound()) {
        (Bound::Included(min), Bound::Included(max)) => format!("from {min} to {max}{unit}"),
        (Bound::Included(min), Bound::Unbounded) => format!("at least {min}{unit}"),
        (Bound::Unbounded, Bound::Included(max)) => format!("at most {max}{unit}"),
        _ => "another value".to_owned(),
    };
    Err(Error::invalid_config(key, format!("must be {expected}")))
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
    fn values_outside_a_range_are_refused_with_the_range() {
        let init = init([("n", "12"), ("size", "1KiB")]);
        assert_eq!(init.parse_in("n", 0..=12_u32), Ok(Some(12)));
        assert_eq!(init.parse_in("none", 1..=2_u32), Ok(None));
        assert_eq!(init.bytes_in("size", 1024..), Ok(Some(1024)));
        let refused = [
            init.parse_in("n", 0..=11_u32).map(drop),
            init.parse_in("n", 13_u32..).map(drop),
            init.bytes_in("size", ..=1000).map(drop),
        ];
        let texts = refused.map(|refused| text(refused.unwrap_err()));
        let expected = [
            "config.n: must be from 0 to 11",
            "config.n: must be at least 13",
            "config.size: must be at most 1000 bytes",
        ];
        assert_eq!(texts, expected);
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
