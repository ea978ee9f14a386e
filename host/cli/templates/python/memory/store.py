"""Chunks in memory, the ones used longest ago evicted first. It knows nothing of components: test it in any Python."""

from collections import OrderedDict

# What a chunk costs beside its bytes, so that many small ones do not outgrow the memory.
OVERHEAD_BYTES = 512


class Store:
    """At most `capacity` bytes of chunks."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.used = 0
        self._chunks = {}
        # The keys that may be evicted, the one used longest ago first.
        self._order = OrderedDict()

    def get(self, key):
        """Returns the bytes of a chunk, or None."""
        return self._chunks.get(key)

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

    def make_room(self, size, keep):
        """Evicts chunks until one of `size` bytes fits, but none of the keys in `keep`. Evicts nothing if that is not
        enough. Reports whether there is room."""
        missing = self.used + size + OVERHEAD_BYTES - self.capacity
        evicted = []
        for key in self._order:
            if missing <= 0:
                break
            if key not in keep:
                evicted.append(key)
                missing -= len(self._chunks[key]) + OVERHEAD_BYTES
        if missing > 0:
            return False
        for key in evicted:
            self._drop(key)
        return True

    def insert(self, key, chunk):
        """Stores a chunk that is absent. `make_room` was called before."""
        self._chunks[key] = chunk
        self._order[key] = None
        self.used += len(chunk) + OVERHEAD_BYTES

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

    def remove(self, keys):
        """Removes chunks, protected or not. Returns how many were present."""
        return sum(self._drop(key) for key in keys)

    def _drop(self, key):
        chunk = self._chunks.pop(key, None)
        if chunk is None:
            return False
        self._order.pop(key, None)
        self.used -= len(chunk) + OVERHEAD_BYTES
        return True
