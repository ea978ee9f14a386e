//! Reading the operator's configuration.

use std::fmt::Display;
use std::str::FromStr;

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

    /// Returns the value of `config.<key>` as a number, a `bool`, or whatever `T` is, if it is set.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], naming the key, the value and the reason.
    pub fn parse<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>, Error> {
        self.read(key, |text| text.parse().map_err(|e: T::Err| e.to_string()))
    }

    /// Returns the value of `config.<key>` in bytes, if it is set: `4096`, `64KiB`, `1.5 GiB`, `2GB`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], naming the key and the value.
    pub fn bytes(&self, key: &str) -> Result<Option<u64>, Error> {
        self.read(key, parse_bytes)
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
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let value = parse(text.trim());
        value.map(Some).map_err(|why| Error::invalid_config(key, format!("`{text}`: {why}")))
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    const HELP: &str = "expected a size such as 4096, 64KiB, 1.5GiB or 2GB";
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(HELP.to_owned()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| "too large".to_owned());
    }
    let fraction: f64 = number.parse().map_err(|_| HELP.to_owned())?;
    let bytes = fraction * factor as f64;
    if !bytes.is_finite() || bytes >= u64::MAX as f64 {
        return Err("too large".to_owned());
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;
    use crate::{EngineMetadata, Error, Init};

    fn init(config: &[(&str, &str)]) -> Init {
        Init {
            backend_name: "disk".into(),
            dst_device: "cpu".into(),
            metadata: EngineMetadata {
                model_name: "m".into(),
                world_size: 1,
                worker_id: 0,
                kv_dtype: "bfloat16".into(),
                kv_shape: vec![2, 2, 256, 8, 128],
                chunk_size: 256,
            },
            namespace: "0".repeat(32),
            config: config.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        }
    }

    fn text(error: Error) -> String {
        match error {
            Error::InvalidConfig(text) => text,
            other => panic!("expected invalid-config, found {other:?}"),
        }
    }

    #[test]
    fn values_are_found_by_key_and_errors_name_it() {
        let init = init(&[("root", "/data"), ("empty", " "), ("n", "12"), ("bad", "x")]);
        assert_eq!(init.require("root").unwrap(), "/data");
        assert_eq!(init.get("none"), None);
        assert!(text(init.require("none").unwrap_err()).contains("config.none"));
        assert!(text(init.require("empty").unwrap_err()).contains("config.empty"));
        assert_eq!(init.parse::<u32>("n").unwrap(), Some(12));
        assert_eq!(init.parse::<u32>("none").unwrap(), None);
        let error = text(init.parse::<u32>("bad").unwrap_err());
        assert!(error.contains("config.bad") && error.contains("`x`"), "{error}");
    }

    #[test]
    fn unknown_keys_are_refused_with_those_known() {
        let init = init(&[("root", "/data"), ("capcity", "1GiB")]);
        assert!(init.only(&["root", "capcity"]).is_ok());
        let error = text(init.only(&["root", "capacity"]).unwrap_err());
        assert!(error.contains("config.capcity") && error.contains("root, capacity"), "{error}");
    }

    #[test]
    fn sizes_take_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65536),
            ("4 GiB", 4 << 30),
            ("1.5gib", 3 << 29),
            ("2GB", 2_000_000_000),
            ("7b", 7),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "4 parsecs", "1..5GiB", "99999999999TiB", "1e3"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
