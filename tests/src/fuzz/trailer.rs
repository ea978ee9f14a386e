//! Trailers: only what was sealed verifies.

use kvtier::integrity::{Sealer, TRAILER_BYTES, Trailer};
use kvtier::key::Namespace;
use kvtier::{ChunkKey, Dtype, EngineMetadata, KvShape};

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

/// A payload is sealed; payload, trailer, key and sealer are changed as the input says; then it verifies exactly
/// if nothing has changed.
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
    match input.byte() % 4 {
        // Bit by bit.
        0 => {
            while !input.0.is_empty() {
                let (at, with) = (usize::from(input.byte()), input.byte());
                match trailer.get_mut(at) {
                    Some(byte) => *byte ^= with,
                    None => changed.get_mut(at - TRAILER_BYTES).map_or((), |byte| *byte ^= with),
                }
            }
        }
        // A trailer of the input's own.
        1 => {
            let given = input.up_to(TRAILER_BYTES);
            trailer[..given.len()].copy_from_slice(given);
        }
        // A payload of the input's own, sealed by somebody else.
        2 => {
            changed = input.0.to_vec();
            trailer = sealers[(verifier + 1) % sealers.len()].seal(asked, &changed);
        }
        // Cut off, or longer.
        _ => {
            let n = usize::from(input.byte()) * 2;
            changed.resize(n, 0);
        }
    }
    check(&sealers[verifier], asked, &changed, &trailer);
    let untouched = verifier == author && asked == key && changed == payload && trailer == original;
    let accepted = sealers[verifier].verify(asked, &changed, &trailer).is_ok();
    assert_eq!(accepted, untouched, "sealed {payload:?} as {original:?}, found {changed:?} and {trailer:?}");
}

/// Whatever verifies has the trailer that the verifier would make.
fn check(verifier: &Sealer, key: ChunkKey, payload: &[u8], trailer: &Trailer) {
    if verifier.verify(key, payload, trailer).is_ok() {
        assert_eq!(verifier.seal(key, payload), *trailer);
    }
}
