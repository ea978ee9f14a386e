//! The chunks on which parent and child agree: keys, sizes, content, and the engine's metadata.

use kvtier::tier::{Sealer, TRAILER_BYTES};
use kvtier::{ChunkKey, ChunkSpec, Dtype, EngineMetadata, KvShape, Namespace};

/// Chunks that children work on.
pub(crate) const N_CHUNKS: u64 = 48;

/// The first number of the chunks that only fill a directory.
pub(crate) const FIRST_FILLER: u64 = 1 << 32;

/// The payload of those, in bytes.
pub(crate) const FILLER_BYTES: usize = 128 << 10;

/// Payloads in bytes: from a size that is written at once to one that takes milliseconds. None is a multiple of a page.
const SIZES: [usize; 4] = [3_000, 100_000, 700_000, 3_000_000];

/// Tokens of a chunk. Sizes are given with each operation and do not follow from it.
pub(crate) const CHUNK_SIZE: usize = 16;

/// Returns the key of chunk `number`. Neighbours are in different directories.
pub(crate) fn key(number: u64) -> ChunkKey {
    ChunkKey { hi: (number % 8) << 56 | 0xcafe, lo: number }
}

/// Returns the payload's size of a chunk.
pub(crate) fn payload_bytes(key: ChunkKey) -> usize {
    if key.lo >= FIRST_FILLER { FILLER_BYTES } else { SIZES[(key.lo / 8) as usize % SIZES.len()] }
}

/// Returns the specification of a chunk.
pub(crate) fn spec(key: ChunkKey) -> ChunkSpec {
    ChunkSpec { key, size_bytes: payload_bytes(key) }
}

pub(crate) fn metadata() -> EngineMetadata {
    let shape = [2, 2, CHUNK_SIZE as u32, 2, 8];
    EngineMetadata {
        model_name: "crash-test".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::BFloat16,
        kv_shape: KvShape::new(shape).expect("a valid shape"),
    }
}

/// Returns what is wrong with a chunk's file: its length, its trailer, or a byte of its payload.
pub(crate) fn fault(sealer: &Sealer, key: ChunkKey, file: &[u8]) -> Option<String> {
    let expected = payload_bytes(key) + TRAILER_BYTES;
    let Some((payload, trailer)) = file.split_last_chunk().filter(|_| file.len() == expected) else {
        return Some(format!("{} of {expected} bytes", file.len()));
    };
    if let Err(flaw) = sealer.verify(key, payload, trailer) {
        return Some(flaw.to_string());
    }
    kvtier_cli::content::verify(key, payload).err().map(|mismatch| mismatch.to_string())
}

/// Returns the sealer that verifies the chunks.
pub(crate) fn sealer() -> Sealer {
    Sealer::checksum(Namespace::new(&metadata()))
}
