//! Chunks of many sizes, and buffers of other sizes than their chunks.

use kvtier::tier::TierError;

use crate::calls::{Got, shown_get, shown_put, stored_length};
use crate::judgement::{Judgement, breach, require};
use crate::kit::{Ended, Kit};
use crate::limits::CHUNK_BYTES;
use crate::sentence::{Part, Sentence};

const MIB: usize = 1 << 20;

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "sizes",
        method: "put",
        text: "Each chunk is stored whole or not at all, even if the instance dies.",
        cause: "A chunk is read or written in one piece, or in pieces whose last one is lost; one read carries 16 MiB \
                at most, or limits.hostcall_bytes.",
        remedy: "Move a chunk in pieces of 1 MiB until `sources.len(i)` bytes are moved. A chunk that does not fit is \
                 answered with `no-space`.",
        part: Part::Quick,
        needs: &["put-then-get", "get-absent"],
        test: small_sizes,
    },
    Sentence {
        id: "size-64-mib",
        method: "put",
        text: "Each chunk is stored whole or not at all, even if the instance dies.",
        cause: "A chunk that does not fit into guest memory is read nevertheless.",
        remedy: "Reserve the memory first, with a function that can fail, and answer `no-space` if it does.",
        part: Part::Full,
        needs: &["sizes"],
        test: largest_size,
    },
    Sentence {
        id: "shorter-than-buffer",
        method: "get",
        text: "A chunk may be shorter than the buffer.",
        cause: "A chunk whose length is not the capacity of the buffer is taken for damaged.",
        remedy: "Write the chunk to the beginning of the buffer, and answer its length.",
        part: Part::Quick,
        needs: &["put-then-get", "get-length"],
        test: shorter_than_buffer,
    },
    Sentence {
        id: "larger-than-buffer",
        method: "get",
        text: "A larger one is not written and stays stored; the host recognises it by its length, which exceeds the \
               capacity.",
        cause: "The chunk is written nevertheless, which fails, or is dropped.",
        remedy: "Compare the stored length with `sinks.capacity(i)`: if it is larger, answer the length and write \
                 nothing.",
        part: Part::Quick,
        needs: &["put-then-get", "get-length"],
        test: larger_than_buffer,
    },
    Sentence {
        id: "others-not-affected",
        method: "get",
        text: "Other chunks are not affected.",
        cause: "The first chunk that cannot be delivered ends the call for all.",
        remedy: "Make a result for each chunk, and go on after one that fails.",
        part: Part::Quick,
        needs: &["one-result-per-key", "larger-than-buffer"],
        test: others_not_affected,
    },
];

fn small_sizes(kit: &mut Kit) -> Judgement {
    for size in [1, 4095, 4096, 4097, MIB, MIB + 1, 3 * MIB] {
        one_size(kit, size)?;
        kit.clean_up(Ended::Well);
    }
    Ok(())
}

fn largest_size(kit: &mut Kit) -> Judgement {
    one_size(kit, 64 * MIB)?;
    kit.alive("put and get of a chunk of 64 MiB")
}

/// Requires that a chunk is stored and found, or refused and absent.
fn one_size(kit: &mut Kit, size: usize) -> Judgement {
    let keys = kit.keys::<1>();
    let call = format!("put of a chunk of {size} bytes");
    let results = kit.put(&call, &keys, size, 0)?;
    match results.as_slice() {
        [Ok(())] => kit.found(&format!("get of a chunk of {size} bytes"), &keys, size, 0),
        [Err(TierError::NoSpace)] => {
            kit.note(format!("a chunk of {size} bytes is answered with `no-space`"));
            kit.absent(&format!("get of a chunk of {size} bytes, after no-space"), &keys, size)
        }
        _ => Err(breach(call, "ok or no-space", shown_put(&results))),
    }
}

fn shorter_than_buffer(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<1>();
    kit.store(&keys, 1000)?;
    let call = "get of a chunk of 1000 bytes into a buffer for 4096";
    let got = kit.get(call, &keys, CHUNK_BYTES)?;
    let expected = [Got::Chunk { salt: 0, length: stored_length(1000) }];
    require(got == expected, call, shown_get(&expected), shown_get(&got))
}

fn larger_than_buffer(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<1>();
    kit.store(&keys, CHUNK_BYTES)?;
    let call = "get of a chunk of 4096 bytes into a buffer for 1000";
    let got = kit.get(call, &keys, 1000)?;
    let expected = [Got::Larger(stored_length(CHUNK_BYTES))];
    require(got == expected, call, shown_get(&expected), shown_get(&got))?;
    kit.found("get into a buffer that is large enough, afterwards", &keys, CHUNK_BYTES, 0)
}

fn others_not_affected(kit: &mut Kit) -> Judgement {
    let [small, large, other] = kit.keys();
    kit.store(&[small, other], 1000)?;
    kit.store(&[large], CHUNK_BYTES)?;
    let call = "get of [1000 bytes, 4096 bytes, 1000 bytes] into buffers for 1000";
    let got = kit.get(call, &[small, large, other], 1000)?;
    let chunk = Got::Chunk { salt: 0, length: stored_length(1000) };
    let expected = [chunk.clone(), Got::Larger(stored_length(CHUNK_BYTES)), chunk];
    let is_right = got.len() == 3 && got[0].is_chunk(0) && got[2].is_chunk(0);
    require(is_right, call, shown_get(&expected), shown_get(&got))
}
