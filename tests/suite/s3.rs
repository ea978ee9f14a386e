//! The `s3` backend against an S3 server that runs in a separate process and checks signatures.

mod canned;
mod faults;
mod refusals;
mod rotation;
mod shared;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use kvtier::tier::TRAILER_BYTES;
use kvtier::{
    BackendConfig, ChunkKey, ChunkSpec, Config, Engine, HttpScheme, Missing, NetGrant, NetHost, SecretSource,
    StorageManager, Tiers, block_on,
};
use kvtier_check::Outcome;
use kvtier_servers::proxy::Proxy;
use kvtier_servers::s3::{ACCESS_KEY, S3Options, S3Server, SECRET_KEY};
use kvtier_servers::tls::Certificates;
use tempfile::TempDir;

use crate::support::{self, get, in_tier, key, keys, put_in, served};

const MIB: usize = 1 << 20;

/// Returns the path of the server's program, which cargo builds for the tests.
fn program() -> PathBuf {
    let path = support::kvtier_program().with_file_name("kvtier-s3-server");
    assert!(path.exists(), "{} is missing: run the tests with cargo", path.display());
    path
}

fn server() -> S3Server {
    S3Server::start(&program(), &S3Options::default()).unwrap()
}

/// The secrets of a backend, in files.
struct Secrets(TempDir);

impl Secrets {
    fn new(access_key: &str, secret_key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [("access_key_id", access_key), ("secret_access_key", secret_key)] {
            std::fs::write(folder.path().join(name), value).unwrap();
        }
        Self(folder)
    }

    fn right() -> Self {
        Self::new(ACCESS_KEY, SECRET_KEY)
    }

    fn source(&self, name: &str) -> SecretSource {
        SecretSource::File(self.0.path().join(name))
    }
}

/// Returns a backend on the bucket `kv-cache` of a store, with the bucket in the path and generous limits.
fn backend(name: &str, endpoint: &str, secrets: &Secrets) -> BackendConfig {
    let mut backend = support::backend(name, "s3", "S3Backend");
    set(&mut backend, &[("bucket", "kv-cache"), ("endpoint", endpoint), ("addressing", "path")]);
    // A busy machine answers late.
    set(&mut backend, &[("request_timeout_ms", "60000")]);
    backend.secrets =
        ["access_key_id", "secret_access_key"].map(|name| (name.to_owned(), secrets.source(name))).to_vec();
    let (scheme, rest) = endpoint.split_once("://").unwrap();
    let (host, port) = rest.rsplit_once(':').unwrap();
    let scheme = if scheme == "https" { HttpScheme::Https } else { HttpScheme::Http };
    let host = match host.parse() {
        Ok(address) => NetHost::Address(address),
        Err(_) => NetHost::Name(host.to_owned()),
    };
    backend.allow.net = vec![NetGrant::Http { scheme, host, port: port.parse().unwrap() }];
    backend.limits.call_timeout = Duration::from_mins(1);
    backend.limits.connect_timeout = Duration::from_secs(30);
    backend.limits.tls_timeout = Duration::from_secs(30);
    backend
}

fn set(backend: &mut BackendConfig, settings: &[(&str, &str)]) {
    for (key, value) in settings {
        backend.config.retain(|(known, _)| known != key);
        backend.config.push(((*key).to_owned(), (*value).to_owned()));
    }
}

/// Builds an engine without a hot cache: the first backend is tier 1.
fn engine(backends: Vec<BackendConfig>) -> Engine {
    support::engine(Config { local_cpu: false, ..support::config(backends) })
}

/// Builds an engine for a few large chunks.
fn engine_for(n_bytes: usize, backends: Vec<BackendConfig>) -> Engine {
    let pool_size_bytes = n_bytes as u64;
    support::engine(Config { local_cpu: false, pool_size_bytes, ..support::config(backends) })
}

fn large(keys: &[ChunkKey], size_bytes: usize) -> Vec<ChunkSpec> {
    keys.iter().map(|&key| ChunkSpec { key, size_bytes }).collect()
}

/// Stores large chunks in one backend.
fn put_large(storage: &StorageManager, specs: &[ChunkSpec], tier: &str) {
    let mut allocation = block_on(storage.allocate(specs)).unwrap();
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::fill(key, bytes);
    }
    block_on(storage.put(allocation, &Tiers::only([tier])));
    block_on(storage.flush()).unwrap();
}

/// Retrieves large chunks, checks every byte, and returns the number of chunks.
fn get_large(storage: &StorageManager, specs: &[ChunkSpec]) -> usize {
    let found = block_on(storage.get(specs, &Tiers::All, None));
    for (chunk, spec) in found.chunks.iter().zip(specs) {
        assert_eq!((chunk.key(), chunk.len()), (spec.key, spec.size_bytes));
        kvtier_cli::content::verify(spec.key, chunk).unwrap();
    }
    assert!(found.chunks.len() == specs.len() || !found.misses.is_empty());
    found.chunks.len()
}

