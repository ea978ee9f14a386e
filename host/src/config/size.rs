//! Sizes in bytes, as people write them.

use super::limits::SIZE_BYTES_MAX;

/// What a size may look like, for error messages.
pub(super) const SIZE_FORM: &str = "a size in bytes such as 67108864, \"64MiB\" or \"1GB\"";

const UNITS: [(&str, u64); 9] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Why a text is no size.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SizeError {
    /// Not of the form of a size.
    Form,
    /// A size, but negative or beyond [`SIZE_BYTES_MAX`].
    Range,
}

/// Parses `64MiB`, `1.5 GiB`, `500KB` or plain bytes. Fractions of a byte are dropped.
pub(super) fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits_end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit_bytes = match unit.as_str() {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or(SizeError::Form)?.1,
    };
    if unit_bytes == 1 && number.contains('.') {
        return Err(SizeError::Form);
    }
    // Exact for whole numbers of every accepted size: 2^46 is far below f64's 2^53.
    let number: f64 = number.parse().map_err(|_| SizeError::Form)?;
    let bytes = number * unit_bytes as f64;
    if (0.0..=SIZE_BYTES_MAX as f64).contains(&bytes) { Ok(bytes as u64) } else { Err(SizeError::Range) }
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
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, bytes) in [
            ("0", 0),
            ("67108864", 64 << 20),
            ("64MiB", 64 << 20),
            (" 64 mib ", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("500KB", 500_000),
            ("1GB", 1_000_000_000),
            ("12B", 12),
            ("64TiB", SIZE_BYTES_MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "MiB",
            "64M",
            "64 apples",
            "1.5",
            "1.5B",
            "nan",
            "inf",
            "0x10",
            "1e9",
            "--1",
            "1-1MiB",
            "1,5GiB",
            "１MiB",
        ] {
            assert_eq!(parse_size(text), Err(SizeError::Form), "{text}");
        }
        for text in ["-1", "-64MiB", "65TiB", "99999999999999999999999999", "-0.5KB"] {
            assert_eq!(parse_size(text), Err(SizeError::Range), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_divides_them() {
        assert_eq!(show_size(SIZE_BYTES_MAX), "64 TiB");
        assert_eq!(show_size(4096), "4 KiB");
        assert_eq!(show_size(1), "1 byte");
        assert_eq!(show_size(1025), "1025 bytes");
    }
}
