"""Which chunks are present, and which one is evicted first. It knows nothing of components: test it in any Python."""

from collections import OrderedDict

# Most chunks, whatever their size, so that the index does not outgrow the memory.
ENTRIES_MAX = 100_000


class Lru:
    """At most `capacity` bytes of chunks, each with a value."""

    def __init__(self, capacity, entries_max=ENTRIES_MAX):
        self.capacity = capacity
        self.entries_max = entries_max
        # Bytes and number of the chunks that are present or reserved.
        self.used = 0
        self.n_used = 0
        self._chunks = {}
        # The keys that may be evicted, the one used longest ago first.
        self._order = OrderedDict()

    def get(self, key):
        """Returns the value of a chunk, or None."""
        return self._chunks.get(key, (0, None))[1]

    def leading_run(self, keys):
        """Returns how many of the keys, counted from the first, are present without a gap."""
        for n, key in enumerate(keys):
            if key not in self._chunks:
                return n
        return len(keys)

    def use(self, keys):
        """Counts a use of each key. The first one counts as used last: a tail without its head is of no use."""
        for key in reversed(keys):
            if key in self._order:
                self._order.move_to_end(key)

    def reserve(self, size, keep):
        """Makes room for a chunk of `size` bytes, and evicts none of the keys in `keep`. Returns the values of evicted
        chunks, or None if there is no room; nothing is evicted then. Call `insert` or `release` afterwards."""
        bytes_missing = self.used + size - self.capacity
        entries_missing = self.n_used + 1 - self.entries_max
        evicted = []
        for key in self._order:
            if bytes_missing <= 0 and entries_missing <= 0:
                break
            if key not in keep:
                evicted.append(key)
                bytes_missing -= self._chunks[key][0]
                entries_missing -= 1
        if bytes_missing > 0 or entries_missing > 0:
            return None
        values = [self.remove(key) for key in evicted]
        self.used += size
        self.n_used += 1
        return values

    def release(self, size):
        """Gives back the room that was reserved for a chunk."""
        self.used -= size
        self.n_used -= 1

    def insert(self, key, size, value):
        """Makes a chunk present that was absent, and for which there is reserved room."""
        self._chunks[key] = (size, value)
        self._order[key] = None

    def pin(self, keys):
        """Protects the leading run of the keys from eviction. Returns its length."""
        n = self.leading_run(keys)
        for key in keys[:n]:
            self._order.pop(key, None)
        return n

    def unpin(self, keys):
        """Ends the protection. Returns how many of the keys were protected."""
        pinned = {key for key in keys if key in self._chunks and key not in self._order}
        self._order.update(dict.fromkeys(pinned))
        return len(pinned)

    def remove(self, key):
        """Removes a chunk, protected or not. Returns its value, or None if it was absent."""
        if key not in self._chunks:
            return None
        size, value = self._chunks.pop(key)
        self._order.pop(key, None)
        self.release(size)
        return value