fn only_object(server: &S3Server) -> PathBuf {
    let mut objects = server.objects().unwrap();
    assert_eq!(objects.len(), 1, "{objects:?}");
    objects.swap_remove(0)
}

/// Returns how a call of the backend was counted, by operation and reason.
fn errors(storage: &StorageManager, name: &str) -> Vec<(&'static str, &'static str)> {
    let errors = support::counted(storage, name).errors;
    errors.iter().map(|error| (error.operation.name(), error.kind)).collect()
}

#[test]
fn it_keeps_the_contract_sentence_by_sentence() {
    let server = server();
    let secrets = Secrets::right();
    let report = crate::check::quickly(backend("check", &server.endpoint(), &secrets));
    assert!(report.is_kept(), "{report}");
    let kept = |id: &str| {
        report.verdicts.iter().any(|verdict| verdict.sentence.id == id && verdict.outcome == Outcome::Kept)
    };
    assert!(kept("removed-stays-removed") && kept("missing-grant") && kept("sizes"), "{:?}", report.verdicts);
}

#[test]
fn chunks_are_objects_and_come_back() {
    let (server, secrets) = (server(), Secrets::right());
    let engine = engine(vec![backend("s3-basic", &server.endpoint(), &secrets)]);
    let (storage, keys) = (engine.storage(), keys(5));
    assert_eq!(in_tier(storage, &keys, "s3-basic"), 0);
    put_in(storage, &keys, "s3-basic");
    assert_eq!(served(&get(storage, &keys)), [1; 5]);
    for object in server.objects().unwrap() {
        let name = object.strip_prefix(server.root().join("kv-cache")).unwrap().to_str().unwrap().to_owned();
        let parts: Vec<&str> = name.split('/').collect();
        assert!(
            matches!(parts[..], ["kvtier", namespace, key] if namespace.len() == 32 && key.len() == 32),
            "{name}"
        );
        let size = std::fs::metadata(&object).unwrap().len() as usize;
        assert_eq!(size, support::CHUNK_BYTES + TRAILER_BYTES);
    }
    // A gap ends the run, whatever follows it.
    assert_eq!(block_on(storage.remove(&keys[2..3], &Tiers::All)), Ok(1));
    assert_eq!(block_on(storage.remove(&keys[2..3], &Tiers::All)), Ok(0));
    assert_eq!(in_tier(storage, &keys, "s3-basic"), 2);
    let found = get(storage, &keys);
    assert_eq!((served(&found), found.misses.len()), (vec![1, 1], 0), "a miss, not an error");
    drop(found);
    assert_eq!(server.objects().unwrap().len(), 4);
    assert_eq!(errors(storage, "s3-basic"), []);
    support::assert_nothing_leaks(storage);
}

#[test]
fn presence_is_reported_for_each_key() {
    let (server, secrets) = (server(), Secrets::right());
    crate::single::check_presence_key_by_key(backend("s3-present", &server.endpoint(), &secrets));
}

#[test]
fn over_tls_with_an_authority_of_ones_own() {
    let (certificates, secrets) = (Certificates::make().unwrap(), Secrets::right());
    let options = S3Options { tls: Some(&certificates), ..S3Options::default() };
    let server = S3Server::start(&program(), &options).unwrap();
    let mut backend = backend("s3-tls", &server.endpoint(), &secrets);
    backend.ca_file = Some(certificates.ca());
    let engine = engine(vec![backend]);
    let (storage, keys) = (engine.storage(), keys(5));
    put_in(storage, &keys, "s3-tls");
    assert_eq!(served(&get(storage, &keys)), [1; 5]);
    assert_eq!(server.objects().unwrap().len(), 5);
}

#[test]
fn prefixes_keep_caches_apart_and_without_one_objects_are_shared() {
    let (server, secrets) = (server(), Secrets::right());
    let of = |name: &str, prefix: &str| {
        let mut backend = backend(name, &server.endpoint(), &secrets);
        set(&mut backend, &[("prefix", prefix)]);
        engine(vec![backend])
    };
    let (a, b, other) = (of("s3-a", "team/x-"), of("s3-b", "team/x-"), of("s3-other", ""));
    let keys = keys(3);
    put_in(a.storage(), &keys, "s3-a");
    assert_eq!(served(&get(b.storage(), &keys)), [1, 1, 1]);
    assert_eq!(in_tier(other.storage(), &keys, "s3-other"), 0);
    assert_eq!(block_on(b.storage().remove(&keys[..1], &Tiers::All)), Ok(1));
    assert_eq!(in_tier(a.storage(), &keys, "s3-a"), 0);
    put_in(other.storage(), &keys, "s3-other");
    assert_eq!(server.objects().unwrap().len(), 5);
}

