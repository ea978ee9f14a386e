"""LMCache's memory objects, as kvtier sees them: layouts and loans. Shared by both adapters for LMCache."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kvtier._kvtier import Memory


class ObjectLayout:
    """The layout of the memory objects that hold one full chunk, or one layer of a full chunk.

    An object holds one tensor per group of layers that have the same shape, one after the other, usually one. Each has
    the number of tokens as one of its extents; objects of trailing partial chunks have fewer tokens.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        dtypes: Sequence[Any],
        fmt: Any,
        *,
        also_fmt: Any = None,
        token_dim: int,
        takes_lists: bool,
        takes_partial: bool,
    ) -> None:
        """Makes a layout.

        `shapes` (as `torch.Size`) and `dtypes` are those of a full object's tensors. `fmt` is the `MemoryFormat` of
        objects; `also_fmt` is another one under which LMCache may offer the same bytes. `token_dim` is the extent
        that counts tokens. `takes_lists` says whether LMCache's `allocate` gets lists of shapes and dtypes,
        `takes_partial` whether an object can be made smaller after it has been allocated.
        """
        self._sizes = list(shapes)
        self.shapes = [tuple(shape) for shape in shapes]
        self.dtypes = list(dtypes)
        self.fmt = fmt
        self._fmts = (fmt,) if also_fmt is None else (fmt, also_fmt)
        self._token_dim = token_dim
        self._takes_lists = takes_lists
        self._takes_partial = takes_partial
        self.n_tokens = self.shapes[0][token_dim]
        self._bytes_per_token = [
            _product(shape) // shape[token_dim] * dtype.itemsize
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        ]
        self.token_bytes = sum(self._bytes_per_token)
        self.n_bytes = self.token_bytes * self.n_tokens

    def __str__(self) -> str:
        tensors = ", ".join(f"{dtype}{list(shape)}" for dtype, shape in zip(self.dtypes, self.shapes, strict=True))
        return f"{getattr(self.fmt, 'name', self.fmt)} {tensors}"

    def accepts(self, obj: Any) -> bool:
        """Reports whether an object has this layout: of a full chunk, or of a partial one if those can be read."""
        meta = obj.meta
        if meta.fmt not in self._fmts:
            return False
        shapes = getattr(meta, "shapes", None) or [meta.shape]
        dtypes = getattr(meta, "dtypes", None) or [meta.dtype]
        if dtypes != self.dtypes or len(shapes) != len(self.shapes):
            return False
        n_tokens = shapes[0][self._token_dim] if len(shapes[0]) > self._token_dim else 0
        if not 0 < n_tokens <= self.n_tokens or (n_tokens < self.n_tokens and not self._takes_partial):
            return False
        same = all(tuple(shape) == self._shape(i, n_tokens) for i, shape in enumerate(shapes))
        return same and obj.get_size() == n_tokens * self.token_bytes

    def allocate(self, cpu_backend: Any) -> Any:
        """Returns an object for a full chunk out of LMCache's pool, with one reference, or None if there is no room.

        Evicts what LMCache can evict. Does not wait.
        """
        shapes: Any = list(self._sizes)
        dtypes: Any = list(self.dtypes)
        if not self._takes_lists:
            shapes, dtypes = shapes[0], dtypes[0]
        return cpu_backend.allocate(shapes, dtypes, self.fmt, busy_loop=False)

    def trim(self, obj: Any, n_bytes: int) -> bool:
        """Makes a full object one of `n_bytes`, the length of what was read into it.

        Reports whether there is a partial chunk of that length. The memory stays as large as it was.
        """
        if n_bytes == self.n_bytes:
            return True
        n_tokens, rest = divmod(n_bytes, self.token_bytes)
        if rest or not 0 < n_tokens < self.n_tokens or not self._takes_partial:
            return False
        meta = obj.meta
        shapes = [type(meta.shape)(self._shape(i, n_tokens)) for i in range(len(self.shapes))]
        meta.shape = shapes[0]
        if getattr(meta, "shapes", None) is not None:
            # Objects of one allocation share the list, so it is replaced and not changed.
            meta.shapes = shapes
        if hasattr(obj, "group_prefix_sum"):
            ends = [0]
            for token_bytes in self._bytes_per_token:
                ends.append(ends[-1] + token_bytes * n_tokens)
            obj.group_prefix_sum = ends
        return True

    def _shape(self, index: int, n_tokens: int) -> tuple[int, ...]:
        shape = list(self.shapes[index])
        shape[self._token_dim] = n_tokens
        return tuple(shape)


