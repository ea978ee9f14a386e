//! The bytes of chunks: every word depends on the key, on its position and on a salt, so that swapped, shifted and
//! stale bytes differ.

use kvtier::ChunkKey;

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Distinguishes the bytes of two puts of one key.
pub(crate) type Salt = u8;

/// Fills a payload.
pub(crate) fn fill(key: ChunkKey, salt: Salt, payload: &mut [u8]) {
    let (words, tail) = payload.as_chunks_mut::<8>();
    let base = start(key);
    let mut word = base;
    for bytes in words {
        *bytes = word.to_le_bytes();
        word = word.wrapping_add(GOLDEN_GAMMA);
    }
    let last = word.to_le_bytes();
    tail.copy_from_slice(&last[..tail.len()]);
    if let Some(first) = payload.first_mut() {
        *first = base as u8 ^ salt;
    }
}

/// Returns the salt of a payload, whose other bytes the trailer has verified.
pub(crate) fn salt(key: ChunkKey, payload: &[u8]) -> Option<Salt> {
    payload.first().map(|first| first ^ start(key) as u8)
}

fn start(key: ChunkKey) -> u64 {
    key.hi ^ key.lo.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_salt_is_found_and_bytes_follow_from_key_and_position() {
        let keys = [1, 2].map(|lo| ChunkKey { hi: 7, lo });
        for size in [1, 7, 8, 9, 4097] {
            let payloads = keys.map(|key| {
                let mut payload = vec![0; size];
                fill(key, 9, &mut payload);
                assert_eq!(salt(key, &payload), Some(9));
                payload
            });
            assert!(size < 8 || payloads[0] != payloads[1]);
            assert!(size < 16 || payloads[0][..8] != payloads[0][8..16]);
        }
    }
}
