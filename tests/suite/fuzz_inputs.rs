//! Replays inputs of the fuzz targets: those that once broke something, and those that fuzzing starts from.

use std::fs;
use std::future::Future as _;
use std::path::PathBuf;
use std::task::{Context, Waker};
use std::time::Duration;

use kvtier::{Config, OnFull, Tiers, block_on};
use kvtier_cli::commands::inspect;
use kvtier_tests::fuzz::{self, TARGETS};

use crate::scripted::{Scripted, engine_over};
use crate::support::{assert_nothing_leaks, config, eventually, get, keys, metadata, put, specs};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// Runs every input of a folder that has a folder for each target; returns their number.
fn replay(name: &str) -> usize {
    let mut n_inputs = 0;
    for entry in fs::read_dir(folder(name)).unwrap() {
        let of_target = entry.unwrap().path();
        let name = of_target.file_name().unwrap().to_str().unwrap();
        let target = fuzz::target(name).unwrap_or_else(|| panic!("there is no target `{name}`"));
        for input in fs::read_dir(&of_target).unwrap() {
            let path = input.unwrap().path();
            println!("{}", path.display());
            (target.run)(&fs::read(&path).unwrap());
            n_inputs += 1;
        }
    }
    n_inputs
}

#[test]
fn inputs_that_once_broke_something_do_no_more() {
    assert!(replay("crashes") > 0);
}

#[test]
fn every_target_takes_its_seeds() {
    assert!(replay("seeds") >= TARGETS.len());
}

#[test]
fn every_target_has_a_name_of_its_own_and_seeds() {
    for target in &TARGETS {
        assert_eq!(fuzz::target(target.name).unwrap().name, target.name);
        assert!(folder("seeds").join(target.name).is_dir(), "{}", target.name);
    }
    assert!(fuzz::target("nothing").is_none());
}

/// Fifteen types, each a pair of the previous one, the innermost with a name of 16 KiB: half a gigabyte of text.
#[test]
fn a_class_whose_types_double_is_shown_cut_and_refused() {
    let input = fs::read(folder("crashes/class/doubling")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, fuzz::class_component(&input).unwrap()).unwrap();
    let inspection = inspect::look(file.path()).unwrap();
    let text = inspect::render(&inspection);
    assert!(text.contains('…') && text.len() < 64 << 10, "{} bytes", text.len());
    assert!(inspect::ensure_usable(&inspection).is_err());
}

#[test]
fn seeds_of_the_target_class_are_components_with_a_class() {
    for name in ["methods", "types", "names"] {
        let component = fuzz::class_component(&fs::read(folder("seeds/class").join(name)).unwrap()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, component).unwrap();
        let inspection = inspect::look(file.path()).unwrap();
        assert_eq!(inspection.classes.len(), 1, "{name}");
        assert!(inspection.classes[0].methods.len() == 9, "{name}");
    }
}

/// The caller holds all memory, and a put in flight also holds a chunk. When the put ends, nothing is released.
#[test]
fn an_allocation_does_not_go_on_waiting_for_a_put_that_released_nothing() {
    let tier = Scripted::gated(1);
    let config = Config {
        blocking_timeout: Duration::from_hours(1),
        pool_size_bytes: 2 * 4096,
        on_full: OnFull::Drop,
        ..config(vec![])
    };
    let engine = engine_over(config, metadata(), &[("slow", &tier)]);
    let storage = engine.storage();
    let keys = keys(3);
    put(storage, &keys[..2], &Tiers::All);
    let held = get(storage, &keys[..2]).chunks;
    assert_eq!(held.len(), 2);
    tier.wait_for_puts(1);

    let (storage_there, specs) = (storage.clone(), specs(&keys[2..]));
    let mut allocating = Box::pin(async move { storage_there.allocate(&specs).await.unwrap().n_covered() });
    let mut context = Context::from_waker(Waker::noop());
    assert!(allocating.as_mut().poll(&mut context).is_pending(), "the put may still release memory");
    tier.open_gate();
    block_on(storage.flush()).unwrap();
    let waiting = std::thread::spawn(move || block_on(allocating));
    eventually("the allocation returns", || waiting.is_finished());
    assert_eq!(waiting.join().unwrap(), 0);
    drop(held);
    assert_nothing_leaks(storage);
}
