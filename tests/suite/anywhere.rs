//! Operations wherever a caller makes them: in tasks of tokio or of another executor, on bare threads. None may need
//! anything from the executor, or hang because tokio has stopped its own primitives for the rest of a task's turn.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures::executor::block_on as foreign_block_on;
use kvtier::{Config, Engine, EngineBuilder, Operation, Salt, Tiers, block_on};
use tokio::runtime::{Builder, Runtime};

use crate::support::{self, CHUNK_SIZE, backend, config, counted, misbehaving};

/// How often each operation is made in one place; tokio stops a task after 128 steps.
const N_ROUNDS: u32 = 1_000;

/// The work that a place runs.
type Work = Box<dyn FnOnce() + Send>;
/// A place to make operations in: runs the work, and returns when it is done.
type Place = fn(Work);

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn on_a_plain_thread(work: Work) {
    work();
}

fn on_a_worker(work: Work) {
    let runtime = multi_thread();
    runtime.block_on(runtime.spawn(async { work() })).unwrap();
}

fn in_a_task_of_a_current_thread_runtime(work: Work) {
    let runtime = current_thread();
    runtime.block_on(runtime.spawn(async { work() })).unwrap();
}

fn in_a_local_task(work: Work) {
    tokio::task::LocalSet::new().block_on(&current_thread(), async { work() });
}

fn in_block_on_of_a_runtime(work: Work) {
    multi_thread().block_on(async { work() });
}

fn in_block_on_of_a_handle(work: Work) {
    let runtime = current_thread();
    runtime.handle().block_on(async { work() });
}

fn on_a_blocking_thread(work: Work) {
    let runtime = multi_thread();
    runtime.block_on(runtime.spawn_blocking(work)).unwrap();
}

/// Uses smol's executor, without its reactor.
fn in_a_task_of_smols(work: Work) {
    let executor = async_executor::Executor::new();
    kvtier::block_on(executor.run(executor.spawn(async { work() })));
}

const PLACES: [(&str, Place); 8] = [
    ("plain thread", on_a_plain_thread),
    ("worker", on_a_worker),
    ("current-thread runtime", in_a_task_of_a_current_thread_runtime),
    ("local task", in_a_local_task),
    ("Runtime::block_on", in_block_on_of_a_runtime),
    ("Handle::block_on", in_block_on_of_a_handle),
    ("spawn_blocking", on_a_blocking_thread),
    ("smol", in_a_task_of_smols),
];

/// Makes operations in a place. A place in which they hang fails the test rather than hanging it.
fn make(name: &str, place: Place, work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let running = thread::spawn(move || {
        place(Box::new(move || {
            work();
            done.send(()).unwrap();
        }));
    });
    match is_done.recv_timeout(Duration::from_mins(10)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs: {name}"),
        // It panicked, or has ended.
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            running.join().unwrap_or_else(|_| panic!("failed: {name}"));
        }
    }
}

fn tokens(round: u32) -> Vec<u32> {
    (0..2 * CHUNK_SIZE as u32).map(|token| token + round % 7).collect()
}

/// Makes every operation as a blocking call. Each retrieval moves bytes of the backend.
fn blocking_round(engine: &Engine, round: u32) {
    let (blocking, tokens) = (engine.blocking(), tokens(round));
    let prompt = engine.prompt(&tokens, &Salt::none());
    let allocation = blocking.allocate(&prompt).unwrap();
    assert_eq!(allocation.n_missing(), 2);
    blocking.store(allocation, &Tiers::All);
    block_on(engine.storage().flush()).unwrap();
    assert_eq!(blocking.lookup(&prompt).unwrap().n_tokens, tokens.len());
    let plan = blocking.lookup_pinned(&prompt, "id").unwrap();
    assert_eq!(blocking.retrieve(&prompt, Some(&plan)).unwrap().n_tokens, tokens.len());
    blocking.unpin("id");
    assert_eq!(blocking.retrieve(&prompt, None).unwrap().n_tokens, tokens.len());
    assert_eq!(blocking.remove(&prompt).unwrap(), 2);
    block_on(engine.storage().clear(&Tiers::All));
}

