//! One operation at a time on the chunk of a key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::ChunkKey;

/// Locks by key, in a store whose operations await. A put, a removal and an eviction of one key exclude each other:
/// otherwise the end of a removal could take away what a put has just stored.
///
/// Calls wake each other here, which needs the feature `inter-task-wakeup`.
#[derive(Debug, Default)]
pub struct KeyLocks {
    /// The keys that are locked.
    held: RefCell<HashMap<ChunkKey, Held>>,
}

#[derive(Debug, Default)]
struct Held {
    /// The chunk may be on its way in or out.
    changes: bool,
    /// The calls that wait for the key.
    waiting: Vec<Waker>,
}

impl KeyLocks {
    /// Waits until `key` is free, and holds it until the guard is dropped.
    pub async fn lock(&self, key: ChunkKey) -> KeyGuard<'_> {
        self.hold(key, true).await
    }

    /// As [`Self::lock`], for an operation that only looks at the chunk.
    pub async fn look(&self, key: ChunkKey) -> KeyGuard<'_> {
        self.hold(key, false).await
    }

    /// Holds `key` until the guard is dropped; returns `None` if another operation holds it.
    pub fn try_lock(&self, key: ChunkKey) -> Option<KeyGuard<'_>> {
        let mut held = self.held.borrow_mut();
        if held.contains_key(&key) {
            return None;
        }
        held.insert(key, Held { changes: true, waiting: Vec::new() });
        Some(KeyGuard { locks: self, key })
    }

    /// Reports whether the chunk of `key` may be on its way in or out.
    pub fn is_changing(&self, key: ChunkKey) -> bool {
        self.held.borrow().get(&key).is_some_and(|held| held.changes)
    }

    async fn hold(&self, key: ChunkKey, changes: bool) -> KeyGuard<'_> {
        poll_fn(|cx| {
            let mut held = self.held.borrow_mut();
            if let Some(held) = held.get_mut(&key) {
                held.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            held.insert(key, Held { changes, waiting: Vec::new() });
            Poll::Ready(())
        })
        .await;
        KeyGuard { locks: self, key }
    }
}

/// Holds a key until it is dropped.
#[derive(Debug)]
pub struct KeyGuard<'a> {
    locks: &'a KeyLocks,
    key: ChunkKey,
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        let held = self.locks.held.borrow_mut().remove(&self.key).unwrap_or_default();
        // All of them: one that was cancelled would swallow the only call.
        held.waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use futures_util;

    use crate::ChunkKey;

    use super::KeyLocks;

    const A: ChunkKey = ChunkKey { hi: 0, lo: 1 };
    const B: ChunkKey = ChunkKey { hi: 0, lo: 2 };

    #[test]
    fn a_key_is_held_once_and_other_keys_are_free() {
        let locks = KeyLocks::default();
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(locks.lock(A)).poll(&mut cx) else { panic!("A is free") };
        let mut second = pin!(locks.lock(A));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert!(pin!(locks.lock(B)).poll(&mut cx).is_ready());
        assert!(locks.try_lock(A).is_none() && locks.try_lock(B).is_some());
        drop(first);
        let Poll::Ready(second) = second.as_mut().poll(&mut cx) else { panic!("A is free again") };
        assert!(locks.try_lock(A).is_none());
        drop(second);
        assert!(locks.try_lock(A).is_some());
    }

    #[test]
    fn a_look_excludes_changes_and_does_not_count_as_one() {
        let locks = KeyLocks::default();
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(look) = pin!(locks.look(A)).poll(&mut cx) else { panic!("A is free") };
        assert!(locks.try_lock(A).is_none() && !locks.is_changing(A));
        drop(look);
        let _change = locks.try_lock(A);
        assert!(locks.is_changing(A) && !locks.is_changing(B));
    }

    #[test]
    fn waiting_operations_are_woken() {
        let locks = KeyLocks::default();
        let order = RefCell::new(Vec::new());
        let work = async |name: u32| {
            let _guard = locks.lock(A).await;
            order.borrow_mut().push(name);
            // Let the others run while the key is held.
            let mut once = true;
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::take(&mut once) { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            order.borrow_mut().push(name);
        };
        let all = futures_util::future::join_all([work(1), work(2), work(3)]);
        let mut all = pin!(all);
        let mut cx = Context::from_waker(Waker::noop());
        let mut n_polls = 0;
        while all.as_mut().poll(&mut cx).is_pending() {
            n_polls += 1;
            assert!(n_polls < 100, "no operation was woken");
        }
        let order = order.borrow();
        assert_eq!(order.len(), 6);
        assert!(order.chunks(2).all(|pair| pair[0] == pair[1]), "{order:?}");
    }
}
