//! Digests that pin a component's file.

use std::fmt;

/// A SHA-256 digest; shown as `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// Parses `sha256:` and 64 hex digits in either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?.as_bytes();
        let mut digest = [0; 32];
        if hex.len() != 2 * digest.len() {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = (high << 4 | low) as u8;
        }
        Some(Self(digest))
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_in_either_case_and_shown_in_lower_case() {
        let text = format!("sha256:{}{}", "0123456789abcdef".repeat(2), "FEDCBA9876543210".repeat(2));
        let digest = Sha256Digest::parse(&text).unwrap();
        assert_eq!(digest.0[..2], [0x01, 0x23]);
        assert_eq!(digest.0[31], 0x10);
        assert_eq!(digest.to_string(), text.to_lowercase().replace("SHA", "sha"));
    }

    #[test]
    fn other_texts_are_no_digests() {
        let hex = "ab".repeat(32);
        for text in [
            hex.clone(),
            format!("sha512:{hex}"),
            format!("sha256:{}", &hex[2..]),
            format!("sha256:{hex}00"),
            format!("sha256:g{}", &hex[1..]),
            format!("sha256:é{}", &hex[2..]),
        ] {
            assert_eq!(Sha256Digest::parse(&text), None, "{text}");
        }
    }
}
