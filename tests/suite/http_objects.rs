//! HTTP objects that a backend makes and does not send: number, texts, fields and bodies.

use kvtier::__internal::limits::{
    HTTP_BODY_PIECE_BYTES, HTTP_FIELDS_BYTES_MAX, HTTP_OBJECTS_PER_REQUEST, HTTP_OBJECTS_UNGRANTED_MAX,
    HTTP_URL_PART_BYTES_MAX, HTTP_WORD_BYTES_MAX,
};
use kvtier::{BackendConfig, HttpScheme, NetGrant, NetHost};

use crate::lanes::engine;
use crate::limits::{greedy, replaced, take};
use crate::support;

/// A greedy class that may send requests, one at a time.
fn granted(name: &str, takes: &str) -> BackendConfig {
    let mut backend = greedy(name, takes);
    let host = NetHost::Address("127.0.0.1".parse().unwrap());
    backend.allow.net.push(NetGrant::Http { scheme: HttpScheme::Http, host, port: 1 });
    backend.limits.http_requests_max = 1;
    backend
}

fn named(takes: &str, what: &str) -> String {
    format!("{}-{what}", takes.replace('.', "-"))
}

/// Takes `n` in one instance and expects success, then takes `n + 1` in another and expects a trap.
fn assert_traps_beyond(takes: &str, n: usize, set: impl Fn(&str, &str) -> BackendConfig, words: &str) {
    let (at, beyond) = (named(takes, "at"), named(takes, "beyond"));
    let working = engine(set(&at, takes));
    assert_eq!(take(working.storage(), &at, n as u64), None, "{takes}");
    let trapping = engine(set(&beyond, takes));
    assert_eq!(take(trapping.storage(), &beyond, n as u64 + 1), Some("trap"), "{takes}");
    let reason = replaced(trapping.storage(), &beyond, 1);
    assert!(reason.contains(words), "{takes}: {reason}");
    assert_eq!(take(trapping.storage(), &beyond, 0), None, "the next instance works");
}

#[test]
fn a_backend_without_a_grant_holds_a_few_http_objects() {
    const MAX: usize = HTTP_OBJECTS_UNGRANTED_MAX;
    for (takes, n_max) in [
        ("fields-0.2", MAX),
        ("fields-0.3", MAX),
        ("options-0.3", MAX),
        ("responses-0.2", MAX - 1),
        ("requests-0.2", MAX - 1),
        ("requests-0.3", MAX - 1),
        ("large-requests-0.2", MAX - 1),
        ("large-requests-0.3", MAX - 1),
        // A request and its body each; the headers of the last one need one more place.
        ("bodies-0.2", MAX / 2),
    ] {
        let words = format!("more than the {MAX} HTTP objects of a backend without a grant for HTTP");
        assert_traps_beyond(takes, n_max, greedy, &words);
    }
}

#[test]
fn a_backend_with_a_grant_holds_as_many_as_its_requests_need() {
    for takes in ["fields-0.2", "fields-0.3"] {
        let set = |name: &str, takes: &str| granted(&format!("granted-{name}"), takes);
        let (at, beyond) =
            (format!("granted-{}", named(takes, "at")), format!("granted-{}", named(takes, "beyond")));
        let working = engine(set(&named(takes, "at"), takes));
        assert_eq!(take(working.storage(), &at, HTTP_OBJECTS_PER_REQUEST as u64), None, "{takes}");
        let trapping = engine(set(&named(takes, "beyond"), takes));
        let storage = trapping.storage();
        assert_eq!(take(storage, &beyond, HTTP_OBJECTS_PER_REQUEST as u64 + 1), Some("trap"), "{takes}");
        let reason = replaced(storage, &beyond, 1);
        assert!(reason.contains("limits.http_requests_max is reached"), "{reason}");
    }
}