class Loans:
    """Objects of LMCache whose memory kvtier reads or fills at the moment.

    Each loan holds one reference of the object, which is returned when the transfer has ended, on the thread
    `kvtier-events`.
    """

    def __init__(self, on_torn: Callable[[bytes], object] | None = None) -> None:
        """Makes an empty set of loans. `on_torn` is told the key of a put whose object was freed while it was read."""
        self._on_torn = on_torn
        self._changed = threading.Condition()
        self._n = 0
        self._n_ended = 0

    def __len__(self) -> int:
        return self._n

    def lend(self, obj: Any, key: bytes | None = None) -> Memory:
        """Returns an object's memory for one transfer: `get_size()` bytes at `data_ptr`. `key` is that of a put."""
        obj.ref_count_up()
        with self._changed:
            self._n += 1
        loan = (obj, key)
        try:
            return Memory(obj.data_ptr, obj.get_size(), loan, self._ended)
        except BaseException:
            self._ended(loan)
            raise

    def wait_for_all(self, timeout_s: float) -> bool:
        """Waits until nothing is lent. Reports whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._n == 0, timeout_s)

    def wait_for_one(self, deadline: float) -> bool:
        """Waits until a loan ends, at most until `deadline` (of `time.monotonic`). Reports whether one ended.

        Does not wait if nothing is lent.
        """
        with self._changed:
            if self._n == 0:
                return False
            before = self._n_ended
            return self._changed.wait_for(lambda: self._n_ended != before, max(0.0, deadline - time.monotonic()))

    def _ended(self, loan: tuple[Any, bytes | None]) -> None:
        obj, key = loan
        try:
            # LMCache 0.3.x evicts all layers of a chunk if one of them has no other user.
            if key is not None and self._on_torn is not None and not obj.is_valid():
                self._on_torn(key)
            obj.ref_count_down()
        finally:
            with self._changed:
                self._n -= 1
                self._n_ended += 1
                self._changed.notify_all()


class KeptObjects:
    """Objects that were found for LMCache, and stay in memory until it has read them.

    Each has one reference. An object that is pinned is kept until the last pin is given back, at most for
    `pinned_s`; one that is not, until it has been read once, at most for `unpinned_s`.
    """

    def __init__(
        self,
        bytes_max: int,
        *,
        pinned_s: float = 300.0,
        unpinned_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bytes_max = bytes_max
        self._pinned_s = pinned_s
        self._unpinned_s = unpinned_s
        self._clock = clock
        self._lock = threading.Lock()
        self._n_bytes = 0
        self._kept: dict[bytes, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def has_room(self, n_bytes: int) -> bool:
        """Reports whether there is room for objects of so many bytes. Drops what has expired."""
        self._sweep()
        return self._n_bytes + n_bytes <= self.bytes_max

    def keep(self, key: bytes, obj: Any) -> None:
        """Keeps an object, and takes over one of its references."""
        with self._lock:
            old = self._kept.get(key)
            if old is None:
                self._kept[key] = _Kept(obj, obj.get_size(), self._clock() + self._unpinned_s)
                self._n_bytes += obj.get_size()
                return
        obj.ref_count_down()

    def has(self, key: bytes, *, pin: bool = False) -> bool:
        """Reports whether an object is kept, and optionally pins it."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept.expires_at <= self._clock() or not kept.obj.is_valid():
                return False
            kept.n_pins += int(pin)
            lives_s = self._pinned_s if pin else self._unpinned_s
            kept.expires_at = max(kept.expires_at, self._clock() + lives_s)
            return True

    def unpin(self, key: bytes) -> bool:
        """Gives back one pin. Reports whether there was one."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept.n_pins == 0:
                return False
            kept.n_pins -= 1
            if kept.n_pins > 0:
                return True
            self._forget(key)
        kept.obj.ref_count_down()
        return True

    def take(self, key: bytes) -> Any:
        """Returns an object with one reference for the caller, or None."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            if not kept.obj.is_valid():
                # LMCache 0.3.x frees all layers of a chunk if one of them has no other user.
                self._forget(key)
                return None
            if kept.n_pins == 0:
                self._forget(key)
            else:
                kept.obj.ref_count_up()
            return kept.obj

    def drop(self, key: bytes) -> None:
        """Gives back the reference of an object, pinned or not."""
        with self._lock:
            kept = self._forget(key) if key in self._kept else None
        if kept is not None:
            kept.obj.ref_count_down()

    def drop_all(self) -> None:
        """Gives back all references."""
        with self._lock:
            kept = list(self._kept.values())
            self._kept.clear()
            self._n_bytes = 0
        for each in kept:
            each.obj.ref_count_down()

    def _sweep(self) -> None:
        now = self._clock()
        with self._lock:
            expired = [key for key, kept in self._kept.items() if kept.expires_at <= now]
            dropped = [self._forget(key) for key in expired]
        for kept in dropped:
            kept.obj.ref_count_down()

    def _forget(self, key: bytes) -> "_Kept":
        kept = self._kept.pop(key)
        self._n_bytes -= kept.n_bytes
        return kept


@dataclass
class _Kept:
    obj: Any
    n_bytes: int
    expires_at: float
    n_pins: int = 0


def _product(extents: Sequence[int]) -> int:
    product = 1
    for extent in extents:
        product *= extent
    return product
