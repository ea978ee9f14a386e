//! Waiting for memory (`host/src/memory/signal.rs`, unchanged): no release is missed. The checker reports a deadlock if
//! a thread waits forever.

use std::time::{Duration, Instant};

use kvtier_loom::memory::signal::ReleaseSignal;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// A provider with room for one buffer at most.
#[derive(Default)]
struct Provider {
    has_room: Mutex<bool>,
    released: ReleaseSignal,
}

impl Provider {
    fn allocate(&self) -> bool {
        std::mem::take(&mut *self.has_room.lock().unwrap())
    }

    fn release(&self) {
        *self.has_room.lock().unwrap() = true;
        self.released.notify();
    }
}

/// The checker's clock never reaches this.
fn never() -> Instant {
    Instant::now() + Duration::from_hours(1)
}

fn allocate_or_block(provider: &Provider) {
    let mut waiter = provider.released.waiter();
    while !provider.allocate() {
        assert!(waiter.wait_until(never()));
    }
}

#[test]
fn a_blocked_allocation_hears_the_release() {
    loom::model(|| {
        let provider = Arc::new(Provider::default());
        let releaser = Arc::clone(&provider);
        let releaser = thread::spawn(move || releaser.release());
        allocate_or_block(&provider);
        releaser.join().unwrap();
    });
}

#[test]
fn two_blocked_allocations_pass_one_buffer_on() {
    loom::model(|| {
        let provider = Arc::new(Provider::default());
        provider.release();
        let other = Arc::clone(&provider);
        let other = thread::spawn(move || {
            allocate_or_block(&other);
            other.release();
        });
        allocate_or_block(&provider);
        provider.release();
        other.join().unwrap();
    });
}

#[test]
fn an_awaited_allocation_hears_the_release() {
    loom::model(|| {
        let provider = Arc::new(Provider::default());
        let releaser = Arc::clone(&provider);
        let releaser = thread::spawn(move || releaser.release());
        loom::future::block_on(async {
            let mut waiter = provider.released.waiter();
            while !provider.allocate() {
                waiter.released().await;
            }
        });
        releaser.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn broken_a_waiter_that_registers_after_its_attempt_misses_the_release() {
    loom::model(|| {
        let provider = Arc::new(Provider::default());
        let releaser = Arc::clone(&provider);
        let releaser = thread::spawn(move || releaser.release());
        while !provider.allocate() {
            assert!(provider.released.waiter().wait_until(never()));
        }
        releaser.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn broken_memory_that_is_released_outside_a_lock_can_be_missed() {
    loom::model(|| {
        let provider = Arc::new((AtomicBool::new(false), ReleaseSignal::new()));
        let releaser = Arc::clone(&provider);
        let releaser = thread::spawn(move || {
            releaser.0.store(true, Ordering::Release);
            releaser.1.notify();
        });
        let mut waiter = provider.1.waiter();
        while !provider.0.load(Ordering::Acquire) {
            assert!(waiter.wait_until(never()));
        }
        releaser.join().unwrap();
    });
}