#[test]
fn a_chunk_that_is_present_is_not_sent_again() {
    let (server, secrets) = (server(), Secrets::right());
    let engine = engine(vec![backend("s3-again", &server.endpoint(), &secrets)]);
    let (storage, keys) = (engine.storage(), keys(1));
    put_in(storage, &keys, "s3-again");
    let marked = vec![0xee; support::CHUNK_BYTES + TRAILER_BYTES];
    std::fs::write(only_object(&server), &marked).unwrap();
    put_in(storage, &keys, "s3-again");
    assert_eq!(std::fs::read(only_object(&server)).unwrap(), marked);
}

#[test]
fn an_object_of_another_size_is_never_served() {
    let (server, secrets) = (server(), Secrets::right());
    let mut in_ranges = backend("s3-size-ranges", &server.endpoint(), &secrets);
    set(&mut in_ranges, &[("range_bytes", "64KiB")]);
    let mut whole = backend("s3-size", &server.endpoint(), &secrets);
    // Damaged objects would open it.
    whole.breaker.failures = 0;
    in_ranges.breaker.failures = 0;
    let engine = engine_for(4 * MIB, vec![whole, in_ranges]);
    let (storage, specs) = (engine.storage(), large(&keys(1), 300 << 10));
    for tier in ["s3-size", "s3-size-ranges"] {
        for (change, reason) in [(-300_000, "wrong_length"), (-1, "wrong_length"), (1, "larger_than_buffer")]
        {
            put_large(storage, &specs, tier);
            let object = std::fs::File::options().write(true).open(only_object(&server)).unwrap();
            let size = object.metadata().unwrap().len().strict_add_signed(change);
            object.set_len(size).unwrap();
            let found = block_on(storage.get(&specs, &Tiers::only([tier]), None));
            assert!(found.chunks.is_empty());
            assert_eq!(found.misses[0].miss.reason(), reason, "{size} bytes, {tier}");
        }
    }
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_put_replaces_an_object_of_another_size() {
    let (server, secrets) = (server(), Secrets::right());
    let engine = engine(vec![backend("s3-replace", &server.endpoint(), &secrets)]);
    let (storage, keys) = (engine.storage(), keys(1));
    put_in(storage, &keys, "s3-replace");
    let bytes = std::fs::read(only_object(&server)).unwrap();
    std::fs::write(only_object(&server), &bytes[1..]).unwrap();
    put_in(storage, &keys, "s3-replace");
    assert_eq!(std::fs::read(only_object(&server)).unwrap(), bytes);
    assert_eq!(served(&get(storage, &keys)), [1]);
}

#[test]
fn a_flipped_bit_is_never_served() {
    let (server, secrets) = (server(), Secrets::right());
    let s3 = backend("s3-flip", &server.endpoint(), &secrets);
    let engine = engine(vec![s3, support::backend("s3-flip-next", "memory", "MemoryBackend")]);
    let (storage, keys) = (engine.storage(), keys(1));
    put_in(storage, &keys, "s3-flip-next");
    for at in [0, support::CHUNK_BYTES / 2, support::CHUNK_BYTES + 1] {
        put_in(storage, &keys, "s3-flip");
        let object = only_object(&server);
        let mut bytes = std::fs::read(&object).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&object, bytes).unwrap();
        let found = get(storage, &keys);
        assert_eq!((served(&found), found.misses.len()), (vec![2], 1), "bit of byte {at}");
        // The host removes chunks that do not verify.
        support::eventually("it is removed", || server.objects().unwrap().is_empty());
    }
}

#[test]
fn a_large_chunk_goes_in_parts_and_is_the_same_object() {
    let (server, secrets) = (server(), Secrets::right());
    let mut in_parts = backend("s3-parts", &server.endpoint(), &secrets);
    set(&mut in_parts, &[("part_bytes", "5MiB"), ("multipart_from", "6MiB"), ("prefix", "parts/")]);
    let mut whole = backend("s3-whole", &server.endpoint(), &secrets);
    set(&mut whole, &[("prefix", "whole/")]);
    let engine = engine_for(64 * MIB, vec![in_parts, whole]);
    let (storage, specs) = (engine.storage(), large(&keys(2), 12 * MIB + 4096));
    for tier in ["s3-parts", "s3-whole"] {
        put_large(storage, &specs, tier);
    }
    let objects = server.objects().unwrap();
    assert_eq!(objects.len(), 4, "{objects:?}");
    for (in_parts, whole) in objects[..2].iter().zip(&objects[2..]) {
        assert!(std::fs::read(in_parts).unwrap() == std::fs::read(whole).unwrap());
    }
    assert_eq!(server.unfinished_uploads().unwrap(), [""; 0]);
    assert_eq!(get_large(storage, &specs), 2);
    assert_eq!(errors(storage, "s3-parts"), []);
    support::assert_nothing_leaks(storage);
}

