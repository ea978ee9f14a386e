//! The prefix rules: how far a lookup reaches, which tier serves which chunk, and where a retrieval ends.

use std::sync::Arc;
use std::time::Duration;

use kvtier::tier::TierError;
use kvtier::{
    Dtype, Engine, EngineMetadata, KvShape, Miss, Missing, Operation, Request, RequestError, RetrievedPrefix,
    Salt, TierIndex, Tiers, block_on,
};

use crate::scripted::{Heard, Scripted, engine_over};
use crate::support::{
    CHUNK_BYTES, CHUNK_SIZE, EXPIRES, chunks_in_memory, config, counts_at, engine, get, in_tier, key, keys,
    log, memories, metadata, misbehaving, misses, put, put_in, runs, served, specs,
};

#[test]
fn t19_a_lookup_composes_the_runs_of_the_tiers() {
    let engine = engine(memories(&["t19_a", "t19_b"]));
    let (storage, keys) = (engine.storage(), keys(4));
    put_in(storage, &keys[..2], "t19_a");
    put_in(storage, &keys[2..3], "t19_b");
    let lookup = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(lookup.n_chunks, 3);
    assert_eq!(runs(&lookup), [(1, 2), (2, 1)]);
    assert_eq!(served(&get(storage, &keys)), [1, 1, 2]);
}

#[test]
fn t20_a_lookup_goes_on_as_long_as_any_tier_extends_it() {
    let engine = engine(memories(&["t20_a", "t20_b"]));
    let (storage, keys) = (engine.storage(), keys(5));
    put_in(storage, &[keys[0], keys[2]], "t20_a");
    put_in(storage, &[keys[1]], "t20_b");
    let lookup = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(lookup.n_chunks, 3);
    assert_eq!(runs(&lookup), [(1, 1), (2, 1), (1, 1)]);
    // The CPU tier may also serve the middle.
    put(storage, &keys[3..4], &Tiers::only(["cpu"]));
    put_in(storage, &keys[4..], "t20_b");
    let lookup = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(runs(&lookup), [(1, 1), (2, 1), (1, 1), (0, 1), (2, 1)]);
    assert_eq!(served(&get(storage, &keys)), [1, 2, 1, 0, 2]);
}

#[test]
fn t21_only_the_chosen_tiers_are_asked_and_none_if_none_is_chosen() {
    let (a, b) = (Scripted::new(), Scripted::new());
    let engine = engine_over(config(vec![]), metadata(), &[("a", &a), ("b", &b)]);
    let (storage, keys) = (engine.storage(), keys(2));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    a.heard();
    b.heard();

    let lookup = block_on(storage.contains(&keys, &Tiers::only(["b"])));
    assert_eq!(runs(&lookup), [(2, 2)]);
    assert_eq!(served(&block_on(storage.get(&specs(&keys), &Tiers::only(["b"]), None))), [2, 2]);
    assert_eq!(a.heard(), []);
    b.heard();

    let none = Tiers::only::<&str>([]);
    assert_eq!(block_on(storage.contains(&keys, &none)).n_chunks, 0);
    assert!(block_on(storage.get(&specs(&keys), &none, None)).chunks.is_empty());
    assert_eq!(block_on(storage.remove(&keys, &none)), Ok(0));
    assert_eq!((a.heard(), b.heard()), (vec![], vec![]));

    assert_eq!(block_on(storage.remove(&keys, &Tiers::only(["b"]))), Ok(2));
    assert_eq!((in_tier(storage, &keys, "a"), in_tier(storage, &keys, "b")), (2, 0));
}

#[test]
fn t22_absent_everywhere_is_no_hit_and_the_first_tier_that_has_a_chunk_wins() {
    let engine = engine(memories(&["t22_a", "t22_b"]));
    let (storage, keys) = (engine.storage(), keys(1));
    assert_eq!(block_on(storage.contains(&keys, &Tiers::All)), kvtier::Lookup::default());
    put_in(storage, &keys, "t22_b");
    assert_eq!(runs(&block_on(storage.contains(&keys, &Tiers::All))), [(2, 1)]);
    put_in(storage, &keys, "t22_a");
    assert_eq!(runs(&block_on(storage.contains(&keys, &Tiers::All))), [(1, 1)]);
    put(storage, &keys, &Tiers::only(["cpu"]));
    assert_eq!(runs(&block_on(storage.contains(&keys, &Tiers::All))), [(0, 1)]);
}

