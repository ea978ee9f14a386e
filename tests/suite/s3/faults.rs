//! A store that fails in use. Whatever it does, the other tiers answer requests in time, nothing wrong is served, and
//! the same engine uses the store again once it has recovered.

use std::time::Duration;

use kvtier::{
    BackendConfig, BreakerState, ChunkKey, Config, Engine, OnLoadError, Operation, StorageManager, Tiers,
    block_on,
};
use kvtier_servers::proxy::Proxy;

use super::canned::{Canned, answer, empty_list};
use super::{MIB, Secrets, backend, engine_for, get_large, large, put_large, server, set};
use crate::support::{self, eventually, get, in_tier, key, keys, put, put_in, served};

/// Returns a backend with short limits and short pauses.
fn impatient(name: &str, endpoint: &str, secrets: &Secrets) -> BackendConfig {
    let mut s3 = backend(name, endpoint, secrets);
    s3.limits.call_timeout = Duration::from_millis(400);
    s3.limits.open_timeout = Duration::from_secs(2);
    s3.breaker.pause = Duration::from_millis(20);
    s3.breaker.pause_max = Duration::from_millis(100);
    set(&mut s3, &[("request_timeout_ms", "1000")]);
    s3
}

/// Builds an engine over that backend, with `memory` behind it.
fn engine(s3: BackendConfig) -> Engine {
    let memory = support::backend("memory", "memory", "MemoryBackend");
    let config = Config {
        local_cpu: false,
        on_load_error: OnLoadError::Continue,
        ..support::config(vec![s3, memory])
    };
    support::engine(config)
}

fn opened(storage: &StorageManager, name: &str) -> u64 {
    storage.status().backends.iter().find(|backend| backend.name == name).unwrap().reading.opened
}

fn state(storage: &StorageManager, name: &str) -> BreakerState {
    storage.status().backends.iter().find(|backend| backend.name == name).unwrap().reading.state
}

/// Looks up and retrieves until the backend's breaker has opened; each time everything comes from `memory`. If a call
/// waited longer than its limits, the breaker would not open within a minute.
fn serve_from_memory_until_it_opens(storage: &StorageManager, name: &str, keys: &[ChunkKey]) {
    let before = opened(storage, name);
    eventually("the breaker opens", || {
        assert_eq!(block_on(storage.contains(keys, &Tiers::All)).n_chunks, keys.len());
        let found = get(storage, keys);
        assert_eq!(served(&found), vec![2; keys.len()]);
        opened(storage, name) > before
    });
}

/// Waits until the backend serves again.
fn serves_again(storage: &StorageManager, name: &str, keys: &[ChunkKey]) {
    eventually("it serves again", || served(&get(storage, keys)) == vec![1; keys.len()]);
    eventually("the breaker closes", || {
        in_tier(storage, keys, name);
        state(storage, name) == BreakerState::Closed
    });
    assert_eq!(support::health(storage, name).down, None);
}

