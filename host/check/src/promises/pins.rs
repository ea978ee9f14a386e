//! What `pin`, `unpin` and `contains` with `pinning.pin` answer.

use kvtier::tier::{Pinning, TierError};

use crate::judgement::{Judgement, answered, answers, require};
use crate::kit::Kit;
use crate::limits::CHUNK_BYTES;
use crate::sentence::{Part, Sentence};

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "pins-alike",
        method: "pin",
        text: "Errors: `unsupported`, as for `pin`; or any.",
        cause: "pin is supported and unpin or contains with `pinning.pin` is not, or the other way round.",
        remedy: "Answer `unsupported` to pin, to unpin and to contains with `pinning.pin`, or to none of them.",
        part: Part::Quick,
        needs: &["put-then-get"],
        test: alike,
    },
    Sentence {
        id: "pin-run",
        method: "pin",
        text: "Protects the present ones of `keys`, counted from the first, from the backend's own eviction, and \
               returns how many it protected before the first that is absent.",
        cause: "pin counts all keys that are present, also those after a gap, or the whole list.",
        remedy: "Stop at the first key that is absent.",
        part: Part::Quick,
        needs: &["pins-alike", "one-result-per-key"],
        test: run,
    },
    Sentence {
        id: "unpin-counts",
        method: "unpin",
        text: "Ends the protection of `keys`, and returns how many were pinned. Skips unknown keys. Idempotent.",
        cause: "unpin answers the length of the list, or stops at an unknown key.",
        remedy: "Look at every key, and count those that were pinned.",
        part: Part::Quick,
        needs: &["pin-run"],
        test: unpin_counts,
    },
    Sentence {
        id: "pin-twice",
        method: "pin",
        text: "Pinning a key twice is the same as pinning it once.",
        cause: "The backend counts pins. The host counts them already.",
        remedy: "Keep one flag for each chunk.",
        part: Part::Quick,
        needs: &["unpin-counts"],
        test: twice,
    },
    Sentence {
        id: "repeated-pin",
        method: "pin",
        text: "a repeated key is stored once and pinned once, and counts once for `unpin` and `remove`.",
        cause: "A repeated key counts once for pin, or more than once for unpin.",
        remedy: "pin answers for each element; unpin counts a key when it ends its protection.",
        part: Part::Quick,
        needs: &["pin-twice"],
        test: repeated,
    },
    Sentence {
        id: "contains-pins",
        method: "contains",
        text: "With `pinning.pin`, exactly those are protected from the backend's own eviction until `unpin`, as by \
               `pin`.",
        cause: "contains does not look at `pinning`, or pins keys after a gap.",
        remedy: "With `pinning.pin`, do what pin does.",
        part: Part::Quick,
        needs: &["unpin-counts", "contains-run"],
        test: contains_pins,
    },
];

fn alike(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<1>();
    kit.store(&keys, CHUNK_BYTES)?;
    let pin = kit.pin(&keys)?;
    let others =
        [("contains with pinning.pin", kit.contains(&keys, Pinning::Pin)?), ("unpin", kit.unpin(&keys)?)];
    let is_unsupported = pin == Err(TierError::Unsupported);
    for (call, found) in others {
        let other = found == Err(TierError::Unsupported);
        let expected = if is_unsupported { "unsupported, as pin" } else { "a count, as pin" };
        let found = found.map_or_else(|error| error.to_string(), |count| count.to_string());
        require(other == is_unsupported, call, expected, found)?;
    }
    if is_unsupported {
        kit.note("pins are not supported: the host makes lookups without them");
        return Ok(());
    }
    answered("pin of a stored key", 1, pin).map(|_| ())
}

fn run(kit: &mut Kit) -> Judgement {
    let [a, b, c, absent] = kit.keys();
    kit.store(&[a, b, c], CHUNK_BYTES)?;
    for (call, asked, expected) in [
        ("pin of [stored, stored, absent, stored]", &[a, b, absent, c][..], 2),
        ("pin of [absent, stored]", &[absent, c], 0),
    ] {
        let found = kit.pins(call, asked)?;
        require(found == expected, call, expected, found)?;
    }
    Ok(())
}

fn unpin_counts(kit: &mut Kit) -> Judgement {
    let [a, b, c, unknown] = kit.keys();
    kit.store(&[a, b, c], CHUNK_BYTES)?;
    kit.pins("pin of 2 stored keys", &[a, c])?;
    let call = "unpin of [pinned, unknown, stored but not pinned, pinned]";
    answers(call, &2, kit.unpin(&[a, unknown, b, c])?)?;
    answers("the same unpin a second time", &0, kit.unpin(&[a, unknown, b, c])?)
}

fn twice(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<1>();
    kit.store(&keys, CHUNK_BYTES)?;
    kit.pins("pin", &keys)?;
    let found = kit.pins("pin of a key that is pinned", &keys)?;
    require(found == 1, "pin of a key that is pinned", 1, found)?;
    answers("unpin of a key that was pinned twice", &1, kit.unpin(&keys)?)?;
    answers("unpin of it a second time", &0, kit.unpin(&keys)?)
}

fn repeated(kit: &mut Kit) -> Judgement {
    let [a, b] = kit.keys();
    kit.store(&[a, b], CHUNK_BYTES)?;
    let found = kit.pins("pin of [a, a, b]", &[a, a, b])?;
    require(found == 3, "pin of [a, a, b]", 3, found)?;
    answers("unpin of [a, a, b]", &2, kit.unpin(&[a, a, b])?)
}

fn contains_pins(kit: &mut Kit) -> Judgement {
    let [a, b, c, absent] = kit.keys();
    kit.store(&[a, b, c], CHUNK_BYTES)?;
    kit.pins("pin of no keys", &[])?;
    let call = "contains of [stored, stored, absent, stored] with pinning.pin";
    answers(call, &2, kit.contains(&[a, b, absent, c], Pinning::Pin)?)?;
    answers("unpin of the 3 stored keys after it", &2, kit.unpin(&[a, b, c])?)
}
