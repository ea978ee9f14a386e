//! The fault table, each row once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use kvtier_tests::faults::{Times, run, table};
use kvtier_tests::support::EXPIRES;

/// A call expires long before its lane counts as stuck.
const TIMES: Times = Times { deadline: EXPIRES, stall: Duration::from_secs(12) };

/// How many rows run side by side. Most of them wait for a deadline.
const ROWS_AT_ONCE: usize = 24;

#[test]
fn every_fault_costs_one_bounded_call_and_a_counter() {
    let rows = Mutex::new(table().into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..ROWS_AT_ONCE {
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
