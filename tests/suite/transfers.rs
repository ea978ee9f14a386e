//! Deadlines that pass while the host itself moves bytes into a buffer: the caller leaves, and the buffer is reused
//! only when nothing can write into it any more.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use kvtier::__internal::limits::LANE_BYTES_MAX;
use kvtier::{
    BackendConfig, ChunkSpec, Config, Engine, FsAccess, FsGrant, Missing, NetGrant, NetHost, PortRange,
    StorageManager, Tiers, block_on,
};

use crate::lanes::bad;
use crate::limits::greedy;
use crate::support;

use crate::support::{EXPIRES, FOR_EVER};

/// Allocates all memory and fills it, so that a late write would show.
fn fill_the_pool(storage: &StorageManager) -> kvtier::Allocation {
    let specs: Vec<_> = (1000..1064).map(|n| support::spec(support::key(n))).collect();
    let mut allocation = block_on(storage.allocate(&specs)).unwrap();
    assert_eq!(allocation.missing().count(), 64, "every page is free");
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::fill(key, bytes);
    }
    allocation
}

#[test]
fn bytes_that_a_socket_sends_after_the_deadline_reach_no_buffer() {
    let log = support::log();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let mut conduit = support::backend("late_socket", "conduit", "ConduitBackend");
    conduit.config.push(("address".into(), address.to_string()));
    let ports = PortRange { first: address.port(), last: address.port() };
    conduit.allow.net.push(NetGrant::Tcp { host: NetHost::Address(address.ip()), ports });
    conduit.limits.call_timeout = EXPIRES;
    let engine = support::engine(support::config(vec![conduit]));
    let storage = engine.storage();

    // The server sends a part, and the rest on request.
    let (go_on, told) = mpsc::channel::<()>();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        stream.write_all(&[0xee; 100]).unwrap();
        told.recv().unwrap();
        // The other end may have closed.
        let _refused = stream.write_all(&[0xee; 4096]).is_err();
        hang_up(stream);
    });
    let tiers = Tiers::only(["late_socket"]);
    let found = block_on(storage.get(&support::specs(&support::keys(1)), &tiers, None));
    assert_eq!(found.misses[0].miss.reason(), "timeout");
    assert_eq!(support::chunks_in_memory(storage), 0, "the buffer is back when the caller is");
    let mut allocation = fill_the_pool(storage);
    go_on.send(()).unwrap();
    serving.join().unwrap();
    support::eventually("the guest learns that its transfer has ended", || {
        log.heard("late_socket").iter().any(|line| line.starts_with("the transfer ended: "))
    });
    let heard = log.heard("late_socket");
    assert!(heard.iter().any(|line| line.contains("the call has ended")), "{heard:?}");
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::verify(key, bytes).unwrap();
    }
    drop(allocation);
    assert_eq!(support::health(storage, "late_socket").lane_restarts, 0);
    support::assert_nothing_leaks(storage);
}

/// Closes a connection after the other end has.
fn hang_up(mut stream: TcpStream) {
    drop(stream.shutdown(std::net::Shutdown::Write));
    // Waits for bytes or the end; the other end sends nothing.
    drop(stream.read_to_end(&mut Vec::new()));
}

#[test]
fn a_socket_that_delivers_in_time_is_a_transfer_like_any_other() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let mut conduit = support::backend("timely_socket", "conduit", "ConduitBackend");
    conduit.config.push(("address".into(), address.to_string()));
    let ports = PortRange { first: address.port(), last: address.port() };
    conduit.allow.net.push(NetGrant::Tcp { host: NetHost::Address(address.ip()), ports });
    conduit.limits.call_timeout = FOR_EVER;
    let engine = support::engine(support::config(vec![conduit]));
    let storage = engine.storage();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        stream.write_all(&vec![0xee; support::CHUNK_BYTES + kvtier::tier::TRAILER_BYTES]).unwrap();
        hang_up(stream);
    });
    let tiers = Tiers::only(["timely_socket"]);
    let found = block_on(storage.get(&support::specs(&support::keys(1)), &tiers, None));
    // As long as a chunk, but not a chunk.
    assert_eq!(found.misses[0].miss.reason(), "no_trailer");
    serving.join().unwrap();
    support::assert_nothing_leaks(storage);
}

const LARGE: usize = 64 << 20;

