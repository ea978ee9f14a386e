//! Calls that overlap, and calls that are given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kvtier::tier::{Sinks, Sources, Tier, TierError};
use kvtier::{ChunkKey, block_on};

use crate::calls::{Got, all_ok, got, shown_get};
use crate::judgement::{Judgement, Stop, breach, no_space, refused, require};
use crate::kit::Kit;
use crate::limits::{ABANDONED_CALLS, CHUNK_BYTES, OVERLAPPING_CALLS};
use crate::sentence::{Part, Sentence};

const LARGE: usize = 1 << 20;

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "overlapping-calls",
        method: "all",
        text: "The host keeps many calls of an asynchronous class in flight on one instance, and makes one call at a \
               time to a blocking class.",
        cause: "A borrow or a temporary name is shared by two calls across an await.",
        remedy: "Hold no borrow across an await, and give every put a temporary name of its own.",
        part: Part::Full,
        needs: &["put-then-get", "keeps-bytes"],
        test: overlapping,
    },
    Sentence {
        id: "many-calls",
        method: "all",
        text: "The host keeps many calls of an asynchronous class in flight on one instance, and makes one call at a \
               time to a blocking class.",
        cause: "Each call takes a connection, a file or memory, and there are not enough for 256 calls.",
        remedy: "Let calls wait for what is scarce, for instance with a semaphore.",
        part: Part::Full,
        needs: &["overlapping-calls"],
        test: many,
    },
    Sentence {
        id: "abandoned-calls",
        method: "all",
        text: "Then the host revokes it: counts and sizes are still returned, every transfer fails with \
               `invalid-argument`, and the guest should drop it.",
        cause: "The error of a transfer is unwrapped, or a lock that an abandoned call holds is never given back.",
        remedy: "Answer the errors of transfers, and give back what a call holds when its future is dropped.",
        part: Part::Full,
        needs: &["put-then-get", "sizes"],
        test: abandoned,
    },
    Sentence {
        id: "whole-or-nothing",
        method: "put",
        text: "Each chunk is stored whole or not at all, even if the instance dies.",
        cause: "The chunk is visible before its last byte is kept.",
        remedy: "Make a chunk visible as the last step of its put.",
        part: Part::Full,
        needs: &["abandoned-calls", "get-absent"],
        test: whole_or_nothing,
    },
];

/// What one caller does: a put of one chunk, then a get of it.
async fn put_and_get(
    tier: Arc<dyn Tier>,
    key: ChunkKey,
    data: Sources,
    into: Sinks,
    deadline: Instant,
) -> Result<Got, TierError> {
    let put = tier.put([key].into(), data.clone(), deadline).await;
    data.revoke();
    match put?.pop() {
        Some(Err(error)) => return Err(error),
        Some(Ok(())) => {}
        None => return Err(TierError::BadAnswer("no result".to_owned())),
    }
    let answer = tier.get([key].into(), into.clone(), deadline).await;
    let sink = into.revoke().pop().flatten();
    Ok(got(key, answer?.pop().unwrap_or(Ok(None)), sink))
}

/// Lets a caller for each key put and get a chunk, all at the same time.
fn all_at_once(kit: &mut Kit, call: &str, keys: &[ChunkKey]) -> Judgement {
    let tier = kit.tier()?;
    let deadline = kit.deadline();
    let mut callers = Vec::new();
    for key in keys {
        let (data, into) = (kit.sources(&[*key], CHUNK_BYTES, 0)?, kit.sinks(&[*key], CHUNK_BYTES)?);
        callers.push(put_and_get(Arc::clone(&tier), *key, data, into, deadline));
    }
    kit.stored.extend(keys);
    let mut answers = Vec::new();
    for answer in block_on(join_all(callers)) {
        match answer {
            Ok(got) => answers.push(got),
            Err(TierError::NoSpace) => return Err(no_space(call)),
            Err(error) => return Err(refused(call, "ok for each put", &error)),
        }
    }
    require(
        answers.iter().all(|got| got.is_chunk(0)),
        call,
        "every caller gets its chunk",
        shown_get(&answers),
    )
}

