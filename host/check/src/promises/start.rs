//! The constructor, `open`, `close`, and what lies between two instances.

use std::time::Instant;

use kvtier::tier::TierError;
use kvtier::{BuildError, Grants, LoadError, block_on};

use crate::calls::{Got, shown_get};
use crate::judgement::{Judgement, Stop, breach, require};
use crate::kit::{Ended, Kit, start};
use crate::limits::{CHUNK_BYTES, DEATHS};
use crate::sentence::{Part, Sentence};

/// The size of a chunk whose put takes a while.
const LARGE_BYTES: usize = 1 << 20;

/// A key that no class knows.
const UNKNOWN_KEY: &str = "kvtier-check-unknown";

pub(crate) const SENTENCES: &[Sentence] = &[
    Sentence {
        id: "starts",
        method: "open",
        text: "Makes the instance ready: connects, scans, recovers.",
        cause: "A setting, a grant or the store is missing; the text says which.",
        remedy: "Give the settings and the grants that the class needs: `--set config.KEY=VALUE`, \
                 `--set allow.fs=DIRECTORY:/data:rw`, or `--config FILE`.",
        part: Part::Quick,
        needs: &[],
        test: starts,
    },
    Sentence {
        id: "unknown-setting",
        method: "constructor",
        text: "Errors: `invalid-config` if a value is missing or wrong; the text names the key.",
        cause: "The constructor traps, or does not say which key it does not know.",
        remedy: "Answer `invalid-config` with a text that names the key (in Rust `init.only(&[…])`).",
        part: Part::Quick,
        needs: &["starts"],
        test: unknown_setting,
    },
    Sentence {
        id: "missing-grant",
        method: "open",
        text: "Errors: any; the instance is then dropped, and the host tries a new one later.",
        cause: "The result of opening a directory or a connection is unwrapped.",
        remedy: "Answer `unavailable` or `invalid-config` with a text that names what is missing.",
        part: Part::Quick,
        needs: &["starts"],
        test: missing_grant,
    },
];

pub(crate) const RESTARTS: &[Sentence] = &[
    Sentence {
        id: "close",
        method: "close",
        text: "Writes pending data and releases resources. The last call.",
        cause: "close fails or traps although nothing is wrong.",
        remedy: "Answer `ok` if all is written.",
        part: Part::Quick,
        needs: &["starts"],
        test: close,
    },
    Sentence {
        id: "restart",
        method: "open",
        text: "Each chunk is stored whole or not at all, even if the instance dies.",
        cause: "open finds files of another form, or takes half a chunk for a whole one.",
        remedy: "Check in open or in get that a stored chunk is whole. Or forget everything when the instance ends.",
        part: Part::Quick,
        needs: &["put-then-get", "one-result-per-key", "get-absent", "close"],
        test: restart,
    },
    Sentence {
        id: "removed-stays-removed",
        method: "remove",
        text: "A `get` afterwards finds none of them, also after a restart.",
        cause: "remove forgets the key in memory only, and open finds the bytes again.",
        remedy: "Remove the stored bytes before remove answers.",
        part: Part::Quick,
        needs: &["restart", "remove-gone"],
        test: removed_stays_removed,
    },
    Sentence {
        id: "dropped",
        method: "open",
        text: "It may be dropped at any moment without `close`: after a trap, an expired call, or the end of the \
               process.",
        cause: "A lock file, or an index that only close writes, keeps the next instance from starting or from finding \
                whole chunks.",
        remedy: "Write what the next instance needs when a chunk is stored, and let open repair the rest.",
        part: Part::Quick,
        needs: &["restart"],
        test: dropped,
    },
    Sentence {
        id: "dies-within-put",
        method: "put",
        text: "Each chunk is stored whole or not at all, even if the instance dies.",
        cause: "A chunk gets its final name before its last byte is written.",
        remedy: "Write under a temporary name and rename, as `store-all` does, or check the length when it is read.",
        part: Part::Full,
        needs: &["dropped", "sizes"],
        test: dies_within_put,
    },
];

fn starts(kit: &mut Kit) -> Judgement {
    let tier = kit.tier()?;
    let notes = tier.health().notes;
    if notes.iter().any(|note| note.name == "style" && note.value == "blocking") {
        kit.note(
            "blocking style: the host makes one call at a time, and a call that expires ends the instance with all that \
             it keeps in memory",
        );
    }
    Ok(())
}

fn unknown_setting(kit: &mut Kit) -> Judgement {
    let mut backend = kit.backend().clone();
    backend.config.push((UNKNOWN_KEY.to_owned(), "1".to_owned()));
    let call = format!("constructor with config.{UNKNOWN_KEY}");
    match start(kit.config(), backend) {
        Ok(_) => {
            kit.note("unknown settings are accepted: nobody hears of a misspelt key");
            Ok(())
        }
        Err(error) => {
            let found = error.to_string();
            require(
                found.contains(UNKNOWN_KEY) && !is_trap(&error),
                call,
                "invalid-config that names the key",
                found,
            )
        }
    }
}