#[test]
fn chunks_of_32_mib_take_little_of_the_guests_memory() {
    let (server, secrets) = (server(), Secrets::right());
    let mut s3 = backend("s3-32", &server.endpoint(), &secrets);
    s3.limits.memory_bytes = 24 << 20;
    let engine = engine_for(5 * 33 * MIB, vec![s3]);
    let (storage, specs) = (engine.storage(), large(&keys(4), 32 * MIB));
    put_large(storage, &specs, "s3-32");
    assert_eq!(server.objects().unwrap().len(), 4);
    assert_eq!(get_large(storage, &specs), 4);
    let memory = support::health(storage, "s3-32").guest_memory_bytes;
    assert!(memory < 24 << 20, "{memory}");
    assert_eq!(errors(storage, "s3-32"), []);
}

#[test]
fn a_call_has_64_chunks_and_a_lookup_a_whole_prompt() {
    let (server, secrets) = (server(), Secrets::right());
    let engine = engine_for(MIB, vec![backend("s3-64", &server.endpoint(), &secrets)]);
    let (storage, keys) = (engine.storage(), keys(64));
    put_in(storage, &keys, "s3-64");
    assert_eq!(served(&get(storage, &keys)), [1; 64]);
    let prompt = support::keys(200);
    assert_eq!(in_tier(storage, &prompt, "s3-64"), 64);
    put_in(storage, &prompt[64..128], "s3-64");
    put_in(storage, &prompt[128..], "s3-64");
    assert_eq!(in_tier(storage, &prompt, "s3-64"), 200);
    assert_eq!(block_on(storage.remove(&prompt, &Tiers::All)), Ok(200));
    assert!(server.objects().unwrap().is_empty());
}

#[test]
fn many_calls_overlap_and_few_connections_are_made_for_them() {
    let (server, secrets) = (server(), Secrets::right());
    let proxy = Proxy::start(server.addr()).unwrap();
    let mut s3 = backend("s3-many", &format!("http://{}", proxy.addr()), &secrets);
    set(&mut s3, &[("requests", "8")]);
    let engine = engine_for(2 * MIB, vec![s3]);
    let (storage, keys) = (engine.storage(), keys(160));
    for keys in keys.chunks(40) {
        put_in(storage, keys, "s3-many");
    }
    let calls = keys.iter().map(|key| async {
        let found = storage.get(&[support::spec(*key)], &Tiers::All, None).await;
        kvtier_cli::content::verify(*key, &found.chunks[0]).unwrap();
    });
    block_on(join_all(calls));
    assert_eq!(errors(storage, "s3-many"), []);
    // 160 of HEAD, of PUT and of GET.
    let n_connections = proxy.n_connections();
    assert!((2..=16).contains(&n_connections), "{n_connections}");
    support::assert_nothing_leaks(storage);
}

#[test]
fn answers_that_are_not_read_free_their_connections() {
    let (server, secrets) = (server(), Secrets::right());
    let mut s3 = backend("s3-unread", &server.endpoint(), &secrets);
    s3.limits.http_requests_max = 2;
    let engine = engine_for(4 * MIB, vec![s3]);
    let (storage, specs) = (engine.storage(), large(&keys(1), MIB));
    for _ in 0..4 {
        put_large(storage, &specs, "s3-unread");
        let object = std::fs::File::options().write(true).open(only_object(&server)).unwrap();
        object.set_len(2 * MIB as u64).unwrap();
        let found = block_on(storage.get(&specs, &Tiers::All, None));
        assert_eq!(found.misses[0].miss.reason(), "larger_than_buffer");
    }
    put_large(storage, &specs, "s3-unread");
    assert_eq!(get_large(storage, &specs), 1);
}

/// Returns the path that a missing object of a server would have.
fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap()
}

#[test]
fn an_object_that_goes_between_lookup_and_retrieval_is_a_miss() {
    let (server, secrets) = (server(), Secrets::right());
    let s3 = backend("s3-gone", &server.endpoint(), &secrets);
    let engine = engine(vec![s3, support::backend("s3-gone-next", "memory", "MemoryBackend")]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "s3-gone");
    put_in(storage, &keys, "s3-gone-next");
    let plan = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(support::runs(&plan), [(1, 2)]);
    std::fs::remove_file(folder_of(&server.objects().unwrap()[0]).join(key(1).to_string())).unwrap();
    let found = block_on(storage.get(&support::specs(&keys), &Tiers::All, Some(&plan)));
    assert_eq!(served(&found), [1, 2]);
    assert_eq!(errors(storage, "s3-gone"), []);
}
