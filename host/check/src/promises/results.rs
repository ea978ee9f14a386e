//! What `put`, `get`, `contains` and `present` answer.

use kvtier::block_on;
use kvtier::tier::{Pinning, TierError};

use crate::calls::{Got, all_ok, shown_get, stored_length};
use crate::judgement::{Judgement, Stop, answered, answers, breach, require};
use crate::kit::Kit;
use crate::limits::CHUNK_BYTES;
use crate::sentence::{Part, Sentence};

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "put-then-get",
        method: "put",
        text: "`ok` means that a `get` finds the chunk until it is evicted or removed: a backend that stores nothing \
               returns `no-space`.",
        cause: "put answers before the bytes are kept, keeps them under another key, or get reads or writes at the \
                wrong offset.",
        remedy: "Read all `sources.len(i)` bytes of chunk `i`, keep them under the whole 128-bit key, and write them to \
                 offset 0 of buffer `i`. Answer `ok` only then.",
        part: Part::Quick,
        needs: &["starts"],
        test: put_then_get,
    },
    Sentence {
        id: "one-result-per-key",
        method: "put",
        text: "Stores chunk `i` of `data` under `keys[i]` and returns one result per key, in order.",
        cause: "The list of results is built from the chunks that were stored or found, and not from the keys.",
        remedy: "Make one result for each element of `keys`, also for those that fail.",
        part: Part::Quick,
        needs: &["put-then-get"],
        test: one_result_per_key,
    },
    Sentence {
        id: "get-length",
        method: "get",
        text: "Writes the chunk stored under `keys[i]` to the beginning of buffer `i` of `into` and returns one result \
               per key, in order: the chunk's length, which is the number of bytes written, or `none` if the chunk is \
               absent.",
        cause: "get answers the capacity of the buffer, or a length without the 64 bytes of the trailer.",
        remedy: "Answer the number of bytes that were stored: `sources.len(i)` of the put.",
        part: Part::Quick,
        needs: &["put-then-get"],
        test: get_length,
    },
    Sentence {
        id: "get-absent",
        method: "get",
        text: "the chunk's length, which is the number of bytes written, or `none` if the chunk is absent.",
        cause: "An absent chunk is answered with an error, or with an empty chunk.",
        remedy: "Answer `ok(none)` for a key that is not stored. An error means that the backend cannot find out.",
        part: Part::Quick,
        needs: &["starts"],
        test: get_absent,
    },
    Sentence {
        id: "get-order",
        method: "get",
        text: "returns one result per key, in order: the chunk's length, which is the number of bytes written, or \
               `none` if the chunk is absent.",
        cause: "Results are answered in the order in which chunks were found, or hits before misses.",
        remedy: "Write chunk `keys[i]` to buffer `i`, and answer in the order of `keys`.",
        part: Part::Quick,
        needs: &["put-then-get", "one-result-per-key", "get-absent"],
        test: get_order,
    },
    Sentence {
        id: "contains-run",
        method: "contains",
        text: "Returns how many of `keys`, counted from the first, are present without a gap: in `0..=len(keys)`.",
        cause: "contains counts all keys that are present, also those after a gap.",
        remedy: "Stop counting at the first key that is absent.",
        part: Part::Quick,
        needs: &["put-then-get", "one-result-per-key"],
        test: contains_run,
    },
    Sentence {
        id: "present-each",
        method: "present",
        text: "`present` returns for each of `keys`, in order, whether it is present, also after a gap, and pins nothing.",
        cause: "present stops at the first gap, as contains does.",
        remedy: "Answer one `bool` for each element of `keys`, or `unsupported`.",
        part: Part::Quick,
        needs: &["put-then-get", "one-result-per-key"],
        test: present_each,
    },
    Sentence {
        id: "keeps-bytes",
        method: "put",
        text: "A key that is present keeps its bytes: the result is `ok`, and the put counts as a use.",
        cause: "The second put of a key overwrites the first, or is refused.",
        remedy: "Look first: if the key is present, answer `ok` and read nothing (in Rust `entry(key).or_insert_with`).",
        part: Part::Quick,
        needs: &["put-then-get"],
        test: keeps_bytes,
    },
];

