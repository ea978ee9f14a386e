//! `remove`.

use kvtier::tier::{Pinning, TierError};

use crate::calls::all_ok;
use crate::judgement::{Judgement, Stop, answers, require};
use crate::kit::Kit;
use crate::limits::CHUNK_BYTES;
use crate::sentence::{Part, Sentence};

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "remove-gone",
        method: "remove",
        text: "A `get` afterwards finds none of them, also after a restart.",
        cause: "Only an index forgets the chunk, or only the bytes are deleted.",
        remedy: "Remove both, so that get answers `none` and contains does not count the key.",
        part: Part::Quick,
        needs: &["put-then-get", "one-result-per-key", "get-absent", "contains-run"],
        test: gone,
    },
    Sentence {
        id: "remove-counts",
        method: "remove",
        text: "Removes `keys`, pinned or not, and returns how many were present.",
        cause: "remove answers the length of the list, or counts keys that are absent.",
        remedy: "Count the keys that were present when they were removed.",
        part: Part::Quick,
        needs: &["remove-gone"],
        test: counts,
    },
    Sentence {
        id: "repeated-remove",
        method: "remove",
        text: "a repeated key is stored once and pinned once, and counts once for `unpin` and `remove`.",
        cause: "All keys are looked up before the first is removed, so that a repeated key counts twice.",
        remedy: "Look a key up and remove it in one step, element by element.",
        part: Part::Quick,
        needs: &["remove-counts"],
        test: repeated,
    },
    Sentence {
        id: "put-after-remove",
        method: "put",
        text: "A `get` afterwards finds none of them, also after a restart.",
        cause: "The backend remembers that it has had the key, and does not store it again.",
        remedy: "Forget everything about a key when it is removed.",
        part: Part::Quick,
        needs: &["remove-gone", "keeps-bytes"],
        test: put_again,
    },
    Sentence {
        id: "remove-pinned",
        method: "remove",
        text: "Removes `keys`, pinned or not, and returns how many were present.",
        cause: "Pins protect from remove. They protect from the backend's own eviction only.",
        remedy: "Remove pinned chunks too, and forget their pins.",
        part: Part::Quick,
        needs: &["remove-counts"],
        test: pinned,
    },
];

fn gone(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<2>();
    kit.store(&keys, CHUNK_BYTES)?;
    kit.remove("remove of 2 stored keys", &keys)?;
    kit.absent("get of 2 keys that were removed", &keys, CHUNK_BYTES)?;
    answers("contains of a key that was removed", &0, kit.contains(&keys[..1], Pinning::None)?)
}

fn counts(kit: &mut Kit) -> Judgement {
    let [a, b, absent] = kit.keys();
    kit.store(&[a, b], CHUNK_BYTES)?;
    for (call, expected) in
        [("remove of [stored, absent, stored]", 2), ("remove of [stored, absent, stored], a second time", 0)]
    {
        let found = kit.remove(call, &[a, absent, b])?;
        require(found == expected, call, expected, found)?;
    }
    Ok(())
}

fn repeated(kit: &mut Kit) -> Judgement {
    let [a, b] = kit.keys();
    kit.store(&[a, b], CHUNK_BYTES)?;
    let call = "remove of [a, a, b, a], both stored";
    let found = kit.remove(call, &[a, a, b, a])?;
    require(found == 2, call, 2, found)
}

fn put_again(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<1>();
    kit.store(&keys, CHUNK_BYTES)?;
    kit.remove("remove of a stored key", &keys)?;
    let results = kit.put("put after remove", &keys, CHUNK_BYTES, 1)?;
    all_ok("put after remove", 1, &results)?;
    kit.found("get of a key that was removed and put again", &keys, CHUNK_BYTES, 1)
}

fn pinned(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<1>();
    kit.store(&keys, CHUNK_BYTES)?;
    if kit.pin(&keys)? == Err(TierError::Unsupported) {
        return Err(Stop::NotTried("the class answers `unsupported` to pin".to_owned()));
    }
    let call = "remove of a key that is pinned";
    let found = kit.remove(call, &keys)?;
    require(found == 1, call, 1, found)?;
    kit.absent("get of a key that was removed while it was pinned", &keys, CHUNK_BYTES)
}
