"""Pins per key, made of kvtier's pins per lookup."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable


class LookupPins:
    """Pins per key, made of kvtier's pins per lookup.

    A lookup pins all keys that it found under one id, and kvtier takes that id back as a whole. Runtimes give keys
    back one by one. This class counts: an id is given back when each of its keys has been given back. Keys that
    never are given back expire after `expiry_s`, and beyond `lookups_max` the oldest lookups are given back.
    """

    def __init__(
        self,
        unpin: Callable[[str], object],
        *,
        prefix: str = "lookup",
        expiry_s: float = 300.0,
        lookups_max: int = 65536,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unpin = unpin
        self._prefix = prefix
        self._expiry_s = expiry_s
        self._lookups_max = lookups_max
        self._clock = clock
        self._lock = threading.Lock()
        self._n_lookups = 0
        # Lookup id -> when it expires, keys with how often they are still held.
        self._held: OrderedDict[str, tuple[float, dict[Hashable, int]]] = OrderedDict()
        # Key -> lookup ids that hold it, oldest first, once for each time.
        self._holders: dict[Hashable, OrderedDict[str, None]] = {}

    def new_id(self) -> str:
        """Returns an id for the next lookup, which no lookup of this process had."""
        with self._lock:
            self._n_lookups += 1
            return f"{self._prefix}-{id(self):x}-{self._n_lookups}"

    def hold(self, lookup_id: str, keys: Iterable[Hashable]) -> None:
        """Takes note of the keys that were pinned under an id. Without keys there is nothing to note."""
        now = self._clock()
        with self._lock:
            counts: dict[Hashable, int] = {}
            if lookup_id in self._held:
                # Again under the same id: kvtier gives both back at once.
                counts = self._held.pop(lookup_id)[1]
            for key in keys:
                counts[key] = counts.get(key, 0) + 1
                self._holders.setdefault(key, OrderedDict())[lookup_id] = None
            if counts:
                self._held[lookup_id] = (now + self._expiry_s, counts)
            over = self._take_expired(now)
        self._give_back(over)

    def release(self, key: Hashable) -> bool:
        """Gives back one pin of a key, the oldest. Reports whether there was one."""
        with self._lock:
            holders = self._holders.get(key)
            if not holders:
                return False
            lookup_id = next(iter(holders))
            counts = self._held[lookup_id][1]
            counts[key] -= 1
            if counts[key] > 0:
                return True
            del counts[key]
            self._drop_holder(key, lookup_id)
            if counts:
                return True
            del self._held[lookup_id]
        self._give_back([lookup_id])
        return True

    def release_lookup(self, lookup_id: str) -> bool:
        """Gives back all that one lookup still holds. Reports whether it held anything."""
        with self._lock:
            found = self._take(lookup_id)
        if found:
            self._give_back([lookup_id])
        return found

    def release_all(self) -> None:
        """Gives back everything."""
        with self._lock:
            ids = list(self._held)
            self._held.clear()
            self._holders.clear()
        self._give_back(ids)

    def __len__(self) -> int:
        """How many lookups hold keys."""
        return len(self._held)

    def _take_expired(self, now: float) -> list[str]:
        # All lookups have the same time to live, so the first is the first to expire.
        over = []
        while self._held:
            lookup_id, (expires_at, _) = next(iter(self._held.items()))
            if expires_at > now and len(self._held) <= self._lookups_max:
                break
            self._take(lookup_id)
            over.append(lookup_id)
        return over

    def _take(self, lookup_id: str) -> bool:
        held = self._held.pop(lookup_id, None)
        if held is None:
            return False
        for key in held[1]:
            self._drop_holder(key, lookup_id)
        return True

    def _drop_holder(self, key: Hashable, lookup_id: str) -> None:
        holders = self._holders[key]
        holders.pop(lookup_id, None)
        if not holders:
            del self._holders[key]

    def _give_back(self, lookup_ids: Iterable[str]) -> None:
        for lookup_id in lookup_ids:
            self._unpin(lookup_id)
