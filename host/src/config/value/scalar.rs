//! Booleans and whole numbers as people write them. The SDK of backends reads `config.*` by the same rules, and both
//! run `wit/values.txt`.

/// Forms of a boolean, for error messages.
pub(in crate::config) const BOOLEAN_FORM: &str = "true or false (or 1/0, yes/no, on/off)";

/// Form of a whole number, for error messages. YAML 1.1 reads `020` as 16, YAML 1.2 as 20.
pub(in crate::config) const WHOLE_FORM: &str =
    "a whole number in decimal digits, without leading zeros and `_`";

/// Reads a boolean in any of the usual words.
pub(in crate::config) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Reads decimal digits, optionally with a sign and a fraction of zeros, which some JSON writers add. Numbers beyond
/// 128 bits become the nearest one, which no range contains.
pub(in crate::config) fn whole(text: &str) -> Option<i128> {
    let text = text.trim();
    let text = match text.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) || has_leading_zero(digits) {
        return None;
    }
    let saturated = if text.starts_with('-') { i128::MIN } else { i128::MAX };
    Some(text.parse().unwrap_or(saturated))
}

/// Reports whether a number begins with a redundant zero, which some languages read as octal.
pub(in crate::config) fn has_leading_zero(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text).as_bytes();
    matches!(digits, [b'0', b'0'..=b'9', ..])
}
