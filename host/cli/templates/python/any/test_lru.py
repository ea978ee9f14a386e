"""The logic of the index: `make test`."""

import unittest

from lru import Lru


def put(lru, key, keep=frozenset()):
    """Stores a chunk of 100 bytes whose value is its key. Returns the values of evicted chunks, or None."""
    evicted = lru.reserve(100, keep)
    if evicted is not None:
        lru.insert(key, 100, key)
    return evicted


class LruTest(unittest.TestCase):
    def test_the_chunk_used_longest_ago_makes_room(self):
        lru = Lru(200)
        self.assertEqual([put(lru, 1), put(lru, 2)], [[], []])
        lru.use([1])
        self.assertEqual(put(lru, 3), [2])
        self.assertEqual([lru.get(key) for key in (1, 2, 3)], [1, None, 3])

    def test_the_head_of_a_call_counts_as_used_last(self):
        lru = Lru(200)
        put(lru, 1), put(lru, 2)
        lru.use([1, 2])
        self.assertEqual(put(lru, 3), [2])

    def test_a_chunk_of_the_same_call_makes_no_room(self):
        lru = Lru(100)
        put(lru, 1)
        self.assertIsNone(put(lru, 2, keep={1}))
        self.assertEqual(lru.leading_run([1]), 1)

    def test_reserved_room_is_used_until_it_is_released(self):
        lru = Lru(200)
        put(lru, 1)
        self.assertEqual(lru.reserve(100, ()), [])
        self.assertIsNone(lru.reserve(200, ()))
        lru.release(100)
        self.assertEqual(lru.reserve(200, ()), [1])

    def test_the_number_of_chunks_is_bounded_too(self):
        lru = Lru(1000, entries_max=2)
        self.assertEqual([put(lru, 1), put(lru, 2), put(lru, 3)], [[], [], [1]])

    def test_pinned_chunks_stay(self):
        lru = Lru(200)
        put(lru, 1), put(lru, 2)
        self.assertEqual(lru.pin([1, 2, 3]), 2)
        self.assertIsNone(put(lru, 3))
        self.assertEqual((lru.unpin([1, 1, 3]), lru.unpin([1])), (1, 0))
        self.assertEqual(put(lru, 3), [1])

    def test_removed_chunks_are_gone_and_take_no_room(self):
        lru = Lru(200)
        put(lru, 1), put(lru, 2)
        lru.pin([1])
        self.assertEqual([lru.remove(key) for key in (1, 1, 2)], [1, None, 2])
        self.assertEqual((lru.used, lru.n_used, lru.leading_run([1])), (0, 0, 0))


if __name__ == "__main__":
    unittest.main()
