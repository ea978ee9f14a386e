use super::*;

const KEY: ChunkKey = ChunkKey { hi: 1, lo: 2 };

fn namespace(model: &str) -> Namespace {
    use crate::layout::{Dtype, EngineMetadata, KvShape};
    let kv_shape = KvShape::new([1, 2, 1, 1, 1]).expect("a valid shape");
    let model_name = model.to_owned();
    let kv_dtype = Dtype::UInt8;
    Namespace::new(&EngineMetadata { model_name, world_size: 1, worker_id: 0, kv_dtype, kv_shape })
}

fn sealers() -> [Sealer; 2] {
    [Sealer::checksum(namespace("m")), Sealer::mac(namespace("m"), b"secret")]
}

#[test]
fn what_was_sealed_verifies() {
    for sealer in sealers() {
        let large = vec![7; 70_000];
        for payload in [&b""[..], b"x", &large] {
            assert_eq!(sealer.verify(KEY, payload, &sealer.seal(KEY, payload)), Ok(()));
        }
    }
}

#[test]
fn a_payload_in_pieces_is_sealed_as_a_whole_one() {
    let payload: Vec<u8> = (0..3_000_u32).map(|i| ((i * i) >> 3) as u8).collect();
    for sealer in sealers() {
        for piece in [1, 63, 64, 240, 241, 256, 1000, 1024, 2999] {
            let mut hash = sealer.hash();
            payload.chunks(piece).for_each(|piece| hash.update(piece));
            let trailer = sealer.seal(KEY, &payload);
            assert_eq!(sealer.seal_hashed(KEY, &hash), trailer, "pieces of {piece}");
            assert_eq!(sealer.verify_hashed(KEY, &hash, &trailer), Ok(()));
            hash.update(b"x");
            assert_eq!(sealer.verify_hashed(KEY, &hash, &trailer), Err(Flaw::OtherLength));
        }
    }
}

#[test]
fn the_check_value_is_what_the_format_says() {
    for n in [0, 1, 200, 240, 241, 5_000] {
        let payload = vec![3; n];
        let trailer = sealers()[0].seal(KEY, &payload);
        let mut both = trailer[..48].to_vec();
        both.extend(XxHash3_128::oneshot(&payload).to_le_bytes());
        assert_eq!(trailer[48..], XxHash3_128::oneshot(&both).to_le_bytes());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for sealer in sealers() {
        let payload = [42_u8; 100];
        let trailer = sealer.seal(KEY, &payload);
        for bit in 0..payload.len() * 8 {
            let mut torn = payload;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer.verify(KEY, &torn, &trailer), Err(Flaw::CheckFailed));
        }
        for bit in 0..trailer.len() * 8 {
            let mut torn = trailer;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.verify(KEY, &payload, &torn).is_err(), "bit {bit} of the trailer");
        }
    }
}

#[test]
fn other_key_model_length_and_algorithm_are_told_apart() {
    let [sealer, mac] = sealers();
    let trailer = sealer.seal(KEY, b"payload");
    let flaw = |sealer: &Sealer, key, payload: &[u8]| sealer.verify(key, payload, &trailer);
    assert_eq!(flaw(&sealer, ChunkKey { hi: 1, lo: 3 }, b"payload"), Err(Flaw::OtherKey));
    assert_eq!(flaw(&sealer, KEY, b"payloa"), Err(Flaw::OtherLength));
    assert_eq!(flaw(&mac, KEY, b"payload"), Err(Flaw::OtherAlgorithm));
    assert_eq!(flaw(&Sealer::checksum(namespace("n")), KEY, b"payload"), Err(Flaw::OtherNamespace));
    assert_eq!(sealer.verify(KEY, b"payload", &[0; 64]), Err(Flaw::NoTrailer));
}

#[test]
fn a_forger_without_the_secret_is_noticed() {
    let [_, mac] = sealers();
    let forger = Sealer::mac(namespace("m"), b"guess");
    assert_eq!(mac.verify(KEY, b"evil", &forger.seal(KEY, b"evil")), Err(Flaw::CheckFailed));
}
