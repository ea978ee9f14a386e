//! Blocking work of a call, on the threads of its backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use wasmtime::{Result, format_err};

/// Runs blocking work on a thread that holds up no lane, as soon as the backend has a slot for it.
pub(super) async fn off_thread<T: Send + 'static>(
    slots: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let slot = slots.acquire_owned().await;
    let work = move || {
        let _slot = slot;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| format_err!("{error}"))
}

/// As [`off_thread`], for work whose result takes memory: the slot is held until the result is here.
pub(super) async fn off_thread_to_here<T: Send + 'static>(
    slots: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let slot = slots.acquire_owned().await;
    // If this future is dropped, the thread still has the slot.
    let work = move || (work(), slot);
    let (result, _slot) = tokio::task::spawn_blocking(work).await.map_err(|error| format_err!("{error}"))?;
    Ok(result)
}

/// Runs pieces of blocking work on up to `n_threads` threads, as many as pay off, and returns their results in order.
/// `work` is called with the number of a piece.
///
/// Each thread that begins starts another one while there is work left. A change of threads takes as long as reading
/// a small file from the page cache. So one or two threads finish quick work before others arrive, and all soon share
/// work that waits for a disk.
pub(super) async fn all_off_thread<T: Send + 'static>(
    slots: Arc<Semaphore>,
    n_threads: usize,
    n_pieces: usize,
    work: impl Fn(usize) -> T + Send + Sync + 'static,
) -> Result<Vec<T>> {
    if n_pieces == 0 {
        return Ok(Vec::new());
    }
    let n_threads = n_threads.clamp(1, n_pieces);
    let (answers, mut answered) = mpsc::channel(n_threads);
    let slot = Arc::clone(&slots).acquire_owned().await.map_err(|error| format_err!("{error}"))?;
    let io_workers = Arc::new(IoWorkers { next: AtomicUsize::new(0), n_pieces, slots, work });
    tokio::task::spawn_blocking(move || io_workers.join(slot, n_threads - 1, &answers));
    let mut all = Vec::with_capacity(n_pieces);
    while let Some(some) = answered.recv().await {
        all.extend(some);
    }
    if all.len() < n_pieces {
        return Err(format_err!("a thread that moved bytes has panicked"));
    }
    all.sort_unstable_by_key(|(piece, _)| *piece);
    Ok(all.into_iter().map(|(_, answer)| answer).collect())
}

struct IoWorkers<W> {
    next: AtomicUsize,
    n_pieces: usize,
    slots: Arc<Semaphore>,
    work: W,
}

/// The results of one thread, with the number of each piece of work.
type Answers<T> = mpsc::Sender<Vec<(usize, T)>>;

impl<T: Send + 'static, W: Fn(usize) -> T + Send + Sync + 'static> IoWorkers<W> {
    /// Works until nothing is left. `n_others` threads may still be started.
    fn join(self: Arc<Self>, slot: OwnedSemaphorePermit, mut n_others: usize, answers: &Answers<T>) {
        let mut some = Vec::new();
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= self.n_pieces {
                break;
            }
            if n_others > 0 && piece + 1 < self.n_pieces && self.spawn_worker(n_others - 1, answers) {
                // That thread starts the others.
                n_others = 0;
            }
            some.push((piece, (self.work)(piece)));
        }
        drop(slot);
        // The receiver is gone if the call is. There is room for the results of every thread.
        let _unheard = answers.try_send(some).is_err();
    }

    /// Starts one more thread, if the backend has a slot for it.
    fn spawn_worker(self: &Arc<Self>, n_others: usize, answers: &Answers<T>) -> bool {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { return false };
        let (io_workers, answers) = (Arc::clone(self), answers.clone());
        tokio::task::spawn_blocking(move || io_workers.join(slot, n_others, &answers));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier, Mutex};
    use std::thread::ThreadId;

    use tokio::sync::Semaphore;

    use super::all_off_thread;

    fn run<T: Send + 'static>(
        n_pieces: usize,
        n_threads: usize,
        work: impl Fn(usize) -> T + Send + Sync + 'static,
    ) -> wasmtime::Result<Vec<T>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let slots = Arc::new(Semaphore::new(4));
        let answers = runtime.block_on(all_off_thread(Arc::clone(&slots), n_threads, n_pieces, work));
        drop(runtime);
        assert_eq!(slots.available_permits(), 4, "all slots are given back");
        answers
    }

    #[test]
    fn every_piece_is_done_once_and_answers_stand_in_order() {
        for n_threads in [1, 2, 16] {
            let done = Arc::new(Mutex::new(Vec::new()));
            let noted = Arc::clone(&done);
            let answers = run(100, n_threads, move |piece| {
                noted.lock().unwrap().push(piece);
                piece * 2
            });
            assert_eq!(answers.unwrap(), (0..100).map(|piece| piece * 2).collect::<Vec<_>>());
            let mut done = done.lock().unwrap().clone();
            done.sort_unstable();
            assert_eq!(done, (0..100).collect::<Vec<_>>());
        }
        assert_eq!(run(0, 3, |_| ()).unwrap(), []);
    }

    #[test]
    fn work_that_waits_is_done_by_as_many_as_there_are_slots() {
        // Each waits until three others have come.
        let barrier = Barrier::new(4);
        let threads = run(4, 16, move |_| {
            barrier.wait();
            std::thread::current().id()
        });
        let threads: std::collections::HashSet<ThreadId> = threads.unwrap().into_iter().collect();
        assert_eq!(threads.len(), 4);
    }

    #[test]
    fn a_panic_is_an_error_and_no_hang() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let answers = run(10, 3, |piece| assert!(piece != 5));
        std::panic::set_hook(hook);
        assert!(answers.is_err());
    }
}