/// Makes the same operations as futures.
async fn awaited_round(engine: &Engine, round: u32) {
    let tokens = tokens(round);
    let prompt = engine.prompt(&tokens, &Salt::none());
    let allocation = engine.allocate(&prompt).await.unwrap();
    engine.store(allocation, &Tiers::All).await;
    engine.storage().flush().await.unwrap();
    assert_eq!(engine.lookup(&prompt).await.unwrap().n_tokens, tokens.len());
    let plan = engine.lookup_pinned(&prompt, "id").await.unwrap();
    assert_eq!(engine.retrieve(&prompt, Some(&plan)).await.unwrap().n_tokens, tokens.len());
    engine.unpin("id").await;
    engine.storage().expire_pins().await;
    assert_eq!(engine.retrieve(&prompt, None).await.unwrap().n_tokens, tokens.len());
    assert_eq!(engine.remove(&prompt).await.unwrap(), 2);
    engine.storage().clear(&Tiers::All).await;
}

/// Builds an engine whose chunks are only in the backend.
fn over_memory() -> Engine {
    support::engine(Config { local_cpu: false, ..config(vec![backend("memory", "memory", "MemoryBackend")]) })
}

#[test]
fn blocking_calls_return_wherever_they_are_made() {
    for (name, place) in PLACES {
        let engine = over_memory();
        make(name, place, move || {
            for round in 0..N_ROUNDS {
                blocking_round(&engine, round);
            }
            // Each of these makes an instance. A task's budget is long used up by now.
            for _ in 0..50 {
                block_on(engine.storage().recreate("memory")).unwrap();
            }
            for _ in 0..N_ROUNDS {
                engine.blocking().close().unwrap();
            }
        });
    }
}

#[test]
fn futures_get_on_under_an_executor_that_blocks_a_task_of_another() {
    for (name, place) in PLACES {
        let engine = over_memory();
        make(name, place, move || {
            for round in 0..N_ROUNDS {
                foreign_block_on(awaited_round(&engine, round));
            }
            foreign_block_on(async {
                engine.storage().recreate("memory").await.unwrap();
                engine.close().await.unwrap();
            });
        });
    }
}

#[test]
fn an_engine_can_be_built_wherever_it_is_needed() {
    for (name, place) in PLACES {
        make(name, place, || {
            let spend = support::engine(config(vec![]));
            for _ in 0..200 {
                // Each wait uses up part of the task's budget.
                spend.blocking().close().unwrap();
            }
            let config = config(vec![backend("built", "memory", "MemoryBackend")]);
            let engine = EngineBuilder::new(config.clone(), support::metadata()).build_blocking().unwrap();
            engine.blocking().close().unwrap();
            foreign_block_on(EngineBuilder::new(config, support::metadata()).build()).unwrap();
        });
    }
}

#[test]
fn deadlines_end_blocking_calls_wherever_they_are_made() {
    for (name, place) in PLACES {
        let mut hangs = misbehaving("hangs", "HangBackend", &[("in", "contains")]);
        hangs.limits.call_timeout = Duration::from_millis(20);
        hangs.breaker.failures = 0;
        let engine = support::engine(config(vec![hangs]));
        make(name, place, move || {
            for round in 0..3 {
                let tokens = tokens(round);
                let found = engine.blocking().lookup(&engine.prompt(&tokens, &Salt::none())).unwrap();
                assert_eq!(found.n_tokens, 0);
            }
            assert_eq!(counted(engine.storage(), "hangs").n_errors(Operation::Contains, "timeout"), 3);
        });
    }
}

#[test]
fn tasks_that_await_operations_side_by_side_all_get_on() {
    let engine = over_memory();
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let runtime = current_thread();
        let tasks: Vec<_> = (0..7)
            .map(|round| {
                let engine = engine.clone();
                runtime.spawn(async move {
                    let tokens = tokens(round);
                    let prompt = engine.prompt(&tokens, &Salt::none());
                    let allocation = engine.allocate(&prompt).await.unwrap();
                    engine.store(allocation, &Tiers::All).await;
                    engine.storage().flush().await.unwrap();
                    for _ in 0..N_ROUNDS / 7 {
                        assert_eq!(engine.retrieve(&prompt, None).await.unwrap().n_tokens, tokens.len());
                    }
                })
            })
            .collect();
        runtime.block_on(futures::future::join_all(tasks)).into_iter().for_each(|task| task.unwrap());
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_mins(5)).unwrap();
}
