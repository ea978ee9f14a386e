//! A process that forks while an engine runs: every operation in the child returns at once and reports the fork, and
//! the parent's backends notice nothing.

use std::process::{Command, Stdio};

use insta::assert_snapshot;

#[test]
fn a_child_is_told_at_once_that_the_backends_are_its_parents() {
    let program = env!("CARGO_BIN_EXE_kvtier-fork");
    let output = Command::new(program).stdin(Stdio::null()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_snapshot!(printed, @r#"
    child: asks
    contains: 2
    contains_pinned: 2
    unpin: 0
    get: 2 chunks, misses ["forked", "forked", "forked", "forked"]
    contains_each: [false, true]
    fetch_into: forked, found
    receipt: [Dropped(Forked)]
    put: 1 in the CPU tier, dropped [1, 1]
    allocate: no more than there is room for
    flush: error: puts are still pending: 2 chunks for `stuck`
    remove: error: tier `memory` could not remove: unavailable after fork: the backends run in the process that built the engine; call `Engine::abandon` and build another; 2 were removed elsewhere
    clear: memory stuck
    recreate: error: unavailable after fork: the backends run in the process that built the engine; call `Engine::abandon` and build another
    errors: [("contains", "forked", 3)]
    close: error: not closed cleanly: `memory`: unavailable after fork: the backends run in the process that built the engine; call `Engine::abandon` and build another, `stuck`: unavailable after fork: the backends run in the process that built the engine; call `Engine::abandon` and build another
    abandon: returned
    ended: well
    child: drops
    drop: returned
    ended: well
    child: abandons and builds
    own engine: in the backend: 3
    own engine: close: returned
    ended: well
    parent: in the backend: 4
    parent: served: 4
    parent: pinned: 0
    "#);
}
