//! Instances that live long.

use std::time::Instant;

use kvtier::block_on;
use kvtier::tier::{Pinning, TierError};

use crate::calls::all_ok;
use crate::judgement::{Judgement, Stop, breach, refused, require};
use crate::kit::{Ended, Kit};
use crate::limits::{
    GROWTH_BYTES_MAX, GROWTH_CHUNKS, LEAK_CALLS, LEAK_CHUNK_BYTES, LEAK_KEYS, LEAK_LOOK_CALLS, LEAK_TIME_MAX,
};
use crate::sentence::{Part, Sentence};

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "no-leaks",
        method: "all",
        text: "Then the host revokes it: counts and sizes are still returned, every transfer fails with \
               `invalid-argument`, and the guest should drop it.",
        cause: "A call keeps memory or a handle: the sources or sinks are not dropped, or the language's binding does \
                not free what it has copied.",
        remedy: "Drop the handles at the end of each call. Where a binding leaks, move bytes by streams or splices. In a \
                 composed component, wasmtime keeps calls too: docs/authors/middleware.md has what helps.",
        part: Part::Full,
        needs: &["put-then-get", "one-result-per-key"],
        test: no_leaks,
    },
    Sentence {
        id: "steady-memory",
        method: "remove",
        text: "An instance lives as long as the serving process, within limits.memory.",
        cause: "Something is kept for every key that was there once.",
        remedy: "Forget everything about a key when it is removed or evicted.",
        part: Part::Full,
        needs: &["remove-counts"],
        test: steady_memory,
    },
];

/// The methods that are called again and again.
const METHODS: [&str; 8] = [
    "contains",
    "put of present keys",
    "get",
    "get of absent keys",
    "remove of absent keys",
    "pin",
    "unpin",
    "present",
];

fn no_leaks(kit: &mut Kit) -> Judgement {
    for method in METHODS {
        kit.drop_instance();
        let keys = kit.many_keys(LEAK_KEYS);
        kit.store(&keys, LEAK_CHUNK_BYTES)?;
        let absent = kit.many_keys(LEAK_KEYS);
        let (mut memory, begun) = (Vec::new(), Instant::now());
        for n_calls in 1..=LEAK_CALLS {
            if begun.elapsed() > LEAK_TIME_MAX {
                kit.note(format!("{n_calls} calls of {method} took {LEAK_TIME_MAX:?}; no more were made"));
                break;
            }
            let result = match method {
                "contains" => kit.contains(&keys, Pinning::None)?.map(drop),
                "put of present keys" => kit.try_put(&keys, LEAK_CHUNK_BYTES, 0)?.map(drop),
                "get" => kit.try_get(&keys, LEAK_CHUNK_BYTES)?,
                "get of absent keys" => kit.try_get(&absent, LEAK_CHUNK_BYTES)?,
                _ => {
                    let (tier, deadline) = (kit.tier()?, kit.deadline());
                    let (present, absent) = (keys.as_slice().into(), absent.as_slice().into());
                    match method {
                        "pin" => block_on(tier.pin(present, deadline)).map(drop),
                        "unpin" => block_on(tier.unpin(present, deadline)).map(drop),
                        "present" => block_on(tier.present(present, deadline)).map(drop),
                        _ => block_on(tier.remove(absent, deadline)).map(drop),
                    }
                }
            };
            // The calls name the same keys again and again.
            kit.stored.truncate(LEAK_KEYS);
            match result {
                Ok(()) => {}
                Err(TierError::Unsupported) => break,
                Err(error) => {
                    let call = format!("call {n_calls} of {method}, with {LEAK_KEYS} keys");
                    return Err(refused(call, "ok", &error));
                }
            }
            if n_calls.is_multiple_of(LEAK_LOOK_CALLS) {
                memory.push(kit.tier()?.health().guest_memory_bytes);
            }
        }
        steady(&format!("{LEAK_CALLS} calls of {method}, with {LEAK_KEYS} keys each"), &memory)?;
        kit.clean_up(Ended::Well);
    }
    Ok(())
}

/// Requires that memory does not grow any more after the second look. It may grow at first; a table that doubles grows
/// seldom, and by much.
fn steady(call: &str, memory: &[u64]) -> Judgement {
    let growth = memory.last().zip(memory.get(1)).map_or(0, |(last, second)| last.saturating_sub(*second));
    let kib: Vec<String> = memory.iter().map(|bytes| format!("{} KiB", bytes >> 10)).collect();
    let found = format!("it grows, from look to look: {}", kib.join(", "));
    require(growth <= GROWTH_BYTES_MAX, call, "memory that stays the same", found)
}

fn steady_memory(kit: &mut Kit) -> Judgement {
    kit.drop_instance();
    let (mut memory, begun) = (Vec::new(), Instant::now());
    let n_rounds = GROWTH_CHUNKS / LEAK_KEYS;
    for round in 1..=n_rounds {
        if begun.elapsed() > LEAK_TIME_MAX {
            kit.note(format!("{} puts took {LEAK_TIME_MAX:?}; no more were made", round * LEAK_KEYS));
            break;
        }
        let keys = kit.many_keys(LEAK_KEYS);
        let call = format!("put of {LEAK_KEYS} new chunks, after {} puts", round * LEAK_KEYS);
        let results = kit.put(&call, &keys, LEAK_CHUNK_BYTES, 0)?;
        all_ok(&call, LEAK_KEYS, &results)?;
        kit.found("get of the chunks that were put last", &keys, LEAK_CHUNK_BYTES, 0)?;
        let n_removed = kit.remove("remove of the chunks that were put last", &keys)?;
        if n_removed != LEAK_KEYS {
            return Err(breach("remove of the chunks that were put last", LEAK_KEYS, n_removed));
        }
        kit.stored.clear();
        if round.is_multiple_of(n_rounds / 5) {
            memory.push(kit.tier()?.health().guest_memory_bytes);
        }
    }
    if memory.is_empty() {
        return Err(Stop::NotTried("there was nothing to look at".to_owned()));
    }
    steady(&format!("{GROWTH_CHUNKS} puts, gets and removes"), &memory)
}
