//! Keys that are rotated while the backend runs.

use std::time::Duration;

use kvtier::BreakerState;

use super::{Secrets, backend, engine, server};
use crate::support::{self, eventually, get, in_tier, key, keys, put_in, served};

const NEW_SECRET: &str = "the/rotated+secret+never+shown";

#[test]
fn a_rotated_key_is_read_again_when_the_store_refuses_the_old_one() {
    let (log, mut server, secrets) = (support::log(), server(), Secrets::right());
    let name = "s3-rotated";
    let mut s3 = backend(name, &server.endpoint(), &secrets);
    s3.breaker.pause = Duration::from_millis(20);
    s3.breaker.pause_max = Duration::from_millis(200);
    let engine = engine(vec![s3]);
    let (storage, keys) = (engine.storage(), keys(3));
    put_in(storage, &keys, name);
    assert_eq!(served(&get(storage, &keys)), [1; 3]);

    server.kill().unwrap();
    server.set_secret_key(NEW_SECRET);
    server.restart().unwrap();
    eventually("the old key is refused repeatedly", || {
        in_tier(storage, &keys, name);
        storage.status().backends.swap_remove(0).reading.opened >= 3
    });
    assert_eq!(support::health(storage, name).lane_restarts, 0, "the files have not changed");

    std::fs::write(secrets.0.path().join("secret_access_key"), NEW_SECRET).unwrap();
    eventually("it serves again", || served(&get(storage, &keys)) == [1; 3]);
    put_in(storage, &[key(9)], name);
    let after = storage.status().backends.swap_remove(0);
    assert_eq!((after.reading.state, after.writing.state), (BreakerState::Closed, BreakerState::Closed));
    assert_eq!(after.health.lane_restarts, 1);
    let lines = log.lines_with(name);
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("secrets have changed") && line.contains(" INFO "))
        .collect();
    assert!(told.len() == 1 && told[0].contains("secrets.secret_access_key"), "{lines:#?}");
    assert!(
        !told[0].contains("access_key_id") && !lines.iter().any(|line| line.contains(NEW_SECRET)),
        "{lines:#?}"
    );
}