#[test]
fn t27_failure_keeps_chunks_before_the_earliest_gap() {
    for spoilt in [false, true] {
        let (a, b) = (Scripted::new(), Scripted::new());
        let engine = engine_over(config(vec![]), metadata(), &[("a", &a), ("b", &b)]);
        let (storage, keys) = (engine.storage(), keys(4));
        put_in(storage, &keys[..2], "a");
        put_in(storage, &keys[2..], "b");
        let plan = block_on(storage.contains(&keys, &Tiers::All));
        assert_eq!(plan.n_chunks, 4);
        let reason = if spoilt { Miss::Error(TierError::Other("spoilt".into())) } else { Miss::NotFound };
        if spoilt {
            a.spoil(keys[1]);
        } else {
            a.lose(keys[1]);
        }

        let found = block_on(storage.get(&specs(&keys), &Tiers::All, Some(&plan)));
        assert_eq!(found.chunks.iter().map(kvtier::Chunk::key).collect::<Vec<_>>(), keys[..1]);
        assert_eq!(served(&found), [1]);
        assert!(misses(&found).contains(&(1, TierIndex(1), reason)), "{:?}", found.misses);
        // Chunks fetched behind the gap have been released.
        assert_eq!(chunks_in_memory(storage), 1);
        assert_eq!(in_tier(storage, &keys, "cpu"), 1);
        drop(found);
        block_on(storage.clear(&Tiers::All));
        assert_eq!(chunks_in_memory(storage), 0);
    }
}

#[test]
fn t27_a_chunk_that_left_a_real_backend_after_the_lookup_ends_the_answer() {
    let engine = engine(memories(&["t27_a", "t27_b"]));
    let (storage, keys) = (engine.storage(), keys(4));
    put_in(storage, &keys[..2], "t27_a");
    put_in(storage, &keys[2..], "t27_b");
    let plan = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(block_on(storage.remove(&keys[1..2], &Tiers::only(["t27_a"]))), Ok(1));
    let found = block_on(storage.get(&specs(&keys), &Tiers::All, Some(&plan)));
    assert_eq!(served(&found), [1]);
    assert_eq!(chunks_in_memory(storage), 1);
}

#[test]
fn t28_a_chunk_that_ends_where_the_failure_begins_is_kept() {
    let tier = Scripted::new();
    let engine = engine_over(config(vec![]), metadata(), &[("a", &tier)]);
    let (storage, keys) = (engine.storage(), keys(5));
    put_in(storage, &keys, "a");
    tier.lose(keys[3]);
    let found = get(storage, &keys);
    assert_eq!(served(&found), [1, 1, 1]);
    assert_eq!(found.chunks[2].key(), keys[2]);
}

/// Metadata with chunks of 256 tokens and 1024 bytes.
fn metadata_256() -> EngineMetadata {
    EngineMetadata { kv_shape: KvShape::new([1, 2, 256, 1, 1]).unwrap(), ..metadata() }
}

fn engine_256(save_unfull_chunk: bool, tiers: &[(&str, &Arc<Scripted>)]) -> Engine {
    let config = kvtier::Config { chunk_size: 256, save_unfull_chunk, ..config(vec![]) };
    engine_over(config, metadata_256(), tiers)
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).collect()
}

#[test]
fn t52_600_tokens_are_2_chunks_or_3_with_the_partial_one() {
    let tokens = tokens(600);
    for (save_unfull_chunk, ends) in [(false, vec![256, 512]), (true, vec![256, 512, 600])] {
        let engine = engine_256(save_unfull_chunk, &[]);
        let chunks = engine.chunks(&engine.prompt(&tokens, &Salt::none())).unwrap();
        assert_eq!(chunks.iter().map(|chunk| chunk.tokens.end).collect::<Vec<_>>(), ends);
        assert_eq!(chunks[1].tokens, 256..512);
        assert_eq!(chunks[1].spec.size_bytes, 1024);
        if let Some(partial) = chunks.get(2) {
            assert_eq!((partial.tokens.clone(), partial.spec.size_bytes), (512..600, 88 * 4));
        }
    }
}

