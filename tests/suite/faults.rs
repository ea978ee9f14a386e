//! The fault table, each row once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use kvtier_tests::faults::{Times, run, table};

/// Long enough for calls that work, on a busy machine; short enough to wait for those that do not.
const TIMES: Times = Times { deadline: Duration::from_millis(400), stall: Duration::from_millis(1200) };

#[test]
fn every_fault_costs_one_bounded_call_and_a_counter() {
    // Most rows wait for a deadline, so they are run side by side.
    let rows = Mutex::new(table().into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let Some(fault) = rows.lock().unwrap().next() else { return };
                    if catch_unwind(AssertUnwindSafe(|| run(&fault, TIMES))).is_err() {
                        failed.lock().unwrap().push(fault.to_string());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "rows that failed: {failed:#?}");
}
