//! Lists of keys: empty, with repeated keys, and long.

use kvtier::block_on;
use kvtier::tier::{Pinning, TierError};

use crate::calls::{all_ok, shown_get};
use crate::judgement::{Judgement, answered, answers, require};
use crate::kit::Kit;
use crate::limits::{CHUNK_BYTES, LONG_LIST_KEYS};
use crate::sentence::{Part, Sentence};

const REPEATED: &str = "`contains`, `put`, `get`, `pin` and `present` answer for each element, but a change happens \
                        once: a repeated key is stored once and pinned once, and counts once for `unpin` and `remove`.";

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "empty-lists",
        method: "all",
        text: "A list of keys may be empty, and may have a key twice.",
        cause: "The first element is used without looking whether there is one.",
        remedy: "Answer 0, or an empty list, for an empty list.",
        part: Part::Quick,
        needs: &["starts"],
        test: empty_lists,
    },
    Sentence {
        id: "repeated-contains",
        method: "contains",
        text: REPEATED,
        cause: "Keys are collected in a set, so that a repeated key counts once.",
        remedy: "Count every element of the list.",
        part: Part::Quick,
        needs: &["put-then-get", "contains-run"],
        test: repeated_contains,
    },
    Sentence {
        id: "repeated-put",
        method: "put",
        text: REPEATED,
        cause: "The second put of a key in one call is refused, or has no result.",
        remedy: "Answer `ok` for a key that the same call has stored already.",
        part: Part::Quick,
        needs: &["one-result-per-key", "keeps-bytes"],
        test: repeated_put,
    },
    Sentence {
        id: "repeated-get",
        method: "get",
        text: REPEATED,
        cause: "Keys are collected in a map, so that only one buffer of a repeated key is filled.",
        remedy: "Fill buffer `i` for every element `i` of the list.",
        part: Part::Quick,
        needs: &["one-result-per-key"],
        test: repeated_get,
    },
    Sentence {
        id: "long-lists",
        method: "contains",
        text: "`put` and `get` carry at most `limits.batch_chunks_max` keys (64 unless configured); the others may \
               carry those of a whole prompt.",
        cause: "A buffer, a command or a recursion is made for a few keys only.",
        remedy: "Split long lists inside the class, and answer for all of them.",
        part: Part::Quick,
        needs: &["put-then-get", "one-result-per-key", "contains-run"],
        test: long_lists,
    },
];

fn empty_lists(kit: &mut Kit) -> Judgement {
    answers("contains of no keys", &0, kit.contains(&[], Pinning::None)?)?;
    let put = kit.put("put of no chunks", &[], CHUNK_BYTES, 0)?;
    require(put.is_empty(), "put of no chunks", "no results", format!("{} results", put.len()))?;
    let got = kit.get("get of no keys", &[], CHUNK_BYTES)?;
    require(got.is_empty(), "get of no keys", "no results", format!("{} results", got.len()))?;
    let tier = kit.tier()?;
    let counts = [
        ("pin of no keys", kit.pin(&[])?),
        ("unpin of no keys", kit.unpin(&[])?),
        ("remove of no keys", block_on(tier.remove([].into(), kit.deadline()))),
    ];
    for (call, found) in counts {
        if found != Err(TierError::Unsupported) {
            answers(call, &0, found)?;
        }
    }
    Ok(())
}

fn repeated_contains(kit: &mut Kit) -> Judgement {
    let [a, b, absent] = kit.keys();
    kit.store(&[a, b], CHUNK_BYTES)?;
    let found = kit.contains(&[a, a, b, a, absent], Pinning::None)?;
    answers("contains of [a, a, b, a, absent]", &4, found)
}

fn repeated_put(kit: &mut Kit) -> Judgement {
    let [a, b] = kit.keys();
    let call = "put of [a, a, b], all new";
    let results = kit.put(call, &[a, a, b], CHUNK_BYTES, 0)?;
    all_ok(call, 3, &results)?;
    kit.found("get of [a, b] after put of [a, a, b]", &[a, b], CHUNK_BYTES, 0)
}

fn repeated_get(kit: &mut Kit) -> Judgement {
    let [a, b] = kit.keys();
    kit.store(&[a, b], CHUNK_BYTES)?;
    kit.found("get of [a, a, b, a]", &[a, a, b, a], CHUNK_BYTES, 0)
}

fn long_lists(kit: &mut Kit) -> Judgement {
    let n_chunks = kit.tier()?.batch_chunks_max().min(64);
    let keys = kit.many_keys(n_chunks);
    kit.store(&keys, 512)?;
    let call = format!("get of {n_chunks} chunks in one call");
    let got = kit.get(&call, &keys, 512)?;
    let n_right = got.iter().filter(|got| got.is_chunk(0)).count();
    require(n_right == n_chunks, call, format!("{n_chunks} chunks"), shown_get(&got))?;
    let mut prompt = keys;
    prompt.extend(kit.many_keys(LONG_LIST_KEYS - n_chunks));
    let call = format!("contains of {LONG_LIST_KEYS} keys, the first {n_chunks} stored");
    let found = answered(&call, n_chunks, kit.contains(&prompt, Pinning::None)?)?;
    require(found == n_chunks, call, n_chunks, found)
}
