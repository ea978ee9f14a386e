//! The backend's logic, without a host: `cargo test`.

use kvtier_guest::testing::{block_on, init, keys, sinks, sources};

use super::*;

fn backend(capacity: &str) -> NewBackend {
    NewBackend::new(init([("capacity", capacity)])).unwrap()
}

fn put(backend: &NewBackend, keys: &[ChunkKey], chunk: &[u8]) -> Vec<Result<(), Error>> {
    block_on(backend.put(keys, &sources(vec![chunk; keys.len()])))
}

fn get(backend: &NewBackend, keys: &[ChunkKey]) -> Vec<Option<Vec<u8>>> {
    let into = sinks(vec![100; keys.len()]);
    let results = block_on(backend.get(keys, &into));
    into.fetched(&results)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn a_chunk_comes_back_and_keeps_its_bytes() {
    let (backend, keys) = (backend("1KiB"), keys(2));
    assert_eq!(put(&backend, &keys[..1], b"first"), [Ok(())]);
    assert_eq!(put(&backend, &keys[..1], b"other"), [Ok(())]);
    assert_eq!(get(&backend, &keys), [Some(b"first".to_vec()), None]);
    assert_eq!(block_on(backend.contains(&keys, Pinning::None)), Ok(1));
}

#[test]
fn chunks_used_longest_ago_make_room_but_not_for_the_same_call() {
    let (backend, keys) = (backend("200"), keys(4));
    assert_eq!(
        put(&backend, &keys[..3], &[1; 100]),
        [Ok(()), Ok(()), Err(Error::NoSpace)]
    );
    get(&backend, &keys[..1]);
    assert_eq!(put(&backend, &keys[3..], &[2; 100]), [Ok(())]);
    let found: Vec<bool> = get(&backend, &keys).iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false, false, true]);
}

#[test]
fn pinned_chunks_stay_until_they_are_unpinned_or_removed() {
    let (backend, keys) = (backend("200"), keys(4));
    put(&backend, &keys[..2], &[1; 100]);
    assert_eq!(block_on(backend.contains(&keys, Pinning::Pin)), Ok(2));
    assert_eq!(put(&backend, &keys[2..3], &[1; 100]), [Err(Error::NoSpace)]);
    assert_eq!(block_on(backend.unpin(&keys[..1])), Ok(1));
    assert_eq!(
        block_on(backend.remove(&[keys[1], keys[1], keys[3]])),
        Ok(1)
    );
    assert_eq!(put(&backend, &keys[2..], &[1; 100]), [Ok(()), Ok(())]);
}

#[test]
fn settings_that_are_unknown_or_useless_are_refused() {
    for setting in [("capacity", "0"), ("capacities", "1GiB")] {
        assert!(
            matches!(
                NewBackend::new(init([setting])),
                Err(Error::InvalidConfig(_))
            ),
            "{setting:?}"
        );
    }
}