#[test]
fn the_texts_of_a_request_are_short() {
    for (takes, n_bytes_max) in [
        ("method-0.2", HTTP_WORD_BYTES_MAX),
        ("method-0.3", HTTP_WORD_BYTES_MAX),
        ("scheme-0.2", HTTP_WORD_BYTES_MAX),
        ("scheme-0.3", HTTP_WORD_BYTES_MAX),
        ("path-0.2", HTTP_URL_PART_BYTES_MAX),
        ("path-0.3", HTTP_URL_PART_BYTES_MAX),
        ("authority-0.2", HTTP_URL_PART_BYTES_MAX),
        ("authority-0.3", HTTP_URL_PART_BYTES_MAX),
    ] {
        let name = named(takes, "text");
        let engine = engine(granted(&name, takes));
        assert_eq!(take(engine.storage(), &name, n_bytes_max as u64), None, "{takes}");
        assert_eq!(
            take(engine.storage(), &name, n_bytes_max as u64 + 1),
            Some("invalid_argument"),
            "{takes}"
        );
        assert_eq!(support::health(engine.storage(), &name).lane_restarts, 0, "refused, not ended");
    }
}

#[test]
fn fields_are_bounded_by_what_they_take_of_memory() {
    // WASI 0.2 has no error code for it.
    for (takes, refusal) in [("field-bytes-0.2", "trap"), ("field-bytes-0.3", "other")] {
        let ungranted = named(takes, "ungranted");
        let engine_without = engine(greedy(&ungranted, takes));
        let each = HTTP_FIELDS_BYTES_MAX / HTTP_OBJECTS_UNGRANTED_MAX;
        assert_eq!(take(engine_without.storage(), &ungranted, each as u64 - 100), None, "{takes}");
        assert_eq!(take(engine_without.storage(), &ungranted, each as u64), Some(refusal), "{takes}");
        let name = named(takes, "granted");
        let engine_with = engine(granted(&name, takes));
        assert_eq!(take(engine_with.storage(), &name, HTTP_FIELDS_BYTES_MAX as u64 - 100), None, "{takes}");
        assert_eq!(
            take(engine_with.storage(), &name, HTTP_FIELDS_BYTES_MAX as u64),
            Some(refusal),
            "{takes}"
        );
    }
}

#[test]
fn what_is_held_shows_in_the_status_and_goes_with_the_instance() {
    let engine = engine(greedy("shows", "bodies-0.2"));
    let storage = engine.storage();
    let held = || support::health(storage, "shows").host_memory_bytes;
    let before = held();
    assert_eq!(take(storage, "shows", 4), None);
    assert!(held() >= before + 4 * 2 * HTTP_BODY_PIECE_BYTES as u64, "{before} {}", held());
    let metric = engine.storage().metrics();
    assert!(metric.contains(&format!("kvtier_host_memory_bytes{{tier=\"shows\"}} {}", held())), "{metric}");
    assert_eq!(take(storage, "shows", 100), Some("trap"));
    replaced(storage, "shows", 1);
    support::eventually("the memory of the old instance comes back", || held() <= before);
}

#[test]
fn a_request_without_a_grant_is_refused_when_it_is_sent() {
    let engine = engine(greedy("sends", "sent"));
    let storage = engine.storage();
    for _ in 0..3 {
        assert_eq!(take(storage, "sends", 0), Some("other"));
    }
    let denial = support::health(storage, "sends").last_denial.unwrap();
    assert!(denial.contains("an HTTP request to"), "{denial}");
    assert_eq!(support::health(storage, "sends").lane_restarts, 0);
}

#[test]
fn what_a_guest_says_of_its_own_requests_is_not_kept() {
    for (takes, words) in [("words-0.3", "cannot read back"), ("response-0.3", "does not make responses")] {
        let name = named(takes, "kept");
        let engine = engine(granted(&name, takes));
        assert_eq!(take(engine.storage(), &name, 1 << 20), Some("trap"), "{takes}");
        let reason = replaced(engine.storage(), &name, 1);
        assert!(reason.contains(words), "{takes}: {reason}");
    }
}