fn fill(storage: &StorageManager, keys: &[ChunkKey]) {
    put(storage, keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
}

#[test]
fn a_store_that_is_down_at_start_is_used_when_it_is_up() {
    let (mut server, secrets) = (server(), Secrets::right());
    server.kill().unwrap();
    let engine = engine(impatient("s3-late", &server.endpoint(), &secrets));
    let (storage, keys) = (engine.storage(), keys(3));
    let down = support::health(storage, "s3-late").down.unwrap();
    assert!(down.contains("unavailable") && down.contains(&server.endpoint()), "{down}");
    fill(storage, &keys);
    assert_eq!(served(&get(storage, &keys)), [2, 2, 2]);
    server.restart().unwrap();
    eventually("it is up", || support::health(storage, "s3-late").down.is_none());
    eventually("puts arrive", || {
        put(storage, &keys, &Tiers::All);
        block_on(storage.flush()).unwrap();
        in_tier(storage, &keys, "s3-late") == 3
    });
    serves_again(storage, "s3-late", &keys);
}

#[test]
fn a_store_that_is_killed_is_passed_over_and_used_again_with_what_it_kept() {
    let (mut server, secrets) = (server(), Secrets::right());
    let engine = engine(impatient("s3-killed", &server.endpoint(), &secrets));
    let (storage, keys) = (engine.storage(), keys(3));
    eventually("it is filled", || {
        fill(storage, &keys);
        served(&get(storage, &keys)) == [1, 1, 1]
    });
    server.kill().unwrap();
    serve_from_memory_until_it_opens(storage, "s3-killed", &keys);
    // Chunks stored in that time are not lost in the other tiers.
    put(storage, &[key(9)], &Tiers::All);
    block_on(storage.flush()).unwrap();
    assert_eq!(served(&get(storage, &[key(9)])), [2]);
    server.restart().unwrap();
    serves_again(storage, "s3-killed", &keys);
    assert_eq!(support::health(storage, "s3-killed").lane_restarts, 0);
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_store_that_refuses_puts_is_read() {
    for (status, code) in [(403, "AccessDenied"), (503, "SlowDown"), (403, "QuotaExceeded")] {
        let (server, secrets) = (server(), Secrets::right());
        let mut s3 = impatient("s3-read-only", &server.endpoint(), &secrets);
        s3.limits.call_timeout = Duration::from_mins(1);
        set(&mut s3, &[("retries", "1"), ("request_timeout_ms", "60000")]);
        let engine = engine(s3);
        let (storage, keys) = (engine.storage(), keys(3));
        let of = || storage.status().backends.into_iter().find(|of| of.name == "s3-read-only").unwrap();
        put_in(storage, &keys, "s3-read-only");
        server.refuse(&[("PutObject", status, code)]).unwrap();
        let mut n = 100;
        eventually("puts have been refused", || {
            n += 1;
            put_in(storage, &[key(n)], "s3-read-only");
            assert_eq!(in_tier(storage, &keys, "s3-read-only"), 3);
            assert_eq!(served(&get(storage, &keys)), [1; 3]);
            // A full store works: it answers with an error, and may accept the next put.
            of().writing.state == BreakerState::Open || (code == "QuotaExceeded" && n > 120)
        });
        assert_eq!((of().reading.state, of().reading.opened), (BreakerState::Closed, 0), "{code}");
        let cause = of().writing.last_cause.unwrap_or_default();
        match code {
            "AccessDenied" => assert!(cause.contains("s3:PutObject"), "{cause}"),
            "SlowDown" => assert!(cause.contains("PUT: 503 SlowDown"), "{cause}"),
            _ => assert_eq!(cause, ""),
        }
        server.refuse(&[]).unwrap();
        eventually("it stores again", || {
            n += 1;
            put_in(storage, &[key(n)], "s3-read-only");
            in_tier(storage, &[key(n)], "s3-read-only") == 1
        });
    }
}

#[test]
fn a_store_that_comes_back_empty_is_filled_again() {
    let (mut server, secrets) = (server(), Secrets::right());
    let engine = engine(impatient("s3-emptied", &server.endpoint(), &secrets));
    let (storage, keys) = (engine.storage(), keys(3));
    fill(storage, &keys);
    server.kill().unwrap();
    std::fs::remove_dir_all(server.root().join("kv-cache")).unwrap();
    server.restart().unwrap();
    eventually("it answers", || {
        assert_eq!(served(&get(storage, &keys)), [2, 2, 2]);
        state(storage, "s3-emptied") == BreakerState::Closed
    });
    eventually("it is filled", || {
        fill(storage, &keys);
        in_tier(storage, &keys, "s3-emptied") == 3
    });
    serves_again(storage, "s3-emptied", &keys);
}

#[test]
fn a_store_that_stops_answering_costs_no_more_than_the_deadline() {
    let (server, secrets) = (server(), Secrets::right());
    let engine = engine(impatient("s3-paused", &server.endpoint(), &secrets));
    let (storage, keys) = (engine.storage(), keys(3));
    fill(storage, &keys);
    server.pause().unwrap();
    serve_from_memory_until_it_opens(storage, "s3-paused", &keys);
    let counts = support::counted(storage, "s3-paused");
    assert!(counts.errors.iter().any(|error| error.kind == "timeout"), "{:?}", counts.errors);
    server.resume().unwrap();
    serves_again(storage, "s3-paused", &keys);
    eventually("expired calls end", || support::health(storage, "s3-paused").abandoned_calls == 0);
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_black_hole_at_start_and_later_is_waited_for_no_longer_than_the_limits() {
    let (server, secrets) = (server(), Secrets::right());
    let proxy = Proxy::start(server.addr()).unwrap();
    proxy.black_hole();
    let engine = engine(impatient("s3-hole", &format!("http://{}", proxy.addr()), &secrets));
    let (storage, keys) = (engine.storage(), keys(3));
    assert!(support::health(storage, "s3-hole").down.is_some());
    put_in(storage, &keys, "memory");
    assert_eq!(served(&get(storage, &keys)), [2, 2, 2]);
    proxy.pass();
    eventually("it is up", || support::health(storage, "s3-hole").down.is_none());
    eventually("puts arrive", || {
        fill(storage, &keys);
        in_tier(storage, &keys, "s3-hole") == 3
    });
    proxy.black_hole();
    serve_from_memory_until_it_opens(storage, "s3-hole", &keys);
    proxy.pass();
    serves_again(storage, "s3-hole", &keys);
}

#[test]
fn a_slow_link_times_out_and_serves_nothing_half() {
    let server = server();
    let proxy = Proxy::start(server.addr()).unwrap();
    let secrets = Secrets::right();
    let mut s3 = impatient("s3-slow", &format!("http://{}", proxy.addr()), &secrets);
    s3.limits.min_bytes_per_s = 64 << 20;
    let mut memory = support::backend("memory", "memory", "MemoryBackend");
    memory.limits.memory_bytes = 64 << 20;
    let engine = engine_for(32 * MIB, vec![s3, memory]);
    let (storage, specs) = (engine.storage(), large(&keys(2), 2 * MIB));
    put_large(storage, &specs, "memory");
    eventually("both are stored", || {
        put_large(storage, &specs, "s3-slow");
        in_tier(storage, &keys(2), "s3-slow") == 2
    });
    proxy.slow(512 << 10);
    let found = block_on(storage.get(&specs, &Tiers::All, None));
    assert_eq!(served(&found), [2, 2]);
    assert!(found.misses.iter().all(|missed| missed.miss.reason() == "timeout"), "{:?}", found.misses);
    drop(found);
    proxy.pass();
    eventually("it serves again", || {
        get_large(storage, &specs) == 2 && served(&block_on(storage.get(&specs, &Tiers::All, None))) == [1, 1]
    });
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_connection_that_is_cut_in_the_middle_of_a_chunk_is_made_up_for() {
    let (server, secrets) = (server(), Secrets::right());
    let (specs, plan) = (large(&keys(1), MIB), support::promise(1, 1));
    for (name, range_bytes) in [("s3-cut", "64MiB"), ("s3-cut-ranges", "256KiB")] {
        let proxy = Proxy::start(server.addr()).unwrap();
        let over_proxy = |retries| {
            let mut s3 = backend(name, &format!("http://{}", proxy.addr()), &secrets);
            set(&mut s3, &[("range_bytes", range_bytes), ("retries", retries)]);
            s3.breaker.failures = 0;
            engine_for(8 * MIB, vec![s3])
        };
        let (patient, impatient) = (over_proxy("3"), over_proxy("0"));
        put_large(patient.storage(), &specs, name);
        for n_bytes in [1, 100_000, 900_000] {
            proxy.cut_after(n_bytes);
            let found = block_on(impatient.storage().get(&specs, &Tiers::All, Some(&plan)));
            let why = found.misses.first().map(|missed| missed.miss.reason());
            assert_eq!((served(&found), why), (vec![], Some("unavailable")), "{name}: cut after {n_bytes}");
            proxy.cut_after(n_bytes);
            let found = block_on(patient.storage().get(&specs, &Tiers::All, Some(&plan)));
            kvtier_cli::content::verify(specs[0].key, &found.chunks[0]).unwrap();
        }
        assert_eq!(super::errors(patient.storage(), name), []);
    }
}

/// A bucket that has an object of every name, and gives `answer` to each GET.
fn with_one_object(answer_get: impl Fn(&str, usize) -> Vec<u8> + Send + 'static) -> Canned {
    let n_gets = std::cell::Cell::new(0);
    Canned::start(move |request, _| {
        if request.contains("list-type") {
            return empty_list();
        }
        if request.starts_with("GET") {
            n_gets.set(n_gets.get() + 1);
            return answer_get(request, n_gets.get());
        }
        answer("200 OK", "", "")
    })
}

#[test]
fn what_was_read_before_the_cut_is_not_asked_for_again() {
    let whole = support::CHUNK_BYTES + kvtier::tier::TRAILER_BYTES;
    let canned = with_one_object(move |_, _| {
        // Half of the announced body.
        let head = format!("HTTP/1.1 200 OK\r\netag: \"tag\"\r\ncontent-length: {whole}\r\n\r\n");
        [head.into_bytes(), vec![7; 1000]].concat()
    });
    let secrets = Secrets::right();
    let mut s3 = backend("s3-half", canned.endpoint(), &secrets);
    set(&mut s3, &[("retries", "2")]);
    let engine = engine(s3);
    let (storage, keys) = (engine.storage(), keys(1));
    put_in(storage, &keys, "memory");
    let found = get(storage, &keys);
    assert_eq!((served(&found), found.misses.len()), (vec![2], 1));
    let requests: Vec<_> =
        canned.requests("GET").into_iter().filter(|request| !request.contains("list-type")).collect();
    // It does not answer with a range, so there is only one retry.
    assert_eq!(requests.len(), 2, "{requests:#?}");
    assert!(!requests[0].contains("range:"), "{}", requests[0]);
    let expected = format!("range: bytes=1000-{}", whole - 1);
    assert!(requests[1].contains(&expected) && requests[1].contains("if-match: \"tag\""), "{}", requests[1]);
}

#[test]
fn a_connection_that_is_cut_again_and_again_is_a_miss_with_its_reason() {
    let whole = support::CHUNK_BYTES + kvtier::tier::TRAILER_BYTES;
    let canned = with_one_object(move |request, n_gets| {
        let at = n_gets - 1;
        let (status, range) = if request.contains("range:") {
            ("206 Partial Content", format!("content-range: bytes {at}-{}/{whole}\r\n", whole - 1))
        } else {
            ("200 OK", String::new())
        };
        // One byte each time.
        format!("HTTP/1.1 {status}\r\n{range}content-length: {}\r\n\r\nx", whole - at).into_bytes()
    });
    let secrets = Secrets::right();
    let mut s3 = backend("s3-again-cut", canned.endpoint(), &secrets);
    set(&mut s3, &[("retries", "3")]);
    let engine = engine(s3);
    let (storage, keys) = (engine.storage(), keys(1));
    put_in(storage, &keys, "memory");
    let found = get(storage, &keys);
    assert_eq!(served(&found), [2]);
    assert_eq!(found.misses[0].miss.reason(), "unavailable", "{:?}", found.misses);
    let n_requests = canned.requests("GET").iter().filter(|request| !request.contains("list-type")).count();
    assert_eq!(n_requests, 4, "once, and three retries");
}

#[test]
fn a_store_that_is_busy_is_asked_again_and_one_that_always_fails_is_not_hammered() {
    let slow_down = || answer("503 Slow Down", "", "<Error><Code>SlowDown</Code></Error>");
    let canned = Canned::start(move |request, n_before| match n_before {
        0 | 1 => slow_down(),
        // For the bucket, and not for an object.
        _ if !request.contains("/kvtier/") => empty_list(),
        _ => slow_down(),
    });
    let secrets = Secrets::right();
    let mut s3 = backend("s3-busy", canned.endpoint(), &secrets);
    s3.breaker.failures = 0;
    let engine = engine(s3);
    let storage = engine.storage();
    assert_eq!(support::health(storage, "s3-busy").down, None, "it opened at the third request");
    for _ in 0..60 {
        assert_eq!(in_tier(storage, &keys(1), "s3-busy"), 0);
    }
    let counts = support::counted(storage, "s3-busy");
    assert_eq!(counts.n_errors(Operation::Contains, "unavailable"), 60);
    // 60 requests, and as many more as the budget allows: 100 for retries at 5.
    let n_requests = canned.requests("HEAD").iter().filter(|request| request.contains("/kvtier/")).count();
    assert!((61..=80).contains(&n_requests), "{n_requests}");
}

#[test]
fn a_put_in_parts_that_does_not_end_in_time_leaves_no_object_and_no_upload() {
    let (server, secrets) = (server(), Secrets::right());
    let proxy = Proxy::start(server.addr()).unwrap();
    let mut s3 = backend("s3-late-put", &format!("http://{}", proxy.addr()), &secrets);
    // Part after part: the deadline passes in the first of them.
    set(&mut s3, &[("part_bytes", "5MiB"), ("multipart_from", "6MiB"), ("requests", "1")]);
    s3.limits.call_timeout = Duration::from_millis(700);
    s3.limits.min_bytes_per_s = 1 << 40;
    let engine = engine_for(64 * MIB, vec![s3]);
    let (storage, specs) = (engine.storage(), large(&keys(1), 16 * MIB));
    proxy.slow(4 << 20);
    put_large(storage, &specs, "s3-late-put");
    assert_eq!(support::counted(storage, "s3-late-put").n_errors(Operation::Put, "timeout"), 1);
    eventually("expired calls end", || support::health(storage, "s3-late-put").abandoned_calls == 0);
    assert_eq!(server.objects().unwrap().len(), 0);
    assert_eq!(server.unfinished_uploads().unwrap(), [""; 0]);
    support::assert_nothing_leaks(storage);
    proxy.pass();
    eventually("it is stored", || {
        put_large(storage, &specs, "s3-late-put");
        // On a busy machine a lookup may also take too long.
        served(&block_on(storage.get(&specs, &Tiers::All, None))) == [1]
    });
}