fn missing_grant(kit: &mut Kit) -> Judgement {
    let mut backend = kit.backend().clone();
    if backend.allow == Grants::default() {
        return Err(Stop::NotTried("the class is granted nothing".to_owned()));
    }
    backend.allow = Grants::default();
    let call = "constructor and open without the grants";
    match start(kit.config(), backend) {
        Err(error) if is_trap(&error) => Err(breach(call, "an error", error)),
        Err(error) => {
            if !error.to_string().contains("allow.") {
                kit.note(format!(
                    "without its grants it answers `{error}`, which does not say what to grant"
                ));
            }
            Ok(())
        }
        Ok(tier) => {
            let keys = kit.keys::<1>();
            let data = kit.sources(&keys, CHUNK_BYTES, 0)?;
            let put = block_on(tier.put(keys.as_slice().into(), data, kit.deadline()));
            require(
                !matches!(put, Err(TierError::Trap(_))),
                "put without the grants",
                "an error",
                format!("{put:?}"),
            )
        }
    }
}

fn is_trap(error: &BuildError) -> bool {
    matches!(
        error,
        BuildError::Load { source: LoadError::NotStarted { cause, .. }, .. } if cause.starts_with("trapped")
    )
}

fn close(kit: &mut Kit) -> Judgement {
    kit.tier()?;
    kit.close()
}

fn restart(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<4>();
    kit.store(&keys, CHUNK_BYTES)?;
    kit.close()?;
    let n_found = whole_or_absent(kit, "get after close and a new start", &keys, CHUNK_BYTES)?;
    kit.note(match n_found {
        0 => "chunks do not outlive the instance".to_owned(),
        4 => "chunks outlive the instance".to_owned(),
        n => format!("{n} of 4 chunks outlive the instance"),
    });
    kit.persists = n_found > 0;
    let new = kit.keys::<1>();
    kit.store(&new, CHUNK_BYTES)?;
    kit.found("get of a chunk that was put after a new start", &new, CHUNK_BYTES, 0)
}

/// Requires of each chunk that it is whole or absent, and returns how many are there.
fn whole_or_absent(kit: &mut Kit, call: &str, keys: &[kvtier::ChunkKey], size: usize) -> Result<usize, Stop> {
    let got = kit.get(call, keys, size)?;
    // A damaged chunk that is recognised is not served.
    let is_whole =
        |got: &Got| got.is_chunk(0) || matches!(got, Got::Miss | Got::Failed(TierError::Corrupt(_)));
    require(got.iter().all(is_whole), call, "for each chunk its bytes, or none", shown_get(&got))?;
    Ok(got.iter().filter(|got| got.is_chunk(0)).count())
}

fn persisting(kit: &Kit) -> Judgement {
    if kit.persists { Ok(()) } else { Err(Stop::NotTried("chunks do not outlive the instance".to_owned())) }
}

fn removed_stays_removed(kit: &mut Kit) -> Judgement {
    persisting(kit)?;
    for is_closed in [true, false] {
        let keys = kit.keys::<2>();
        kit.store(&keys, CHUNK_BYTES)?;
        kit.remove("remove", &keys[..1])?;
        if is_closed {
            kit.close()?;
        } else {
            kit.drop_instance();
        }
        kit.absent("get of a removed key after a new start", &keys[..1], CHUNK_BYTES)?;
    }
    Ok(())
}

fn dropped(kit: &mut Kit) -> Judgement {
    let keys = kit.keys::<4>();
    kit.store(&keys, CHUNK_BYTES)?;
    kit.drop_instance();
    whole_or_absent(kit, "get after an end without close", &keys, CHUNK_BYTES)?;
    let new = kit.keys::<1>();
    kit.store(&new, CHUNK_BYTES)?;
    kit.found("get of a chunk that was put after an end without close", &new, CHUNK_BYTES, 0)
}

fn dies_within_put(kit: &mut Kit) -> Judgement {
    persisting(kit)?;
    let keys = kit.keys::<2>();
    let begun = Instant::now();
    kit.store(&keys, LARGE_BYTES)?;
    let whole = begun.elapsed();
    for moment in 0..DEATHS {
        let keys = kit.keys::<2>();
        let data = kit.sources(&keys, LARGE_BYTES, 0)?;
        let tier = kit.tier()?;
        kit.stored.extend(keys);
        // Spread over the time of the whole put.
        let after = whole * moment / DEATHS;
        // Whatever it answers, the instance ends now.
        drop(block_on(tier.put(keys.as_slice().into(), data.clone(), Instant::now() + after)));
        drop(tier);
        kit.drop_instance();
        data.revoke();
        let call = format!("get of 2 chunks of 1 MiB whose instance ended {after:?} after their put began");
        whole_or_absent(kit, &call, &keys, LARGE_BYTES)?;
        kit.clean_up(Ended::Well);
    }
    Ok(())
}