#[test]
fn t53_a_changed_token_changes_its_chunk_and_all_behind_it() {
    let engine = engine_256(false, &[]);
    let keys = |tokens: &[u32]| -> Vec<_> {
        let prompt = engine.prompt(tokens, &Salt::none());
        engine.chunks(&prompt).unwrap().iter().map(|chunk| chunk.spec.key).collect()
    };
    let original = tokens(768);
    let (mut first, mut second) = (original.clone(), original.clone());
    first[0] += 1;
    second[300] += 1;
    let (original, first, second) = (keys(&original), keys(&first), keys(&second));
    assert!(original.iter().zip(&first).all(|(a, b)| a != b));
    assert_eq!(original[0], second[0]);
    assert!(original[1] != second[1] && original[2] != second[2]);
}

#[test]
fn t54_a_skipped_prefix_ends_at_a_chunk_and_still_counts_in_the_keys() {
    let engine = engine_256(false, &[]);
    let tokens = tokens(768);
    let prompt = engine.prompt(&tokens, &Salt::none());
    let request = Request::of(&prompt);
    let refused = engine.chunks(request.clone().skip(100)).unwrap_err();
    assert_eq!(refused, RequestError::SkipNotAligned { skip_tokens: 100, chunk_size: 256 });
    let refused = engine.chunks(request.clone().skip(1024)).unwrap_err();
    assert_eq!(refused, RequestError::SkipTooLong { skip_tokens: 1024, n_tokens: 768 });
    let all = engine.chunks(&request).unwrap();
    assert_eq!(engine.chunks(request.clone().skip(256)).unwrap(), all[1..]);
    assert_eq!(engine.chunks(request.skip(768)).unwrap(), []);

    // The chunks behind the skipped ones are stored and found without them.
    let skipping = Request::of(&prompt).skip(256);
    let allocation = engine.blocking().allocate(&skipping).unwrap();
    assert_eq!(allocation.n_missing(), 2);
    engine.blocking().store(allocation, &Tiers::All);
    assert_eq!(engine.blocking().lookup(&skipping).unwrap().n_tokens, 512);
    assert_eq!(engine.blocking().lookup(&prompt).unwrap().n_tokens, 0);
}

#[test]
fn a_prompt_that_grew_by_turns_asks_for_what_one_made_at_once_asks_for() {
    let tokens = tokens(1500);
    let salt = Salt::none().tag("tenant", "one");
    for save_unfull_chunk in [false, true] {
        let engine = engine_256(save_unfull_chunk, &[]);
        let mut prompt = engine.prompt(&[], &salt);
        for turn in tokens.chunks(200) {
            prompt.append(turn);
            let n = prompt.n_tokens();
            for skip in (0..=n).step_by(256) {
                let at_once = engine.prompt(&tokens[..n], &salt);
                let expected = engine.chunks(Request::of(&at_once).skip(skip)).unwrap();
                assert_eq!(engine.chunks(Request::of(&prompt).skip(skip)).unwrap(), expected);
            }
        }
    }
}

#[test]
fn an_unfull_chunk_that_later_tokens_complete_is_stored_again_as_a_full_one() {
    let engine = engine_256(true, &[]);
    let (tokens, blocking) = (tokens(600), engine.blocking());
    let mut prompt = engine.prompt(&tokens[..300], &Salt::none());
    let allocation = blocking.allocate(&prompt).unwrap();
    assert_eq!(allocation.n_missing(), 2, "256 tokens, and 44");
    blocking.store(allocation, &Tiers::All);
    assert_eq!(blocking.lookup(&prompt).unwrap().n_tokens, 300);

    prompt.append(&tokens[300..]);
    assert_eq!(blocking.lookup(&prompt).unwrap().n_tokens, 256);
    let mut allocation = blocking.allocate(&prompt).unwrap();
    let missing: Vec<_> =
        allocation.missing().map(|missing| (missing.position, missing.bytes.len())).collect();
    assert_eq!(missing, [(1, 1024), (2, 88 * 4)]);
    blocking.store(allocation, &Tiers::All);
    assert_eq!(blocking.retrieve(&prompt, None).unwrap().n_tokens, 600);
    // A prompt made at once finds the same.
    assert_eq!(blocking.lookup(&engine.prompt(&tokens, &Salt::none())).unwrap().n_tokens, 600);
    assert_eq!(blocking.lookup(&engine.prompt(&tokens[..300], &Salt::none())).unwrap().n_tokens, 300);
}

