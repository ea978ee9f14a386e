//! Trailers: only what was sealed verifies.

use kvtier::tier::{Sealer, TRAILER_BYTES};
use kvtier::{ChunkKey, Dtype, EngineMetadata, KvShape, Namespace};

use super::Input;

const PAYLOAD_BYTES_MAX: usize = 256;

/// Sealers that must not accept each other's work.
fn sealers() -> [Sealer; 4] {
    let namespace = |model: &str| {
        let kv_shape = KvShape::new([1, 2, 1, 1, 1]).expect("a shape");
        let (model_name, kv_dtype) = (model.to_owned(), Dtype::UInt8);
        Namespace::new(&EngineMetadata { model_name, world_size: 1, worker_id: 0, kv_dtype, kv_shape })
    };
    let (one, other) = (namespace("one"), namespace("other"));
    [
        Sealer::checksum(one),
        Sealer::mac(one, b"a key of one"),
        Sealer::checksum(other),
        Sealer::mac(one, b"another key"),
    ]
}

/// Seals a payload, and changes payload, trailer, key and sealer as the input says. The result verifies if and only if
/// nothing has changed, or the input has guessed the trailer.
pub(super) fn verify(bytes: &[u8]) {
    let mut input = Input(bytes);
    let sealers = sealers();
    let author = usize::from(input.byte()) % sealers.len();
    let verifier = (author + usize::from(input.byte() % 4)) % sealers.len();
    let key = ChunkKey { hi: input.byte().into(), lo: 7 };
    let asked = ChunkKey { hi: key.hi ^ u64::from(input.byte()), ..key };
    let n_payload = usize::from(input.byte()).min(PAYLOAD_BYTES_MAX);
    let payload = input.up_to(n_payload).to_vec();
    let original = sealers[author].seal(key, &payload);

    let (mut changed, mut trailer) = (payload.clone(), original);
    let kind = input.byte() % 4;
    match kind {
        // Flipped bits.
        0 => {
            while !input.0.is_empty() {
                let (at, with) = (usize::from(input.byte()), input.byte());
                match trailer.get_mut(at) {
                    Some(byte) => *byte ^= with,
                    None => changed.get_mut(at - TRAILER_BYTES).map_or((), |byte| *byte ^= with),
                }
            }
        }
        // A trailer from the input.
        1 => {
            let given = input.up_to(TRAILER_BYTES);
            trailer[..given.len()].copy_from_slice(given);
        }
        // A payload from the input, sealed by another sealer.
        2 => {
            changed = input.0.to_vec();
            trailer = sealers[(verifier + 1) % sealers.len()].seal(asked, &changed);
        }
        // Truncated, or extended.
        _ => {
            let n = usize::from(input.byte()) * 2;
            changed.resize(n, 0);
        }
    }
    let accepted = sealers[verifier].verify(asked, &changed, &trailer).is_ok();
    let right = sealers[verifier].seal(asked, &changed);
    let untouched = verifier == author && asked == key && changed == payload && trailer == original;
    // A fuzzer sees the operands of comparisons in its process, and so eventually learns the right trailer. If the
    // input supplies the trailer, only the right one may be accepted; otherwise only what was sealed.
    let is_given = trailer != original && matches!(kind, 0 | 1);
    let expected = if is_given { trailer == right } else { untouched };
    assert_eq!(accepted, expected, "sealed {payload:?} as {original:?}, found {changed:?} and {trailer:?}");
}
