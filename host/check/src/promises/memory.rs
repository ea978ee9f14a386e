//! Full stores.

use kvtier::tier::TierError;

use super::protection::note_uses;
use crate::calls::{Got, shown_get, shown_put};
use crate::full::End;
use crate::judgement::{Judgement, Stop, require};
use crate::kit::Kit;
use crate::limits::TWICE_CAPACITY_BYTES_MAX;
use crate::sentence::{Part, Sentence};

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "near-memory-limit",
        method: "put",
        text: "Errors, per chunk: `no-space`, or any; the chunk is then absent.",
        cause: "Memory for a chunk is taken with a function that ends the guest when there is none, or the host's answer \
                to `sources.read` no longer fits.",
        remedy: "Reserve memory for the chunk and for one piece with functions that can fail (in Rust \
                 `try_reserve_exact`), answer `no-space` if they do, and keep the capacity below limits.memory.",
        part: Part::Quick,
        needs: &["put-then-get", "one-result-per-key", "contains-run"],
        test: near_memory_limit,
    },
    Sentence {
        id: "refused-is-absent",
        method: "put",
        text: "Errors, per chunk: `no-space`, or any; the chunk is then absent.",
        cause: "The key is noted before the bytes are kept, and stays noted after an error.",
        remedy: "Make a chunk visible as the last step of its put.",
        part: Part::Quick,
        needs: &["near-memory-limit", "get-absent"],
        test: refused_is_absent,
    },
    Sentence {
        id: "ok-when-full",
        method: "put",
        text: "`ok` means that a `get` finds the chunk until it is evicted or removed: a backend that stores nothing \
               returns `no-space`.",
        cause: "Chunks of one call evict each other, or a new chunk is evicted at once.",
        remedy: "Evict only what earlier calls have stored, and answer `no-space` for the chunks of a call that do not \
                 fit together.",
        part: Part::Quick,
        needs: &["near-memory-limit", "one-result-per-key", "get-absent", "sizes"],
        test: ok_when_full,
    },
];

fn near_memory_limit(kit: &mut Kit) -> Judgement {
    let fill = kit.filled()?;
    match fill.end {
        End::Refused => kit.note(format!("full after {} KiB: it refuses more", fill.bytes >> 10)),
        End::Evicted => kit.note(format!("full after about {} KiB: it evicts for more", fill.bytes >> 10)),
        End::NeverFull if (fill.bytes as u64) < kit.backend().limits.memory_bytes => {
            return Err(Stop::NotTried(format!(
                "the store is not full after {} MiB, and limits.memory is larger; set it lower for the check",
                fill.bytes >> 20
            )));
        }
        End::NeverFull => {}
    }
    Ok(())
}

fn refused_is_absent(kit: &mut Kit) -> Judgement {
    let fill = kit.capacity()?;
    let found = if fill.refused_but_found { "an answer that is not none" } else { "none" };
    let call = "get of a chunk whose put was answered with an error";
    require(!fill.refused_but_found, call, "none", found)?;
    // A chunk that can never fit.
    let size = fill.bytes + fill.bytes / 4 + fill.chunk_bytes;
    if size > TWICE_CAPACITY_BYTES_MAX / 2 {
        return Ok(());
    }
    let keys = kit.keys::<1>();
    let put = format!("put of a chunk of {size} bytes, which is more than the capacity");
    let results = kit.put(&put, &keys, size, 0)?;
    if matches!(results.as_slice(), [Err(_)]) {
        kit.absent("get of a chunk that is larger than the store", &keys, size)?;
    }
    Ok(())
}

fn ok_when_full(kit: &mut Kit) -> Judgement {
    let fill = kit.capacity()?;
    if fill.bytes * 2 > TWICE_CAPACITY_BYTES_MAX {
        return Err(Stop::NotTried(format!(
            "a put of twice the capacity, {} MiB, is more than the check makes; configure a smaller capacity for it",
            (fill.bytes * 2) >> 20
        )));
    }
    kit.renew();
    let n_chunks = kit.tier()?.batch_chunks_max().min(64);
    let size = fill.bytes * 2 / n_chunks;
    let call = format!("one put of {n_chunks} chunks of {size} bytes, twice the capacity");
    let keys = kit.many_keys(n_chunks);
    let results = kit.put(&call, &keys, size, 0)?;
    let stored: Vec<_> =
        keys.iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|(key, _)| *key).collect();
    let got = kit.get("get of those that were answered with ok", &stored, size)?;
    let n_found = got.iter().filter(|got| got.is_chunk(0)).count();
    let found = format!("{}; then get: {}", shown_put(&results), shown_get(&got));
    require(n_found == stored.len(), &call, "every chunk that is answered with ok is found", found)?;
    for _ in 0..n_chunks / 2 {
        let keys = kit.keys::<1>();
        let results = kit.put("put of 1 chunk into a full store", &keys, size, 0)?;
        match results.as_slice() {
            [Ok(())] => kit.found("get of a chunk that a full store has taken", &keys, size, 0)?,
            [Err(TierError::NoSpace)] => {
                let got = kit.get("get of a chunk that a full store has refused", &keys, size)?;
                require(got == [Got::Miss], "get after no-space", "none", shown_get(&got))?;
            }
            _ => {}
        }
    }
    note_uses(kit)
}
