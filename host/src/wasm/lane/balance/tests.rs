use std::pin::Pin;
use std::sync::Mutex;
use std::task::Poll;

use super::*;
use crate::sync::lock;

/// Clocks that the test moves, and a count of how often they are read.
#[derive(Clone, Default)]
struct Manual(Arc<Mutex<Times>>);

#[derive(Default)]
struct Times {
    wall: Duration,
    processor: Duration,
    n_readings: usize,
}

impl Clocks for Manual {
    fn wall(&self) -> Duration {
        let mut times = lock(&self.0);
        times.n_readings += 1;
        times.wall
    }

    fn processor(&self) -> Duration {
        let mut times = lock(&self.0);
        times.n_readings += 1;
        times.processor
    }
}

impl Manual {
    fn compute(&self, time: Duration) {
        let mut times = lock(&self.0);
        times.wall += time;
        times.processor += time;
    }

    fn pass(&self, time: Duration) {
        lock(&self.0).wall += time;
    }

    fn n_readings(&self) -> usize {
        lock(&self.0).n_readings
    }
}

/// A task that the test controls turn by turn, and observes.
struct Bench {
    clocks: Manual,
    has_caller: Arc<AtomicBool>,
    n_exceeded: Arc<AtomicU64>,
    waker: Arc<Mutex<Option<Waker>>>,
    task: Pin<Box<dyn Future<Output = ()>>>,
}

const LIMIT: Duration = Duration::from_secs(1);

impl Bench {
    fn new(mut turn: impl FnMut(&Manual, &Waker) + 'static) -> Self {
        let clocks = Manual::default();
        let has_caller = Arc::new(AtomicBool::new(false));
        let n_exceeded = Arc::new(AtomicU64::new(0));
        let waker = Arc::new(Mutex::new(None));
        let task = {
            let (clocks, waker) = (clocks.clone(), Arc::clone(&waker));
            poll_fn(move |cx| {
                *lock(&waker) = Some(cx.waker().clone());
                turn(&clocks, cx.waker());
                Poll::<()>::Pending
            })
        };
        let is_unattended = {
            let has_caller = Arc::clone(&has_caller);
            move || !has_caller.load(Ordering::Relaxed)
        };
        let exceeds = {
            let n_exceeded = Arc::clone(&n_exceeded);
            move || {
                n_exceeded.fetch_add(1, Ordering::Relaxed);
            }
        };
        let task = Box::pin(weighed(task, clocks.clone(), is_unattended, LIMIT, exceeds));
        Self { clocks, has_caller, n_exceeded, waker, task }
    }

    fn poll(&mut self) {
        assert!(self.task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    fn wake(&self) {
        lock(&self.waker).as_ref().unwrap().wake_by_ref();
    }

    fn exceeds(&self) -> bool {
        self.n_exceeded.load(Ordering::Relaxed) > 0
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn yields_that_wait_for_nothing_are_no_rest() {
    let mut bench = Bench::new(|clocks, waker| {
        clocks.compute(MS / 10);
        waker.wake_by_ref();
    });
    for _ in 0..10_000 {
        bench.poll();
        // Others have the thread for as long again.
        bench.clocks.pass(MS / 10);
    }
    assert!(!bench.exceeds(), "the limit exactly");
    bench.poll();
    assert!(bench.exceeds());
}

#[test]
fn time_before_a_woken_task_is_polled_does_not_count_as_rest() {
    let mut bench = Bench::new(|clocks, _| clocks.compute(2 * MS));
    for _ in 0..1_001 {
        bench.poll();
        bench.clocks.pass(MS);
        bench.wake();
        bench.clocks.pass(50 * MS);
        bench.wake();
    }
    assert!(bench.exceeds());
}

#[test]
fn a_task_that_rests_as_long_as_it_computes_never_exceeds() {
    let mut bench = Bench::new(|clocks, _| clocks.compute(900 * MS));
    for _ in 0..10_000 {
        bench.poll();
        bench.clocks.pass(900 * MS);
        bench.wake();
    }
    assert!(!bench.exceeds());
    bench.poll();
    bench.clocks.pass(Duration::from_hours(1));
    bench.wake();
    // Rest is not saved up.
    for _ in 0..2 {
        bench.poll();
        bench.wake();
    }
    assert!(bench.exceeds());
}

#[test]
fn a_turn_is_weighed_by_its_processor_time_not_by_how_long_it_lasts() {
    let mut bench = Bench::new(|clocks, waker| {
        clocks.compute(MS);
        // The system runs something else.
        clocks.pass(100 * MS);
        waker.wake_by_ref();
    });
    for _ in 0..1_000 {
        bench.poll();
    }
    assert!(!bench.exceeds(), "the limit exactly");
}

#[test]
fn turns_with_a_caller_are_not_weighed_and_read_no_clock() {
    let mut bench = Bench::new(|clocks, waker| {
        clocks.compute(MS);
        waker.wake_by_ref();
    });
    bench.poll();
    bench.has_caller.store(true, Ordering::Relaxed);
    let n_readings = bench.clocks.n_readings();
    bench.wake();
    for _ in 0..10_000 {
        bench.poll();
        bench.wake();
    }
    assert_eq!(bench.clocks.n_readings(), n_readings);
    assert!(!bench.exceeds());
    bench.has_caller.store(false, Ordering::Relaxed);
    for _ in 0..1_002 {
        bench.poll();
    }
    assert!(bench.exceeds(), "as soon as the caller has left");
}
