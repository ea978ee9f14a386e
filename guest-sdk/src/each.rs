//! The chunks of a call, at once.

use futures_util::StreamExt;
use futures_util::stream;

use crate::ChunkKey;

/// Chunks of one call that [`each`] works on at once. A call rarely has more; if it does, the host's limits on calls in
/// flight would be reached next.
pub const AT_ONCE_MAX: usize = 64;

/// Calls `work` with the index and the key of every chunk, runs the futures at once, and returns their results in the
/// order of `keys`.
///
/// ```
/// # use kvtier_guest::{ChunkKey, each};
/// # futures::executor::block_on(async {
/// # let keys = [ChunkKey { hi: 0, lo: 5 }, ChunkKey { hi: 0, lo: 7 }];
/// let sums = each(&keys, async |index, key| key.lo + u64::from(index)).await;
/// assert_eq!(sums, [5, 8]);
/// # });
/// ```
pub async fn each<R>(keys: &[ChunkKey], work: impl AsyncFn(u32, ChunkKey) -> R) -> Vec<R> {
    each_bounded(keys, AT_ONCE_MAX, work).await
}

/// As [`each`], with at most `at_once` chunks at once (at least one).
pub async fn each_bounded<R>(
    keys: &[ChunkKey],
    at_once: usize,
    work: impl AsyncFn(u32, ChunkKey) -> R,
) -> Vec<R> {
    let work = &work;
    stream::iter(keys.iter().zip(0_u32..))
        .map(|(key, index)| work(index, *key))
        .buffered(at_once.max(1))
        .collect()
        .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::executor::block_on;

    use super::{each, each_bounded};
    use crate::ChunkKey;

    fn keys(n: u64) -> Vec<ChunkKey> {
        (0..n).map(|lo| ChunkKey { hi: 1, lo }).collect()
    }

    /// Pending once, so that the others get their turn.
    async fn turn() {
        let mut first = true;
        std::future::poll_fn(move |cx| {
            if std::mem::take(&mut first) {
                cx.waker().wake_by_ref();
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(())
        })
        .await;
    }

    fn running_at_once(n_keys: u64, at_once: Option<usize>) -> usize {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let work = async |_: u32, _: ChunkKey| {
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            turn().await;
            running.set(running.get() - 1);
        };
        let keys = keys(n_keys);
        match at_once {
            Some(n) => block_on(each_bounded(&keys, n, work)),
            None => block_on(each(&keys, work)),
        };
        most.get()
    }

    #[test]
    fn results_stand_in_the_order_of_the_keys() {
        let results = block_on(each(&keys(40), async |index, key| {
            if index % 2 == 0 {
                turn().await;
            }
            (index, key.lo)
        }));
        assert_eq!(results, (0..40).map(|i| (i, u64::from(i))).collect::<Vec<_>>());
    }

    #[test]
    fn chunks_overlap_up_to_the_bound() {
        assert_eq!(running_at_once(40, None), 40);
        assert_eq!(running_at_once(40, Some(7)), 7);
        assert_eq!(running_at_once(3, Some(7)), 3);
        assert_eq!(running_at_once(3, Some(0)), 1);
    }
}