#[test]
fn a_prompt_belongs_to_engines_of_its_metadata() {
    let engine = engine_256(false, &[]);
    let prompt = engine.prompt(&tokens(512), &Salt::none());
    let twin = engine_256(true, &[]);
    assert_eq!(twin.chunks(&prompt), engine.chunks(&prompt));
    let other = crate::support::engine(config(vec![]));
    let refused = other.blocking().lookup(&prompt).unwrap_err();
    assert_eq!(refused, RequestError::PromptOfOtherEngine);
}

#[test]
fn t56_values_of_tags_keep_tenants_apart_and_their_order_does_not() {
    let engine = engine(memories(&["t56"]));
    let tokens = tokens(2 * CHUNK_SIZE as u32);
    let salt = |tenant: &str| Salt::none().tag("tenant", tenant).tag("adapter", "x");
    let prompt = engine.prompt(&tokens, &salt("one"));
    let mut allocation = engine.blocking().allocate(&prompt).unwrap();
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::fill(key, bytes);
    }
    engine.blocking().store(allocation, &Tiers::only(["t56"]));
    block_on(engine.storage().flush()).unwrap();

    let found = |salt: Salt| {
        let prompt = engine.prompt(&tokens, &salt);
        let found = engine.blocking().retrieve(&prompt, None).unwrap();
        assert_eq!(found.n_tokens, engine.blocking().lookup(&prompt).unwrap().n_tokens);
        found.n_tokens
    };
    assert_eq!(found(salt("two")), 0);
    assert_eq!(found(Salt::none()), 0);
    assert_eq!(found(Salt::none().tag("tenant", "one")), 0);
    assert_eq!(found(salt("one")), tokens.len());
    assert_eq!(found(Salt::none().tag("adapter", "x").tag("tenant", "one")), tokens.len());
}

#[test]
fn t56_engines_of_other_models_share_a_backend_without_sharing_chunks() {
    let disk = tempfile::tempdir().unwrap();
    let tokens = tokens(2 * CHUNK_SIZE as u32);
    let engine_of = |metadata: EngineMetadata| {
        let config = config(vec![crate::support::fs("t56_disk", disk.path())]);
        engine_over(config, metadata, &[])
    };
    let ours = engine_of(metadata());
    let prompt_of = |engine: &Engine| engine.prompt(&tokens, &Salt::none());
    let allocation = ours.blocking().allocate(&prompt_of(&ours)).unwrap();
    ours.blocking().store(allocation, &Tiers::All);
    ours.blocking().close().unwrap();
    for other in [
        EngineMetadata { model_name: "other-model".into(), ..metadata() },
        EngineMetadata { world_size: 2, ..metadata() },
        EngineMetadata { world_size: 2, worker_id: 1, ..metadata() },
        EngineMetadata { kv_dtype: Dtype::Float16, ..metadata() },
    ] {
        let other = engine_of(other);
        assert_eq!(other.blocking().lookup(&prompt_of(&other)).unwrap().n_tokens, 0);
    }
    let again = engine_of(metadata());
    assert_eq!(again.blocking().lookup(&prompt_of(&again)).unwrap().n_tokens, tokens.len());
}

