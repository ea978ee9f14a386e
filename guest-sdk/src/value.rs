//! Values of `config.*` as people write them. The host reads its own settings by the same rules; both run
//! `wit/values.txt`, by the parser in `plain.rs`.

use crate::plain::{self, SizeError};

/// A type that [`Init::parse`](crate::Init::parse) reads from a text.
///
/// Implemented for `bool` (`true`/`false`, `1`/`0`, `yes`/`no`, `on`/`off`, in any case), whole numbers (decimal
/// digits, without leading zeros and `_`), `f64`, and `String`. Implement it for types of your own, such as a choice of
/// words.
pub trait Value: Sized {
    /// Reads a text that has no white space around it and is not empty.
    ///
    /// # Errors
    /// What was expected, in words that continue a sentence: "expected true or false". Do not quote the text: operators
    /// put secrets in the wrong place.
    fn from_config(text: &str) -> Result<Self, String>;
}

/// Largest size that is read, in bytes (64 TiB).
const SIZE_BYTES_MAX: u64 = 1 << 46;

const BOOLEAN: &str = "expected true or false (or 1/0, yes/no, on/off)";
const WHOLE: &str = "expected a whole number in decimal digits, without leading zeros and `_`";
// `M` alone is 10^6 in Kubernetes and 2^20 elsewhere.
const SIZE: &str = "expected a size such as 4096, 64KiB, 64Ki, 1.5GiB or 2GB (`M` alone has two meanings)";

impl Value for bool {
    fn from_config(text: &str) -> Result<Self, String> {
        plain::boolean(text).ok_or_else(|| BOOLEAN.to_owned())
    }
}

impl Value for String {
    fn from_config(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for f64 {
    fn from_config(text: &str) -> Result<Self, String> {
        let number: Option<f64> = text.parse().ok().filter(|value: &f64| value.is_finite());
        number
            .filter(|_| !plain::has_leading_zero(text))
            .ok_or_else(|| "expected a number such as 0.5, without leading zeros".to_owned())
    }
}

impl Value for std::net::SocketAddrV4 {
    fn from_config(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "expected an address and a port such as 10.0.0.1:6379".to_owned())
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn from_config(text: &str) -> Result<Self, String> {
                let number = plain::whole(text).ok_or(WHOLE)?;
                Self::try_from(number)
                    .map_err(|_| format!("expected a number from {} to {}", Self::MIN, Self::MAX))
            }
        }
    )*};
}

whole_numbers!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

/// Reads a size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    plain::size(text, SIZE_BYTES_MAX).map_err(|error| match error {
        SizeError::Form => SIZE.to_owned(),
        SizeError::Range => "expected a size from 0 to 64 TiB".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../wit/values.txt");

    fn outcome<T: ToString>(read: Result<T, String>) -> String {
        match read {
            Ok(value) => value.to_string(),
            Err(error) if error.contains(" from ") => "out of range".to_owned(),
            Err(_) => "refused".to_owned(),
        }
    }

    #[test]
    fn the_sdk_reads_the_table_of_values_as_the_host_does() {
        let mut n_rows = 0;
        for line in VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            n_rows += 1;
            let (kind, rest) = line.split_once('|').unwrap();
            let (text, expected) = rest.rsplit_once('|').unwrap();
            let found = match (kind, text.trim()) {
                // `Init` does not ask for these.
                (_, "") => "not given".to_owned(),
                ("boolean", text) => outcome(bool::from_config(text)),
                ("whole", text) => outcome(u32::from_config(text)),
                ("size", text) => outcome(size(text)),
                (other, _) => panic!("no such kind: {other}"),
            };
            assert_eq!(found, expected, "{kind} {text:?}");
        }
        assert!(n_rows > 90);
    }

    #[test]
    fn numbers_have_the_range_of_their_type() {
        assert_eq!(u8::from_config("255"), Ok(255));
        assert_eq!(u8::from_config("256"), Err("expected a number from 0 to 255".to_owned()));
        assert_eq!(i64::from_config("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(f64::from_config("0.25"), Ok(0.25));
        assert!(f64::from_config("NaN").is_err() && f64::from_config("007").is_err());
    }
}
