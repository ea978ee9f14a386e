//! Sizes in bytes, as people write them. The SDK of backends reads `config.*` by the same rules, and both run
//! `wit/values.txt`.

use super::scalar::has_leading_zero;
use crate::limits::SIZE_BYTES_MAX;

/// Form of a size, for error messages. `M` alone is 10^6 in Kubernetes and 2^20 elsewhere.
pub(in crate::config) const SIZE_FORM: &str =
    "a size in bytes such as 67108864, \"64MiB\", \"64Mi\" or \"64MB\" (`M` alone has two meanings)";

const UNITS: [(&str, u64); 13] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
    ("ti", 1 << 40),
];

/// Why a text is not a size.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) enum SizeError {
    /// It does not look like a size.
    Form,
    /// It is negative or beyond [`SIZE_BYTES_MAX`].
    Range,
}

/// Parses `64MiB`, `64Mi`, `1.5 GiB`, `500KB` or plain bytes. Fractions of a byte are dropped; plain bytes may only
/// have a fraction of zeros.
pub(in crate::config) fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits_end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit_bytes = match unit.as_str() {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or(SizeError::Form)?.1,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = whole.strip_prefix(['+', '-']).unwrap_or(whole);
    let is_number = [digits, fraction]
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let is_part_of_byte = unit_bytes == 1 && fraction.bytes().any(|byte| byte != b'0');
    if !is_number || is_part_of_byte || has_leading_zero(digits) {
        return Err(SizeError::Form);
    }
    // Exact for whole numbers of every accepted size: 2^46 is far below f64's 2^53.
    let number: f64 = number.parse().map_err(|_| SizeError::Form)?;
    let bytes = number * unit_bytes as f64;
    if (0.0..=SIZE_BYTES_MAX as f64).contains(&bytes) { Ok(bytes as u64) } else { Err(SizeError::Range) }
}

pub(in crate::config) const BYTES_PER_GIB: f64 = (1_u64 << 30) as f64;

/// Shows a size in GiB, with up to six decimals, rounded up so that the smallest shown value is an accepted one.
pub(in crate::config) fn show_gib(bytes: u64) -> String {
    ((bytes as f64 / BYTES_PER_GIB * 1e6).ceil() / 1e6).to_string()
}

/// Shows a size in the largest binary unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    const SHOWN: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, unit_bytes) in SHOWN {
        if bytes >= unit_bytes && bytes.is_multiple_of(unit_bytes) {
            return format!("{} {unit}", bytes / unit_bytes);
        }
    }
    match bytes {
        1 => "1 byte".to_owned(),
        n => format!("{n} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_unit_that_divides_them() {
        assert_eq!(show_size(SIZE_BYTES_MAX), "64 TiB");
        assert_eq!(show_size(4096), "4 KiB");
        assert_eq!(show_size(1), "1 byte");
        assert_eq!(show_size(1025), "1025 bytes");
    }
}