/// Retrieves a prompt of which three tiers promise given numbers of chunks, one after the other, and each delivers only
/// a first part. Checks that only the delivered chunks stay in memory.
fn retrieved(promised: [usize; 3], delivered: [usize; 3], n_tokens: u32) -> RetrievedPrefix {
    let tiers = [Scripted::new(), Scripted::new(), Scripted::new()];
    let chain: Vec<_> = ["a", "b", "c"].into_iter().zip(&tiers).collect();
    let engine = engine_256(true, &chain);
    let tokens = tokens(n_tokens);
    let prompt = engine.prompt(&tokens, &Salt::none());
    let chunks = engine.chunks(&prompt).unwrap();
    assert_eq!(chunks.len(), promised.iter().sum::<usize>());
    let mut start = 0;
    for ((name, tier), (promised, delivered)) in chain.into_iter().zip(promised.into_iter().zip(delivered)) {
        let here: Vec<_> = chunks[start..start + promised].iter().map(|chunk| chunk.spec).collect();
        let allocation = block_on(engine.storage().allocate(&here)).unwrap();
        block_on(engine.storage().put(allocation, &Tiers::only([name])));
        block_on(engine.storage().flush()).unwrap();
        here[delivered..].iter().for_each(|chunk| tier.lose(chunk.key));
        start += promised;
    }
    let plan = engine.blocking().lookup(&prompt).unwrap();
    assert_eq!(plan.n_tokens, tokens.len(), "all tokens are promised");
    let found = engine.blocking().retrieve(&prompt, Some(&plan)).unwrap();
    assert_eq!(chunks_in_memory(engine.storage()), found.retrieved.chunks.len());
    block_on(engine.storage().remove(&keys_of(&found), &Tiers::only(["cpu"]))).unwrap();
    assert_eq!(chunks_in_memory(engine.storage()), found.retrieved.chunks.len(), "while they are read");
    found
}

fn keys_of(found: &RetrievedPrefix) -> Vec<kvtier::ChunkKey> {
    found.retrieved.chunks.iter().map(kvtier::Chunk::key).collect()
}

#[test]
fn t58_all_that_was_promised_is_delivered() {
    assert_eq!(retrieved([3, 2, 0], [3, 2, 0], 1280).n_tokens, 1280);
}

#[test]
fn t59_a_tier_that_delivers_less_ends_the_answer_and_what_later_tiers_delivered_is_released() {
    let found = retrieved([3, 2, 2], [3, 1, 2], 1792);
    assert_eq!(found.n_tokens, 1024);
    assert_eq!(served(&found.retrieved), [1, 1, 1, 2]);
}

#[test]
fn t60_the_first_tier_that_delivers_less_decides() {
    assert_eq!(retrieved([3, 2, 2], [2, 2, 2], 1792).n_tokens, 512);
}

#[test]
fn t61_a_partial_last_chunk_counts_its_tokens() {
    let found = retrieved([1, 1, 1], [1, 1, 1], 640);
    assert_eq!(found.n_tokens, 640);
    assert_eq!(found.retrieved.chunks[2].len(), 128 * 4);
    assert_eq!(retrieved([1, 1, 1], [1, 1, 0], 640).n_tokens, 512);
}

#[test]
fn t63_no_hit_is_answered_without_a_get() {
    let log = log();
    let engine = engine(config(vec![misbehaving("t63", "GoodBackend", &[])]));
    let (storage, keys) = (engine.storage(), keys(3));
    assert_eq!(block_on(storage.contains(&keys, &Tiers::All)).n_chunks, 0);
    assert!(get(storage, &keys).chunks.is_empty());
    assert_eq!(log.operations("t63"), ["open", "contains", "contains"]);
    assert_eq!(chunks_in_memory(storage), 0);
}

#[test]
fn t64_an_error_in_contains_passes_over_the_tier_and_no_other() {
    let failing = misbehaving("t64_b", "FailBackend", &[("in", "contains")]);
    let mut config = memories(&["t64_a", "t64_c"]);
    config.backends.insert(1, failing);
    let engine = engine(config);
    let (storage, keys) = (engine.storage(), keys(3));
    put_in(storage, &keys[..1], "t64_a");
    put_in(storage, &keys[1..2], "t64_b");
    put_in(storage, &keys[1..], "t64_c");
    let lookup = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(runs(&lookup), [(1, 1), (3, 2)]);
    assert_eq!(counts_at(storage, 2).n_errors(Operation::Contains, "other"), 1, "asked once");
    assert_eq!(served(&get(storage, &keys)), [1, 3, 3]);
    block_on(storage.clear(&Tiers::All));
    assert_eq!(chunks_in_memory(storage), 0);
}

