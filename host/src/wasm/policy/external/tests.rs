//! Secrets in files that the tests write, and names that they move.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;

/// Counts how often an instance was outdated.
#[derive(Default)]
struct Heard(Mutex<u32>);

impl Liveness for Heard {
    fn down(&self, _cause: &str, _retry_in: Duration) {}

    fn up(&self) {}

    fn renewed(&self) {
        *lock(&self.0) += 1;
    }
}

struct Rig {
    external: Arc<ExternalInputs>,
    heard: Arc<Heard>,
    leads_to: Arc<Mutex<IpAddr>>,
    folder: TempDir,
    /// Where it is read.
    runtime: Runtime,
}

impl Rig {
    /// A backend with the secret `password` in a file, `token`, which is optional, in another, and a name to connect
    /// to.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| SecretSource::File(folder.path().join(name));
        write(&folder.path().join("password"), "first");
        let mut config = BackendConfig::new("rig", "rig.wasm", "RigBackend");
        config.config.push(("user".into(), "kv".into()));
        config.secrets.push(("password".into(), file("password")));
        config.secrets.push(("token".into(), SecretSource::Optional(Box::new(file("token")))));
        config.allow.net.push(NetGrant::parse("tcp://cache.example:6379").unwrap());
        let leads_to = Arc::new(Mutex::new("1.1.1.1".parse().unwrap()));
        let resolver = {
            let leads_to = Arc::clone(&leads_to);
            Arc::new(move |_: &str| Ok(vec![*lock(&leads_to)]))
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let heard = Arc::new(Heard::default());
        let liveness = Arc::clone(&heard) as Arc<dyn Liveness>;
        let external = ExternalInputs::new(&config, liveness, runtime.handle().clone(), resolver).unwrap();
        Self { external, heard, leads_to, folder, runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self) -> Vec<(String, String)> {
        self.external.given().settings.clone()
    }

    fn n_renewed(&self) -> u32 {
        *lock(&self.heard.0)
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_secret_that_has_changed_outdates_instances_and_one_that_has_not_does_nothing() {
    let rig = Rig::new();
    let changes = rig.external.changes();
    assert_eq!(rig.settings(), pairs(&[("user", "kv"), ("password", "first")]));
    rig.external.read_again();
    write(&rig.path("password"), "first\n");
    rig.external.read_again();
    assert_eq!((changes.has_changed().unwrap(), rig.n_renewed()), (false, 0));
    write(&rig.path("password"), "second");
    rig.external.read_again();
    assert_eq!((changes.has_changed().unwrap(), rig.n_renewed()), (true, 1));
    assert_eq!(rig.settings(), pairs(&[("user", "kv"), ("password", "second")]));
    assert_eq!(rig.external.given().secrets.hide("login second"), "login [secret]");
}

#[test]
fn an_optional_secret_may_come_and_go() {
    let rig = Rig::new();
    write(&rig.path("token"), "short-lived");
    rig.external.read_again();
    let with = pairs(&[("user", "kv"), ("password", "first"), ("token", "short-lived")]);
    assert_eq!((rig.settings(), rig.n_renewed()), (with, 1));
    fs::remove_file(rig.path("token")).unwrap();
    rig.external.read_again();
    assert_eq!((rig.settings(), rig.n_renewed()), (pairs(&[("user", "kv"), ("password", "first")]), 2));
}

#[test]
fn what_cannot_be_read_changes_nothing() {
    let rig = Rig::new();
    for spoil in
        [fs::remove_file as fn(PathBuf) -> _, |path| fs::write(path, ""), |path| fs::write(path, b"\xff")]
    {
        spoil(rig.path("password")).unwrap();
        write(&rig.path("token"), "new");
        rig.external.read_again();
        rig.external.read_again();
        assert_eq!(lock(&rig.external.complaints).len(), 1);
        assert!(lock(&rig.external.complaints)[0].contains("secrets.password"));
        let expected = pairs(&[("user", "kv"), ("password", "first"), ("token", "new")]);
        assert_eq!((rig.settings(), rig.n_renewed()), (expected, 1), "the other is taken");
    }
}

fn allows(policy: &NetPolicy, address: &str) -> bool {
    policy.allows(address.parse().unwrap())
}

#[test]
fn a_name_that_has_moved_is_followed_as_a_whole_by_every_clone_if_the_rules_allow_it() {
    let texts = ["tcp://cache.example:6379", "tcp://fixed.example:80", "tcp://10.0.0.5:6379"];
    let grants: Vec<_> = texts.iter().map(|text| NetGrant::parse(text).unwrap()).collect();
    let resolver = |leads_to: &'static [&'static str]| {
        move |name: &str| match name {
            "cache.example" => Ok(leads_to.iter().map(|text| text.parse().unwrap()).collect()),
            _ => Ok(vec!["1.1.1.1".parse().unwrap()]),
        }
    };
    let policy = NetPolicy::resolve(&grants, resolver(&["1.2.3.4", "1.2.3.5"])).unwrap();
    let clone = policy.clone();
    let again =
        |leads_to| policy.resolve_again(&grants, resolver(leads_to)).map_err(|error| error.to_string());
    assert_eq!(again(&["1.2.3.5", "1.2.3.4"]), Ok(vec![]), "in another order");
    assert_eq!(again(&["1.2.3.5", "2.2.2.2"]), Ok(vec!["cache.example".to_owned()]));
    assert!(allows(&clone, "2.2.2.2:6379") && allows(&clone, "1.2.3.5:6379"));
    assert!(!allows(&clone, "1.2.3.4:6379"), "the old addresses go");
    assert!(allows(&clone, "1.1.1.1:80") && allows(&clone, "10.0.0.5:6379"), "the other grants stay");
    for (leads_to, why) in [
        (&["3.3.3.3", "10.0.0.6"] as &[_], "resolves to 10.0.0.6, a private address"),
        (&["169.254.169.254"], "a link-local address"),
        (&[], "the name has no address"),
    ] {
        assert!(again(leads_to).unwrap_err().contains(why), "{why}");
        assert!(allows(&clone, "2.2.2.2:6379") && !allows(&clone, "3.3.3.3:6379"), "the old ones stay");
    }
    assert_eq!(again(&["10.0.0.5"]), Ok(vec!["cache.example".to_owned()]), "granted by address");
}

#[test]
fn a_name_that_moves_makes_no_new_instance() {
    let rig = Rig::new();
    let allows = |address: &str| allows(&rig.external.net, address);
    *lock(&rig.leads_to) = "2.2.2.2".parse().unwrap();
    assert!(allows("1.1.1.1:6379") && !allows("2.2.2.2:6379"));
    rig.external.read_again();
    assert!(!allows("1.1.1.1:6379") && allows("2.2.2.2:6379"));
    *lock(&rig.leads_to) = "127.0.0.1".parse().unwrap();
    rig.external.read_again();
    assert!(!allows("127.0.0.1:6379") && allows("2.2.2.2:6379"), "the old ones stay");
    assert!(lock(&rig.external.complaints)[0].contains("127.0.0.1, a loopback address"));
    assert_eq!(rig.n_renewed(), 0);
}

#[test]
fn within_a_pause_nothing_is_read_again_and_after_it_it_is() {
    let rig = Rig::new();
    let mut changes = rig.external.changes();
    let mut wait = || rig.runtime.block_on(changes.changed()).unwrap();
    write(&rig.path("password"), "second");
    rig.external.read_again_later(Duration::from_hours(1));
    wait();
    write(&rig.path("password"), "third");
    while rig.external.is_reading.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    rig.external.read_again_later(Duration::from_hours(1));
    assert!(!rig.external.is_reading.load(Ordering::Acquire), "nothing has begun");
    // As if the pause were over.
    *lock(&rig.external.not_before) = Some(Instant::now());
    rig.external.read_again_later(Duration::ZERO);
    wait();
    assert_eq!(rig.settings(), pairs(&[("user", "kv"), ("password", "third")]));
}