fn put_then_get(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<1>();
    let results = kit.put("put of 1 chunk", &keys, CHUNK_BYTES, 0)?;
    if results.as_slice() == [Err(TierError::NoSpace)] {
        kit.absent("get of the chunk whose put was answered with no-space", &keys, CHUNK_BYTES)?;
        kit.note("it stores nothing: the put of one chunk of 4 KiB into an unused store answers `no-space`");
    }
    all_ok("put of 1 chunk", 1, &results)?;
    kit.found("get of the chunk that was put", &keys, CHUNK_BYTES, 0)
}

fn one_result_per_key(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<9>();
    let results = kit.put("put of 9 chunks", &keys, CHUNK_BYTES, 0)?;
    all_ok("put of 9 chunks", 9, &results)?;
    let got = kit.get("get of 9 chunks that were put", &keys, CHUNK_BYTES)?;
    require(got.len() == 9, "get of 9 chunks that were put", "9 results", shown_get(&got))
}

fn get_length(kit: &mut Kit) -> Judgement {
    for size in [1, 1000, CHUNK_BYTES] {
        let keys = kit.keys::<1>();
        kit.store(&keys, size)?;
        let got = kit.get("get", &keys, size)?;
        let expected = [Got::Chunk { salt: 0, length: stored_length(size) }];
        let call = format!("get of a chunk of {size} bytes and its trailer of 64");
        require(got == expected, call, shown_get(&expected), shown_get(&got))?;
    }
    Ok(())
}

fn get_absent(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<1>();
    kit.absent("get of a key that was never put", &keys, CHUNK_BYTES)
}

fn get_order(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<8>();
    kit.store(&keys, CHUNK_BYTES)?;
    let [first, .., last] = keys;
    let [absent, other] = kit.keys();
    let asked = [keys[3], absent, first, keys[5], other, last, keys[1]];
    let call = "get of [stored, absent, stored, stored, absent, stored, stored]";
    let got = kit.get(call, &asked, CHUNK_BYTES)?;
    let hit = Got::Chunk { salt: 0, length: stored_length(CHUNK_BYTES) };
    let expected = [true, false, true, true, false, true, true]
        .map(|is_hit| if is_hit { hit.clone() } else { Got::Miss });
    let is_right = |(got, expected): (&Got, &Got)| {
        got.is_chunk(0) == expected.is_chunk(0) && (*got == Got::Miss) == (*expected == Got::Miss)
    };
    require(got.iter().zip(&expected).all(is_right), call, shown_get(&expected), shown_get(&got))
}

fn contains_run(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<4>();
    let [absent] = kit.keys();
    kit.store(&keys, CHUNK_BYTES)?;
    let [a, b, c, d] = keys;
    for (call, asked, expected) in [
        ("contains of [absent]", &[absent][..], 0),
        ("contains of 4 stored keys", &keys[..], 4),
        ("contains of [stored, stored, absent, stored]", &[a, b, absent, c], 2),
        ("contains of [absent, stored, stored]", &[absent, c, d], 0),
        ("contains of [stored, absent]", &[d, absent], 1),
    ] {
        answers(call, &expected, kit.contains(asked, Pinning::None)?)?;
    }
    Ok(())
}

fn present_each(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<3>();
    let [absent, other] = kit.keys();
    kit.store(&keys, CHUNK_BYTES)?;
    let tier = kit.tier()?;
    let call = "present of [absent, stored, absent, stored, stored]";
    let asked = [absent, keys[0], other, keys[1], keys[2]];
    match block_on(tier.present(asked.into(), kit.deadline())) {
        Err(TierError::Unsupported) => {
            Err(Stop::NotTried("the class does not have the optional method present".to_owned()))
        }
        found => answers(call, &vec![false, true, false, true, true], found),
    }
}

fn keeps_bytes(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<1>();
    kit.store(&keys, CHUNK_BYTES)?;
    let call = "put of a key that is present, with other bytes";
    let results = answered(call, "ok", kit.try_put(&keys, CHUNK_BYTES, 1)?)?;
    if let [Err(error)] = results.as_slice() {
        return Err(breach(call, "ok", error));
    }
    kit.found("get after two puts of one key", &keys, CHUNK_BYTES, 0)
}