fn overlapping(kit: &mut Kit) -> Judgement {
    for _ in 0..8 {
        let keys = kit.keys::<8>();
        let twice: Vec<_> = keys.iter().flat_map(|key| [*key, *key]).collect();
        all_at_once(kit, "put and then get by 16 callers at a time, two for each key", &twice)?;
    }
    Ok(())
}

fn many(kit: &mut Kit) -> Judgement {
    let keys = kit.many_keys(OVERLAPPING_CALLS);
    all_at_once(kit, "put and then get by 256 callers at a time", &keys)
}

/// Gives up puts and gets of a large chunk at different moments, and returns what a get finds of each put at once.
fn give_up(kit: &mut Kit) -> Result<Vec<Got>, Stop> {
    let old = kit.keys::<1>();
    let begun = Instant::now();
    kit.store(&old, LARGE)?;
    let whole = begun.elapsed();
    let mut found = Vec::new();
    for moment in 0..ABANDONED_CALLS {
        let [key] = kit.keys();
        let data = kit.sources(&[key], LARGE, 0)?;
        let into = kit.sinks(&old, LARGE)?;
        let tier = kit.tier()?;
        // Spread over the time of the whole put.
        let after = whole * moment / ABANDONED_CALLS;
        let later = || Instant::now() + after;
        kit.stored.push(key);
        let put = block_on(tier.put([key].into(), data.clone(), later())).map(drop);
        data.revoke();
        found.push(look(kit, key)?);
        let got = block_on(tier.get(old.as_slice().into(), into.clone(), later())).map(drop);
        into.revoke();
        for (call, result) in [("put", put), ("get", got)] {
            let call = format!("{call} of a chunk of 1 MiB that is given up after {after:?}");
            match result {
                // The next call waits until a new instance serves.
                Ok(()) | Err(TierError::Timeout(_) | TierError::Lost(_) | TierError::Down(_)) => {}
                Err(error) => return Err(refused(call, "no answer in time, or ok", &error)),
            }
        }
    }
    Ok(found)
}

/// Returns what a get finds of a chunk, whatever the state of the instance.
fn look(kit: &mut Kit, key: ChunkKey) -> Result<Got, Stop> {
    let (tier, into) = (kit.tier()?, kit.sinks(&[key], LARGE)?);
    let answer = block_on(tier.get([key].into(), into.clone(), kit.deadline()));
    let sink = into.revoke().pop().flatten();
    Ok(match answer {
        Ok(mut results) => got(key, results.pop().unwrap_or(Ok(None)), sink),
        Err(error) => Got::Failed(error),
    })
}

fn abandoned(kit: &mut Kit) -> Judgement {
    give_up(kit)?;
    let health = kit.tier()?.health();
    if let Some(cause) = health.last_restart {
        if cause.contains("expired calls") {
            return Err(Stop::NotTried(format!(
                "the host replaced the instance: {cause}; raise limits.calls_in_flight_max for the check"
            )));
        }
        let is_blocking = health.notes.iter().any(|note| note.name == "style" && note.value == "blocking");
        if !is_blocking || cause.contains("trap") {
            return Err(breach("calls that are given up", "the instance lives", cause));
        }
        kit.note(format!("{} calls that were given up ended the instance: {cause}", health.lane_restarts));
    }
    serves_again(kit)
}

/// Requires that a chunk can be put and found, soon after calls were given up.
fn serves_again(kit: &mut Kit) -> Judgement {
    let deadline = kit.deadline();
    loop {
        let keys = kit.keys::<1>();
        let call = "put after calls that were given up";
        match kit.try_put(&keys, CHUNK_BYTES, 0)? {
            Ok(results) => {
                all_ok(call, 1, &results)?;
                return kit.found("get after calls that were given up", &keys, CHUNK_BYTES, 0);
            }
            Err(TierError::Lost(_) | TierError::Down(_)) if Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Err(error) => return Err(refused(call, "ok", &error)),
        }
    }
}

fn whole_or_nothing(kit: &mut Kit) -> Judgement {
    let found = give_up(kit)?;
    let is_torn = |got: &&Got| !matches!(got, Got::Chunk { .. } | Got::Miss | Got::Failed(_));
    if let Some(torn) = found.iter().find(is_torn) {
        let call = "get of a chunk of 1 MiB whose put was given up";
        return Err(breach(call, "the whole chunk, or none", torn.shown()));
    }
    serves_again(kit)
}