fn over_a_directory(backend: BackendConfig, directory: &Path, timeout: Duration) -> Engine {
    let mut backend = backend;
    backend.allow.fs = vec![FsGrant {
        host_dir: directory.to_owned(),
        guest_path: "/data".into(),
        access: FsAccess::ReadWrite,
    }];
    backend.limits.call_timeout = timeout;
    backend.limits.min_bytes_per_s = 1 << 46;
    let pool_size_bytes = 3 * LARGE as u64;
    support::engine(Config { local_cpu: false, pool_size_bytes, ..support::config(vec![backend]) })
}

/// A splice from a file cannot be stopped: it keeps the buffer until it ends.
fn a_late_splice(name: &str, backend: impl Fn() -> BackendConfig) {
    let directory = tempfile::tempdir().unwrap();
    let spec = ChunkSpec { key: support::key(1), size_bytes: LARGE };
    let tiers = Tiers::only([name]);
    let patient = over_a_directory(backend(), directory.path(), FOR_EVER);
    let mut allocation = block_on(patient.storage().allocate(&[spec])).unwrap();
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::fill(key, bytes);
    }
    block_on(patient.storage().put(allocation, &tiers));
    block_on(patient.storage().flush()).unwrap();
    patient.blocking().close().unwrap();

    // When a transfer begins and ends depends on the machine.
    let mut timeouts = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89].map(Duration::from_millis).into_iter().cycle();
    support::eventually("a deadline passes during a transfer", || {
        let timeout = timeouts.next().expect("the iterator cycles");
        let hasty = over_a_directory(backend(), directory.path(), timeout);
        let storage = hasty.storage();
        let found = block_on(storage.get(&[spec], &tiers, Some(&support::promise(1, 1))));
        let was_late = found.misses.first().is_some_and(|missed| missed.miss.reason() == "timeout");
        let is_lent = was_late && storage.status().cpu.allocated_bytes > 0;
        drop(found);
        support::assert_nothing_leaks(storage);
        is_lent
    });

    let patient = over_a_directory(backend(), directory.path(), FOR_EVER);
    let found = block_on(patient.storage().get(&[spec], &tiers, None));
    kvtier_cli::content::verify(spec.key, &found.chunks[0]).unwrap();
}

#[test]
fn a_buffer_stays_with_the_file_transfer_that_outlives_its_deadline() {
    a_late_splice("late_file", || {
        let mut fs = support::backend("late_file", "fs", "FsBackend");
        fs.config.push(("root".into(), "/data".into()));
        fs
    });
}

#[test]
fn a_buffer_stays_with_the_blocking_file_transfer_that_outlives_its_deadline() {
    a_late_splice("late_blocking", || support::backend("late_blocking", "probe", "SpliceBackend"));
}

#[test]
fn chunks_too_long_for_a_stretch_on_a_lanes_thread_move_whole() {
    // A read with its trailer, which hashes all of it, and streams of several stretches.
    const SIZE: usize = 5 * LANE_BYTES_MAX + 1;
    let mut backends = vec![bad("long-streams", "StreamBackend", &[]), greedy("long-reads", "read")];
    for backend in &mut backends {
        backend.limits.call_timeout = FOR_EVER;
    }
    let config = Config { pool_size_bytes: 64 << 20, local_cpu: false, ..support::config(backends) };
    let engine = support::engine(config);
    let storage = engine.storage();
    let n_bytes = (SIZE + kvtier::tier::TRAILER_BYTES) as u64;
    let spec = ChunkSpec { key: kvtier::ChunkKey { hi: 1, lo: n_bytes }, size_bytes: SIZE };
    for name in ["long-streams", "long-reads"] {
        let mut allocation = block_on(storage.allocate(&[spec])).unwrap();
        for Missing { key, bytes, .. } in allocation.missing() {
            kvtier_cli::content::fill(key, bytes);
        }
        block_on(storage.put(allocation, &Tiers::only([name])));
        block_on(storage.flush()).unwrap();
        let counts = support::counted(storage, name);
        assert_eq!((counts.puts, counts.errors.len()), (1, 0), "{name}");
    }
    let found = block_on(storage.get(&[spec], &Tiers::only(["long-streams"]), None));
    kvtier_cli::content::verify(spec.key, &found.chunks[0]).unwrap();
}