#[test]
fn t64_an_error_in_get_is_a_miss_with_its_reason_and_the_next_tier_is_asked() {
    let failing = misbehaving("t64_y", "FailBackend", &[("in", "get")]);
    let mut config = memories(&["t64_x", "t64_z"]);
    config.backends.insert(1, failing);
    let engine = engine(config);
    let (storage, keys) = (engine.storage(), keys(3));
    put_in(storage, &keys[..1], "t64_x");
    put_in(storage, &keys[1..], "t64_y");
    put_in(storage, &keys[1..2], "t64_z");
    let found = get(storage, &keys);
    assert_eq!(served(&found), [1, 3]);
    let cause = Miss::Error(TierError::Other("failed on purpose in get".into()));
    assert!(misses(&found).contains(&(1, TierIndex(2), cause.clone())), "{:?}", found.misses);
    assert!(misses(&found).contains(&(2, TierIndex(2), cause)), "{:?}", found.misses);
    assert_eq!(counts_at(storage, 2).misses["other"], 2);
    drop(found);
    block_on(storage.clear(&Tiers::All));
    assert_eq!(chunks_in_memory(storage), 0);
}

#[test]
fn t74_a_hung_backend_does_not_hide_the_prefix_of_the_others_and_the_next_lookup_works() {
    let mut hung = misbehaving("t74_b", "HangBackend", &[("in", "contains")]);
    hung.limits.call_timeout = EXPIRES;
    let mut config = memories(&["t74_a", "t74_c"]);
    config.backends.insert(1, hung);
    let engine = engine(config);
    let (storage, keys) = (engine.storage(), keys(3));
    put_in(storage, &keys[..1], "t74_a");
    put_in(storage, &keys[1..], "t74_c");
    for n_lookups in 1..=2 {
        let lookup = block_on(storage.contains(&keys, &Tiers::All));
        assert_eq!(runs(&lookup), [(1, 1), (3, 2)]);
        assert_eq!(counts_at(storage, 2).n_errors(Operation::Contains, "timeout"), n_lookups);
    }
    assert_eq!(served(&get(storage, &keys)), [1, 3, 3]);
}

#[test]
fn t74_a_backend_that_hangs_for_longer_than_a_lookup_may_take_leaves_time_to_those_behind_it() {
    let mut hung = misbehaving("t74_x", "HangBackend", &[("in", "contains")]);
    hung.limits.call_timeout = Duration::from_hours(1);
    let mut config = memories(&["t74_y", "t74_z"]);
    config.backends.insert(0, hung);
    // The tier that hangs gets a third of the time.
    config.lookup_timeout = 3 * EXPIRES;
    let engine = engine(config);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys[..1], "t74_y");
    put_in(storage, &keys[1..], "t74_z");
    let lookup = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(runs(&lookup), [(2, 1), (3, 1)]);
    // The pins of a lookup cover exactly its result.
    let lookup = block_on(storage.contains_pinned(&keys, &Tiers::All, "t74"));
    assert_eq!(runs(&lookup), [(2, 1), (3, 1)]);
    block_on(storage.unpin("t74"));
}

#[test]
fn a_chunk_that_the_cpu_tier_dropped_after_the_lookup_comes_from_a_backend() {
    let tier = Scripted::new();
    let engine = engine_over(config(vec![]), metadata(), &[("a", &tier)]);
    let (storage, keys) = (engine.storage(), keys(3));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    let plan = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(runs(&plan), [(0, 3)]);
    tier.heard();
    block_on(storage.remove(&[key(1)], &Tiers::only(["cpu"]))).unwrap();
    let found = block_on(storage.get(&specs(&keys), &Tiers::All, Some(&plan)));
    assert_eq!(served(&found), [0, 1, 0]);
    assert_eq!(tier.heard(), [Heard::Get(vec![key(1)])]);
    assert_eq!(found.chunks[1].len(), CHUNK_BYTES);
    kvtier_cli::content::verify(key(1), &found.chunks[1]).unwrap();
}
