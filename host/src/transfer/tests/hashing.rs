//! Hashes of bytes that are read or written in any order.

use super::*;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    /// A range of at most `longest` bytes, which often continues from `next`.
    fn range(&mut self, next: usize, size: usize, longest: usize) -> Range<usize> {
        let start = if self.below(3) > 0 { next } else { self.below(size + 1) };
        start..size.min(start + self.below(longest + 1))
    }
}

/// Larger than two pieces, and not a multiple of anything.
const LARGE: usize = 2 * PIECE_BYTES + 777;

fn large(dice: &mut Dice) -> Vec<u8> {
    (0..LARGE).map(|_| dice.below(256) as u8).collect()
}

fn large_writer() -> ChunkWriter {
    let pool: Arc<dyn Provider> = Arc::new(Pool::new(LARGE.next_multiple_of(4096)).unwrap());
    ChunkWriter::new(KEY, BufferMut::allocate(&pool, LARGE).unwrap().unwrap())
}

fn large_chunk(payload: &[u8]) -> Chunk {
    let mut writer = large_writer();
    writer.copy_from_slice(payload);
    writer.freeze()
}

#[test]
fn whatever_the_order_of_reads_the_trailer_is_the_sealers() {
    let mut dice = Dice(1);
    let payload = large(&mut dice);
    for sealer in sealers() {
        let trailer = sealer.seal(KEY, &payload);
        let whole = [payload.as_slice(), &trailer].concat();
        for _ in 0..20 {
            let sources = Sources::new(vec![large_chunk(&payload)], &sealer);
            let longest = [100, 70_000, LARGE][dice.below(3)];
            let mut next = 0;
            for _ in 0..40 {
                let range = dice.range(next, whole.len(), longest);
                next = range.end;
                let chunk = sources.chunk(0).unwrap();
                if dice.below(2) == 0 {
                    assert_eq!(chunk.pieces(range.clone()).unwrap().concat(), whole[range]);
                } else {
                    assert_eq!(chunk.bytes(range.clone()).unwrap(), whole[range]);
                }
            }
            assert_eq!(sources.chunk(0).unwrap().parts(), (&payload[..], &trailer));
        }
    }
}

#[test]
fn simultaneous_readers_find_the_same_trailer() {
    let payload = large(&mut Dice(2));
    let trailer = sealers()[0].seal(KEY, &payload);
    let sources = Sources::new(vec![large_chunk(&payload)], &sealers()[0]);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (sources, trailer) = (&sources, &trailer);
            scope.spawn(move || {
                let (mut dice, mut next) = (Dice(seed), 0);
                let chunk = sources.chunk(0).unwrap();
                while next < LARGE {
                    next = LARGE.min(next + dice.below(50_000));
                    chunk.pieces(next.saturating_sub(10_000)..next).unwrap();
                }
                assert_eq!(chunk.pieces(LARGE..LARGE + TRAILER_BYTES).unwrap()[1], trailer);
            });
        }
    });
}

#[test]
fn a_chunk_that_is_sealed_is_not_read_again() {
    let chunk = large_chunk(&large(&mut Dice(3)));
    let sealed_before = [7; TRAILER_BYTES];
    chunk.trailer_or_seal(|_| sealed_before);
    let source = Sealed::new(chunk, &sealers()[0]);
    source.pieces(0..LARGE).unwrap();
    assert_eq!(source.parts().1, &sealed_before);
}

/// Fills a buffer in random order, at first with wrong bytes in places.
fn fill(sink: &mut Sink, whole: &[u8], dice: &mut Dice) {
    let longest = [70_000, LARGE][dice.below(2)];
    let mut next = 0;
    for _ in 0..30 {
        let range = dice.range(next, whole.len(), longest);
        next = range.end;
        let mut bytes = whole[range.clone()].to_vec();
        if dice.below(4) == 0 && !bytes.is_empty() {
            let at = dice.below(bytes.len());
            bytes[at] ^= 0x40;
        }
        sink.write(range.start, &bytes).unwrap();
    }
}

#[test]
fn whatever_the_order_of_writes_the_verdict_is_the_sealers() {
    let mut dice = Dice(4);
    let payload = large(&mut dice);
    for sealer in sealers() {
        let whole = [payload.as_slice(), &sealer.seal(KEY, &payload)].concat();
        let mut n_refused = 0;
        for _ in 0..20 {
            let mut sink = Sink::new(large_writer(), &sealer);
            // The memory's previous content.
            sink.pieces_mut(0..LARGE).unwrap()[0].fill(9);
            fill(&mut sink, &whole, &mut dice);
            let verdict = sink.check();
            assert_eq!(verdict, sealer.verify(KEY, &sink.writer, &sink.trailer));
            n_refused += usize::from(verdict.is_err());
            // Repaired, it is accepted.
            for at in (0..whole.len()).step_by(150_000) {
                sink.write(at, &whole[at..whole.len().min(at + 150_000)]).unwrap();
            }
            assert_eq!((sink.is_full(), sink.check()), (true, Ok(())));
        }
        assert!(n_refused > 10, "{n_refused}");
    }
}

#[test]
fn a_byte_that_is_changed_after_it_was_hashed_is_noticed() {
    let payload = large(&mut Dice(5));
    for sealer in sealers() {
        let whole = [payload.as_slice(), &sealer.seal(KEY, &payload)].concat();
        // The first byte, those at the border of pieces, the last, and the check value.
        for at in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, LARGE / 2, LARGE - 1, LARGE + 63] {
            for through in [Sink::write, write_as_a_splice] {
                let mut sink = Sink::new(large_writer(), &sealer);
                sink.write(0, &whole).unwrap();
                assert_eq!(sink.n_unhashed_bytes(), 0, "it came in order");
                through(&mut sink, at, &[!whole[at]]).unwrap();
                assert_eq!(sink.check(), Err(Flaw::CheckFailed), "byte {at}");
                through(&mut sink, at, &[whole[at]]).unwrap();
                assert_eq!(sink.check(), Ok(()), "byte {at}");
            }
        }
    }
}

fn write_as_a_splice(sink: &mut Sink, offset: usize, bytes: &[u8]) -> Result<(), TransferError> {
    let range = offset..offset + bytes.len();
    let [payload, trailer] = sink.pieces_mut(range.clone())?;
    let (first, second) = bytes.split_at(payload.len());
    payload.copy_from_slice(first);
    trailer.copy_from_slice(second);
    sink.mark_written(range)
}

#[test]
fn memory_that_was_handed_out_to_be_changed_is_hashed_again_even_if_nothing_is_noted() {
    let payload = large(&mut Dice(6));
    let [sealer, _] = sealers();
    let whole = [payload.as_slice(), &sealer.seal(KEY, &payload)].concat();
    let mut sink = Sink::new(large_writer(), &sealer);
    sink.write(0, &whole).unwrap();
    sink.pieces_mut(10..20).unwrap()[0].fill(0);
    assert_eq!(sink.check(), Err(Flaw::CheckFailed));
}
