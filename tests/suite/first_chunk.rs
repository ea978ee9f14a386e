//! The whole path of one real chunk: tokens, key, CPU tier, sandbox, disk, new process, verified bytes.

use kvtier::{Config, Missing, Salt, Secret, Tiers, block_on};

use crate::support::{self, CHUNK_SIZE};

#[test]
fn the_log_backend_hears_every_operation_through_a_lane() {
    let log = support::log();
    let engine =
        support::engine(support::config(vec![support::backend("hears", "log", "ExternalLogBackend")]));
    let storage = engine.storage();
    let keys = support::keys(3);
    support::put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    assert_eq!(block_on(storage.contains(&keys, &Tiers::only(["hears"]))).n_chunks, 0, "it stores nothing");
    assert_eq!(support::served(&support::get(storage, &keys)), [0, 0, 0]);
    engine.blocking().close().unwrap();
    let lines = log.lines_with("hears");
    for operation in ["open", "put", "contains", "close"] {
        assert!(lines.iter().any(|line| line.contains(operation)), "{operation} in {lines:#?}");
    }
}

#[test]
fn a_chunk_stored_on_disk_is_found_again_by_a_new_engine() {
    let directory = tempfile::tempdir().unwrap();
    let tokens: Vec<u32> = (0..5 * CHUNK_SIZE as u32).collect();
    {
        let engine = support::engine(support::config(vec![support::fs("disk", directory.path())]));
        let prompt = engine.prompt(&tokens, &Salt::none());
        let mut allocation = engine.blocking().allocate(&prompt).unwrap();
        assert_eq!(allocation.n_missing(), 5);
        for Missing { key, bytes, .. } in allocation.missing() {
            kvtier_cli::content::fill(key, bytes);
        }
        engine.blocking().store(allocation, &Tiers::All);
        engine.blocking().close().unwrap();
    }
    let engine = support::engine(support::config(vec![support::fs("disk", directory.path())]));
    let prompt = engine.prompt(&tokens, &Salt::none());
    let prefix = engine.blocking().lookup(&prompt).unwrap();
    assert_eq!(prefix.n_tokens, tokens.len());
    let found = engine.blocking().retrieve(&prompt, Some(&prefix)).unwrap();
    assert_eq!(found.n_tokens, tokens.len());
    assert_eq!(support::served(&found.retrieved), [1; 5]);
    for chunk in &found.retrieved.chunks {
        kvtier_cli::content::verify(chunk.key(), chunk).unwrap();
    }
    // Promoted: the second time the CPU tier serves them.
    drop(found);
    let again = engine.blocking().retrieve(&prompt, None).unwrap();
    assert_eq!(support::served(&again.retrieved), [0; 5]);
    engine.blocking().close().unwrap();
}

#[test]
fn chunks_sealed_under_one_key_are_no_chunks_under_another_or_under_none() {
    let directory = tempfile::tempdir().unwrap();
    let keyed = |secret: Option<&str>| {
        let integrity_key = secret.map(|secret| Secret::new(secret.as_bytes()));
        let config = support::config(vec![support::fs("disk", directory.path())]);
        support::engine(Config { integrity_key, local_cpu: false, ..config })
    };
    let keys = support::keys(2);
    let engine = keyed(Some("the key that they were sealed under"));
    support::put(engine.storage(), &keys, &Tiers::All);
    block_on(engine.storage().flush()).unwrap();
    assert_eq!(support::served(&support::get(engine.storage(), &keys)), [1, 1]);
    engine.blocking().close().unwrap();
    // A different chunk for each engine without the key, because a chunk that fails a check is removed.
    for (secret, key, reason) in [
        (Some("a key that somebody has guessed"), keys[0], "check_failed"),
        (None, keys[1], "other_algorithm"),
    ] {
        let engine = keyed(secret);
        let found = support::get(engine.storage(), &[key]);
        assert!(found.chunks.is_empty());
        assert_eq!(found.misses[0].miss.reason(), reason);
        engine.blocking().close().unwrap();
    }
}
