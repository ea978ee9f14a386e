//! The backend's logic, without a host: `cargo test`. Files exist in components only, and `kvtier check` tests them.

use kvtier_guest::testing::{block_on, init, keys};

use super::*;
use crate::file::{File, name, parse, temporary};

fn backend<const N: usize>(settings: [(&str, &str); N]) -> Result<NewBackend, Error> {
    NewBackend::new(init(settings))
}

#[test]
fn names_of_files_are_read_back() {
    let key = keys(1)[0];
    let name = name(&key, 17);
    assert_eq!(parse(&name), Some(File::Chunk { key, number: 17 }));
    assert_eq!(parse(&temporary(&name)), Some(File::Rest));
}

#[test]
fn files_of_others_are_left_alone() {
    let key = "0123456789abcdef0123456789abcdef";
    for other in [
        "",
        "notes.txt",
        "notes.tmp",
        key,
        &format!("{key}-"),
        &format!("{}-1", &key[1..]),
        &format!("{key}-x"),
    ] {
        assert_eq!(parse(other), None, "{other}");
    }
}

#[test]
fn nothing_is_present_at_first() {
    let backend = backend([("root", "/data/"), ("capacity", "1KiB")]).unwrap();
    assert_eq!(block_on(backend.contains(&keys(3), Pinning::Pin)), Ok(0));
    assert_eq!(block_on(backend.remove(&keys(3))), Ok(0));
}

#[test]
fn settings_that_are_unknown_or_useless_are_refused() {
    for setting in [("capacity", "0"), ("capacities", "1GiB")] {
        let refused = backend([setting]);
        assert!(
            matches!(refused, Err(Error::InvalidConfig(_))),
            "{setting:?}"
        );
    }
}
