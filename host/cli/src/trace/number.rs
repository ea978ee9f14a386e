//! The numbers of a trace, in the forms that tools write.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

/// Reads a number from 0 on and rounds it.
pub(crate) fn rounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Number { fractions: true })
}

/// Reads a whole number from 0 on, which may be written as a float.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Number { fractions: false })
}

struct Number {
    fractions: bool,
}

impl Visitor<'_> for Number {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.fractions { "a number from 0 on" } else { "a whole number from 0 on" })
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<u64, E> {
        // Larger floats do not represent every whole number.
        const EXACT_MAX: f64 = (1_u64 << 53) as f64;
        let fits = (0.0..=EXACT_MAX).contains(&value) && (self.fractions || value.fract() == 0.0);
        if fits { Ok(value.round() as u64) } else { Err(E::invalid_value(Unexpected::Float(value), &self)) }
    }
}
