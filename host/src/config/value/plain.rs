//! Booleans, whole numbers and sizes as people write them.
//!
//! The host reads its settings with this file. The SDK of backends has a link to it and reads `config.*` with it, so it
//! must not use other modules. `wit/values.txt` has a row for each decision, and both run it.

/// The reason why a text is not a size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SizeError {
    /// It does not have the form of a size.
    Form,
    /// It is negative or too large.
    Range,
}

const UNITS: [(&str, u64); 14] = [
    ("", 1),
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

/// Reads a boolean in any of the usual words.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Reads decimal digits, optionally with a sign and a fraction of zeros, which some JSON writers add. Numbers beyond
/// 128 bits become the nearest one, which no range contains.
pub(crate) fn whole(text: &str) -> Option<i128> {
    let text = text.trim();
    let text = match text.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !is_digits(digits) || has_leading_zero(digits) {
        return None;
    }
    let saturated = if text.starts_with('-') { i128::MIN } else { i128::MAX };
    Some(text.parse().unwrap_or(saturated))
}

/// Reads `64MiB`, `64Mi`, `1.5 GiB`, `500KB` or plain bytes, up to `bytes_max`, which is far below 2^53. Fractions of a
/// byte are dropped; plain bytes may only have a fraction of zeros.
pub(crate) fn size(text: &str, bytes_max: u64) -> Result<u64, SizeError> {
    let text = text.trim();
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, unit_bytes) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(SizeError::Form)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = whole.strip_prefix(['+', '-']).unwrap_or(whole);
    let is_part_of_byte = unit_bytes == 1 && fraction.bytes().any(|byte| byte != b'0');
    if !is_digits(digits) || !is_digits(fraction) || is_part_of_byte || has_leading_zero(digits) {
        return Err(SizeError::Form);
    }
    let number: f64 = number.parse().map_err(|_| SizeError::Form)?;
    // Exact for whole numbers of every accepted size.
    let bytes = number * unit_bytes as f64;
    if (0.0..=bytes_max as f64).contains(&bytes) { Ok(bytes as u64) } else { Err(SizeError::Range) }
}

/// Reports whether a number begins with a redundant zero, which some languages read as octal.
pub(crate) fn has_leading_zero(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text).as_bytes();
    matches!(digits, [b'0', b'0'..=b'9', ..])
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
