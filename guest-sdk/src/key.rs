//! Chunk keys in their usual text form.

use std::fmt;
use std::str::FromStr;

use crate::{ChunkKey, Error};

impl ChunkKey {
    /// Returns the 32 lower-case hexadecimal digits that name the chunk, for file names and the keys of other stores.
    pub fn to_hex(&self) -> String {
        self.to_string()
    }

    /// Reads what [`to_hex`](Self::to_hex) wrote. `None` unless `text` is 32 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return None;
        }
        Some(Self {
            hi: u64::from_str_radix(&text[..16], 16).ok()?,
            lo: u64::from_str_radix(&text[16..], 16).ok()?,
        })
    }
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.hi, self.lo)
    }
}

impl FromStr for ChunkKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::from_hex(text)
            .ok_or_else(|| Error::invalid_argument(format!("`{text}` is not a chunk key of 32 hex digits")))
    }
}

#[cfg(test)]
mod tests {
    use crate::ChunkKey;

    #[test]
    fn a_key_is_32_digits_and_reads_back() {
        let key = ChunkKey { hi: 0x12, lo: u64::MAX };
        assert_eq!(key.to_hex(), "0000000000000012ffffffffffffffff");
        assert_eq!(ChunkKey::from_hex(&key.to_hex()), Some(key));
    }

    #[test]
    fn other_text_is_no_key() {
        let good = "0000000000000012ffffffffffffffff";
        for bad in ["", "12", &good.to_uppercase(), &good[1..], &format!("{good}0"), &good.replace('f', "é")]
        {
            assert_eq!(ChunkKey::from_hex(bad), None, "{bad}");
        }
        assert!("xyz".parse::<ChunkKey>().is_err());
    }
}
