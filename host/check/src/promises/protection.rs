//! What a store evicts, and what not.

use kvtier::ChunkKey;
use kvtier::tier::Pinning;

use crate::calls::shown_put;
use crate::full::{End, Fill};
use crate::judgement::{Judgement, Stop, answered, require};
use crate::kit::{Ended, Kit};
use crate::limits::FILL_CHUNKS;
use crate::sentence::{Part, Sentence};

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "pins-protect",
        method: "pin",
        text: "Protects the present ones of `keys`, counted from the first, from the backend's own eviction, and \
               returns how many it protected before the first that is absent.",
        cause: "Eviction does not look at pins.",
        remedy: "Pass over pinned chunks when one is chosen for eviction, and answer `no-space` if all are pinned.",
        part: Part::Quick,
        needs: &["near-memory-limit", "pin-run"],
        test: pins_protect,
    },
    Sentence {
        id: "contains-protects",
        method: "contains",
        text: "With `pinning.pin`, exactly those are protected from the backend's own eviction until `unpin`, as by \
               `pin`.",
        cause: "contains counts pins and does not protect.",
        remedy: "With `pinning.pin`, do what pin does.",
        part: Part::Quick,
        needs: &["pins-protect", "contains-pins"],
        test: contains_protects,
    },
    Sentence {
        id: "unpin-frees",
        method: "unpin",
        text: "Ends the protection of `keys`, and returns how many were pinned. Skips unknown keys. Idempotent.",
        cause: "unpin counts, and the chunk stays protected: the store fills up for ever.",
        remedy: "Make the chunk a candidate for eviction again.",
        part: Part::Quick,
        needs: &["pins-protect", "unpin-counts"],
        test: unpin_frees,
    },
];

impl Kit {
    /// Starts anew, and returns what is known about the full store, if it evicts.
    fn evicting(&mut self) -> Result<Fill, Stop> {
        let fill = self.capacity()?;
        if fill.end != End::Evicted {
            return Err(Stop::NotTried("the store evicts nothing".to_owned()));
        }
        self.renew();
        Ok(fill)
    }

    /// Puts chunks until `bytes` were put, whatever becomes of them.
    fn push(&mut self, fill: Fill, bytes: usize) -> Judgement {
        for _ in 0..bytes.div_ceil(fill.chunk_bytes) {
            let keys = self.keys::<1>();
            self.put("put into a full store", &keys, fill.chunk_bytes, 0)?;
        }
        Ok(())
    }
}

fn pinned(kit: &mut Kit, fill: Fill) -> Result<Vec<ChunkKey>, Stop> {
    // Few enough that others fit beside them.
    let n_chunks = (fill.bytes / fill.chunk_bytes / 4).clamp(1, 8);
    let keys = kit.many_keys(n_chunks);
    kit.store(&keys, fill.chunk_bytes)?;
    Ok(keys)
}

fn pins_protect(kit: &mut Kit) -> Judgement {
    let fill = kit.evicting()?;
    let keys = pinned(kit, fill)?;
    kit.pins("pin", &keys)?;
    kit.push(fill, fill.bytes * 2)?;
    kit.found("get of pinned chunks after puts of twice the capacity", &keys, fill.chunk_bytes, 0)
}

fn contains_protects(kit: &mut Kit) -> Judgement {
    let fill = kit.evicting()?;
    let keys = pinned(kit, fill)?;
    let call = "contains with pinning.pin";
    answered(call, keys.len(), kit.contains(&keys, Pinning::Pin)?)?;
    kit.push(fill, fill.bytes * 2)?;
    kit.found(
        "get of chunks pinned by contains, after puts of twice the capacity",
        &keys,
        fill.chunk_bytes,
        0,
    )
}

fn unpin_frees(kit: &mut Kit) -> Judgement {
    let fill = kit.evicting()?;
    let mut keys = Vec::new();
    let mut is_full = false;
    for _ in 0..fill.bytes * 2 / fill.chunk_bytes {
        let new = kit.keys::<1>();
        is_full = kit.put("put of 1 chunk", &new, fill.chunk_bytes, 0)?.iter().any(Result::is_err);
        if is_full {
            break;
        }
        kit.pins("pin", &new)?;
        keys.extend(new);
    }
    for some in keys.chunks(FILL_CHUNKS) {
        kit.found("get of pinned chunks when all are pinned", some, fill.chunk_bytes, 0)?;
    }
    if !is_full {
        return Err(Stop::NotTried(
            "a store whose chunks are all pinned takes more than its capacity".to_owned(),
        ));
    }
    answered("unpin of all chunks", keys.len(), kit.unpin(&keys)?)?;
    let new = kit.keys::<1>();
    let call = "put into a full store whose chunks were unpinned";
    let results = kit.put(call, &new, fill.chunk_bytes, 0)?;
    require(results == [Ok(())], call, "ok", shown_put(&results))
}

/// Notes whether the put of a present key counts as a use, in a store that evicts.
pub(super) fn note_uses(kit: &mut Kit) -> Judgement {
    let fill = kit.capacity()?;
    let n_chunks = fill.bytes / fill.chunk_bytes;
    if fill.end != End::Evicted || n_chunks < 8 {
        return Ok(());
    }
    // The same instance: a new one may not know how the chunks that it finds were used.
    kit.clean_up(Ended::Well);
    let keys = kit.many_keys(n_chunks / 2);
    for key in &keys {
        kit.store(&[*key], fill.chunk_bytes)?;
    }
    let [used, unused] = [keys[0], keys[1]];
    kit.store(&[used], fill.chunk_bytes)?;
    // Old chunks of half the capacity, and new ones: some of the old ones are evicted.
    kit.push(fill, fill.bytes * 5 / 8)?;
    let call = "get of the 2 oldest chunks, the first of which was put twice";
    let got = kit.get(call, &[used, unused], fill.chunk_bytes)?;
    if !got.iter().any(|got| got.is_chunk(0)) {
        kit.note(
            "the put of a present key does not count as a use: the chunk is evicted with those put before it",
        );
    }
    Ok(())
}
