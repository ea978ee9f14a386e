"""The logic of the store: `make test`."""

import unittest

from store import OVERHEAD_BYTES, Store


def of(n_chunks):
    """Returns a store with room for chunks of 100 bytes."""
    return Store(n_chunks * (100 + OVERHEAD_BYTES))


def put(store, key, keep=frozenset()):
    if not store.make_room(100, keep):
        return False
    store.insert(key, bytes(100))
    return True


class StoreTest(unittest.TestCase):
    def test_the_chunk_used_longest_ago_makes_room(self):
        store = of(2)
        self.assertTrue(put(store, 1) and put(store, 2))
        store.use([1])
        self.assertTrue(put(store, 3))
        self.assertEqual([store.get(key) is not None for key in (1, 2, 3)], [True, False, True])

    def test_the_head_of_a_call_counts_as_used_last(self):
        store = of(2)
        put(store, 1), put(store, 2)
        store.use([1, 2])
        put(store, 3)
        self.assertEqual(store.leading_run([1, 2]), 1)

    def test_a_chunk_of_the_same_call_makes_no_room(self):
        store = of(1)
        self.assertTrue(put(store, 1))
        self.assertFalse(put(store, 2, keep={1}))
        self.assertEqual(store.leading_run([1]), 1)

    def test_pinned_chunks_stay(self):
        store = of(2)
        put(store, 1), put(store, 2)
        self.assertEqual(store.pin([1, 2, 3]), 2)
        self.assertFalse(put(store, 3))
        self.assertEqual(store.unpin([1, 1, 3]), 1)
        self.assertEqual(store.unpin([1]), 0)
        self.assertTrue(put(store, 3))
        self.assertEqual(store.leading_run([2]), 1)

    def test_removed_chunks_are_gone_and_take_no_room(self):
        store = of(2)
        put(store, 1), put(store, 2)
        store.pin([1])
        self.assertEqual(store.remove([1, 1, 2, 3]), 2)
        self.assertEqual((store.used, store.leading_run([1])), (0, 0))


if __name__ == "__main__":
    unittest.main()
