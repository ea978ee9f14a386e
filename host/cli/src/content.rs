//! Payloads computed from the chunk's key, so that every byte that comes back can be checked without a copy.
//!
//! Word `j` (little-endian) of the 64-byte block `i` is `mix(lo + i * gamma) ^ hi ^ lane[j]`. Each word depends on the
//! whole key and on its position, so swapped keys, shifted, repeated or stale content, and zeroed memory are all
//! detected. This does not stop an adversary who knows the formula; the integrity trailer does.
//!
//! The formula may not change: stores keep chunks that earlier releases filled.

use std::fmt;

use kvtier::ChunkKey;

/// 2^64 divided by the golden ratio, made odd.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes the bits of `x`, so that neighbouring inputs give unrelated outputs. A bijection, the last step of SplitMix64.
#[inline]
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The first wrong byte of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// Its position in the payload.
    pub offset: usize,
    /// The byte that belongs there.
    pub expected: u8,
    /// The byte that was read.
    pub found: u8,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} is {:#04x} instead of {:#04x}", self.offset, self.found, self.expected)
    }
}

impl std::error::Error for Mismatch {}

/// Words that share one mixing step. Mixing each word would be slower than memory.
const LANES: usize = 8;
const BLOCK_BYTES: usize = LANES * 8;

/// Distinguishes the words of a block.
const LANE: [u64; LANES] = {
    let mut lane = [0; LANES];
    let mut index = 0;
    while index < LANES {
        lane[index] = mix(index as u64 + 1);
        index += 1;
    }
    lane
};

/// Returns the words of block `index`.
#[inline]
fn block(key: ChunkKey, index: usize) -> [u64; LANES] {
    let base = mix(key.lo.wrapping_add((index as u64).wrapping_mul(GOLDEN_GAMMA))) ^ key.hi;
    LANE.map(|lane| base ^ lane)
}

#[inline]
fn write_block(key: ChunkKey, index: usize, bytes: &mut [u8; BLOCK_BYTES]) {
    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(block(key, index)) {
        *bytes = word.to_le_bytes();
    }
}

fn block_bytes(key: ChunkKey, index: usize) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    write_block(key, index, &mut bytes);
    bytes
}

/// Fills `payload` with the content for `key`.
pub fn fill(key: ChunkKey, payload: &mut [u8]) {
    let (blocks, tail) = payload.as_chunks_mut::<BLOCK_BYTES>();
    let n_blocks = blocks.len();
    for (index, bytes) in blocks.iter_mut().enumerate() {
        write_block(key, index, bytes);
    }
    tail.copy_from_slice(&block_bytes(key, n_blocks)[..tail.len()]);
}

/// Checks every byte of `payload` against the content for `key`, in place.
///
/// # Errors
/// The first byte that differs.
pub fn verify(key: ChunkKey, payload: &[u8]) -> Result<(), Mismatch> {
    let (blocks, tail) = payload.as_chunks::<BLOCK_BYTES>();
    for (index, bytes) in blocks.iter().enumerate() {
        let words = bytes.as_chunks::<8>().0.iter().zip(block(key, index));
        // One branch per block: comparing word by word would prevent vectorisation.
        let difference = words.fold(0, |sum, (bytes, word)| sum | (u64::from_le_bytes(*bytes) ^ word));
        if difference != 0 {
            return Err(first_difference(key, index, bytes));
        }
    }
    if tail == &block_bytes(key, blocks.len())[..tail.len()] {
        Ok(())
    } else {
        Err(first_difference(key, blocks.len(), tail))
    }
}

#[cold]
fn first_difference(key: ChunkKey, index: usize, found: &[u8]) -> Mismatch {
    let expected = block_bytes(key, index);
    let at = expected.iter().zip(found).position(|(expected, found)| expected != found).unwrap_or_default();
    Mismatch { offset: index * BLOCK_BYTES + at, expected: expected[at], found: found[at] }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ChunkKey = ChunkKey { hi: 0x0123_4567_89ab_cdef, lo: 42 };

    fn payload(key: ChunkKey, len: usize) -> Vec<u8> {
        let mut payload = vec![0xa5; len];
        fill(key, &mut payload);
        payload
    }

    #[test]
    fn what_was_filled_verifies_at_every_length() {
        for len in (0..140).chain([4096, 4099]) {
            assert_eq!(verify(KEY, &payload(KEY, len)), Ok(()), "length {len}");
        }
    }

    #[test]
    fn every_single_wrong_byte_is_found_at_its_place() {
        let good = payload(KEY, 201);
        for offset in 0..good.len() {
            let mut bad = good.clone();
            bad[offset] ^= 0x10;
            let mismatch = Mismatch { offset, expected: good[offset], found: bad[offset] };
            assert_eq!(verify(KEY, &bad), Err(mismatch));
        }
    }

    #[test]
    fn other_keys_and_shifted_content_do_not_verify() {
        for other in [ChunkKey { hi: KEY.hi ^ 1, ..KEY }, ChunkKey { lo: KEY.lo + 1, ..KEY }] {
            assert!(verify(KEY, &payload(other, 64)).is_err());
        }
        for shift in [1, 8, 64, 72] {
            assert!(verify(KEY, &payload(KEY, 64 + shift)[shift..]).is_err());
        }
        let mut swapped = payload(KEY, 64);
        swapped.rotate_left(8);
        assert!(verify(KEY, &swapped).is_err(), "words of one block in another order");
        assert!(verify(KEY, &[0; 8]).is_err());
    }

    #[test]
    fn a_mismatch_says_where_and_what() {
        let mismatch = Mismatch { offset: 17, expected: 0x0a, found: 0xff };
        assert_eq!(mismatch.to_string(), "byte 17 is 0xff instead of 0x0a");
    }
}
