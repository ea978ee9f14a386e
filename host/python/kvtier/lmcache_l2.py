"""kvtier as an L2 adapter of LMCache's multi-process mode (0.5.x).

LMCache's server loads it as an adapter of type `plugin`:

    {"type": "plugin", "module_path": "kvtier.lmcache_l2", "class_name": "KvtierL2Adapter", "adapter_params": {
       "backends": "disk",
       "disk.module_path": "/opt/kv/fs.wasm", "disk.class_name": "FsBackend",
       "disk.config.root": "/data", "disk.allow.fs": ["/var/cache/kv:/data:rw"]}}

Two further parameters are the adapter's own: `max_capacity_gb`, up to which LMCache fills it before it evicts (without
it LMCache does not evict, and the backend's own capacity counts), and `namespace`, a text that separates what must not
be mixed up: LMCache's keys have the model's name and not, for instance, the element type of its KV cache.

Backends read and fill LMCache's L1 memory in place. No thread belongs to the adapter: completions come on the thread
`kvtier-events`, which writes LMCache's event file descriptors.
"""

import importlib.metadata
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from kvtier._adapter import Guard, LookupPins, check_interface, guarded, open_storage
from kvtier._errors import ConfigError, RemoveError
from kvtier._kvtier import Memory, Miss, Receipt, Storage
from kvtier._types import StorageMetadata

try:
    from lmcache.lmcache_native import Bitmap
    from lmcache.v1.distributed.internal_api import L2StoreResult
    from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
    from lmcache.v1.platform import create_event_notifier
except ImportError as error:
    raise ImportError(
        f"kvtier.lmcache_l2 is loaded by the server of LMCache 0.5.x, which cannot be imported here: {error}"
    ) from error

log = logging.getLogger("kvtier.lmcache_l2")

_TESTED = ("0.5.6",)
_METHODS = {
    "__init__": ("max_capacity_bytes",),
    "get_store_event_fd": (),
    "get_lookup_and_lock_event_fd": (),
    "get_load_event_fd": (),
    "submit_store_task": ("keys", "objects"),
    "pop_completed_store_tasks": (),
    "submit_lookup_and_lock_task": ("keys", "group_layout_descs"),
    "query_lookup_and_lock_result": ("task_id",),
    "submit_unlock": ("keys",),
    "submit_load_task": ("keys", "objects"),
    "query_load_result": ("task_id",),
    "delete": ("keys",),
    "report_status": (),
    "close": (),
    "_notify_keys_stored": ("keys", "sizes"),
    "_notify_keys_accessed": ("keys",),
    "_notify_keys_deleted": ("keys", "sizes"),
}

_OWN_PARAMETERS = ("max_capacity_gb", "namespace")
# Part of every key, so it is the same for all models: larger objects are not stored.
_OBJECT_BYTES_MAX = 1 << 30
# Sizes of stored chunks that are remembered, some 300 bytes each.
_SIZES_MAX = 1 << 20
# How long closing waits for transfers that are late, after the storage has closed.
_LATE_WAIT_S = 10.0


class _Task:
    """A store or a load: over when its answer has come and nobody uses the memory of its objects any more."""

    def __init__(
        self, task_id: int, keys: Sequence[Any], objects: Sequence[Any], end: "Callable[[_Task], None]"
    ) -> None:
        self.task_id = task_id
        # Called once, when the task is over.
        self.end = end
        self.keys = list(keys)
        # Held so that their memory stays where it is.
        self.objects = list(objects)
        self.sizes = [obj.get_size() for obj in objects]
        self.is_released = False
        # Which of the keys were stored or loaded, or None while that is not known.
        self.done: list[bool] | None = None


class KvtierL2Adapter(L2AdapterInterface):  # type: ignore[misc]
    """An L2 adapter of LMCache whose storage are sandboxed components.

    All methods may be called from any thread, return at once (but `delete` and `close`), and raise nothing: what
    fails is reported as a failed store, a cleared bit, or a key that is not there.
    """

    def __init__(self, config: Mapping[str, Any], l1_memory_desc: Any = None) -> None:
        """Makes the adapter out of `adapter_params`. Called by LMCache, whose server does not start if it fails.

        Raises `ConfigError` for a wrong parameter, `RuntimeMismatch` for an LMCache with another interface, and
        `BuildError` where `kvtier.on_load_error` is `fail` and a backend does not load.
        """
        check_interface("LMCache", importlib.metadata.version("lmcache"), _TESTED, L2AdapterInterface, _METHODS)
        super().__init__(max_capacity_bytes=_capacity_bytes(config))
        namespace = str(config.get("namespace") or "")
        self._guard = Guard(log)
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._is_closed = False
        self._n_tasks = 0
        self._transfers: dict[int, _Task] = {}
        self._stored: dict[int, Any] = {}
        self._found: dict[int, Any] = {}
        self._loaded: dict[int, Any] = {}
        # One entry per chunk that this process has stored, oldest first, and at most `_SIZES_MAX`; LMCache's accounting
        # wants to hear the sizes again. It keeps counting chunks that are forgotten here.
        self._sizes: dict[Any, int] = {}
        self._storage: Storage = open_storage(
            config,
            where="adapter_params",
            metadata=StorageMetadata(
                model_name="lmcache-l2",
                # "lmcache l2 v1" is the version of the mapping from LMCache's keys to kvtier's (`_key_name`).
                layout=f"lmcache l2 v1 {namespace}".rstrip(),
                chunk_bytes_max=_OBJECT_BYTES_MAX,
            ),
            own=_OWN_PARAMETERS,
        )
        self._pins = LookupPins(self._storage.futures.unpin, prefix="lmcache-l2")
        self._store_event = create_event_notifier()
        self._lookup_event = create_event_notifier()
        self._load_event = create_event_notifier()

    @property
    def storage(self) -> Storage:
        """The storage, for its status and metrics."""
        return self._storage

    def get_store_event_fd(self) -> int:
        """Returns the file descriptor that is written when a store has ended."""
        return int(self._store_event.fileno())

    def get_lookup_and_lock_event_fd(self) -> int:
        """Returns the file descriptor that is written when a lookup has ended."""
        return int(self._lookup_event.fileno())

    def get_load_event_fd(self) -> int:
        """Returns the file descriptor that is written when a load has ended."""
        return int(self._load_event.fileno())

    # --- Store ---

    def submit_store_task(self, keys: Sequence[Any], objects: Sequence[Any]) -> int:
        """Starts to store objects, and returns the task's id.

        The objects' memory is in use until `pop_completed_store_tasks` has returned the task.
        """
        return self._start_transfer(keys, objects, self._start_store, self._store_ended)

    def pop_completed_store_tasks(self) -> dict[int, Any]:
        """Returns the results of the stores that have ended since the last call, by task.

        A store is successful if at least one backend has each of its objects. Its bytes are those that were stored.
        """
        with self._lock:
            ended, self._stored = self._stored, {}
        return ended

    def _start_store(self, task: _Task, packed: bytes, memory: list[Memory]) -> None:
        receipt = self._storage.put_lent(packed, memory)
        receipt.add_done_callback(lambda receipt: self._answered(task, self._stored_of(receipt, task)))

    def _stored_of(self, receipt: Receipt, task: _Task) -> list[bool]:
        try:
            return list(receipt.stored(0))
        except Exception as error:
            self._failed("submit_store_task", error)
            return [False] * len(task.keys)

    def _store_ended(self, task: _Task) -> None:
        assert task.done is not None
        stored = [(key, size) for key, size, is_done in zip(task.keys, task.sizes, task.done, strict=True) if is_done]
        with self._lock:
            new = [(key, size) for key, size in dict(stored).items() if key not in self._sizes]
            self._sizes.update(new)
            while len(self._sizes) > _SIZES_MAX:
                del self._sizes[next(iter(self._sizes))]
            self._stored[task.task_id] = L2StoreResult(all(task.done), sum(size for _, size in stored))
        if new:
            self._notify(self._notify_keys_stored, [key for key, _ in new], [size for _, size in new])
        self._signal(self._store_event)

    # --- Lookup ---

    def submit_lookup_and_lock_task(self, keys: Sequence[Any], group_layout_descs: Any) -> int:
        """Starts to look keys up, and returns the task's id. Keys that are found are pinned until `submit_unlock`."""
        task_id = self._next_id()
        try:
            self._look_up(task_id, list(keys))
        except Exception as error:
            self._failed("submit_lookup_and_lock_task", error)
            self._lookup_ended(task_id, len(keys), [])
        return task_id

    def query_lookup_and_lock_result(self, task_id: int) -> Any:
        """Returns which keys were found, as a bitmap, once; None before the lookup has ended and afterwards."""
        with self._lock:
            return self._found.pop(task_id, None)

    def submit_unlock(self, keys: Sequence[Any]) -> None:
        """Gives back one pin of each key. Takes effect in the background."""
        self._unlock(keys)

    @guarded(None)
    def _unlock(self, keys: Sequence[Any]) -> None:
        if len(self._pins) > 0 and keys and not self._is_closed:
            for key in _split(self._keys(keys)):
                self._pins.release(key)

    def _look_up(self, task_id: int, keys: list[Any]) -> None:
        """Pins the leading run; looks which of the others are there; and pins these.

        Most lookups find all keys, or none after the first miss, and need one call or two.
        """
        packed = _split(self._keys(keys))
        found: list[int] = []

        def end() -> None:
            self._lookup_ended(task_id, len(keys), found)

        def pin(positions: list[int], then: Callable[[int], None]) -> None:
            pin_id = self._pins.new_id()
            wanted = [packed[position] for position in positions]
            future = self._storage.futures.contains(b"".join(wanted), pin=pin_id)

            def pinned(future: Future[int]) -> None:
                n_found = self._result(future, 0)
                self._pins.hold(pin_id, wanted[:n_found])
                found.extend(positions[:n_found])
                then(n_found)

            future.add_done_callback(pinned)

        def look_behind(n_found: int) -> None:
            rest = list(range(n_found + 1, len(keys)))
            if not rest:
                return end()
            future = self._storage.futures.contains_each(b"".join(packed[position] for position in rest))
            future.add_done_callback(lambda future: pin_others(rest, self._result(future, [])))

        def pin_others(rest: list[int], are_present: list[bool]) -> None:
            others = [position for position, is_present in zip(rest, are_present, strict=False) if is_present]
            if not others:
                return end()
            pin(others, lambda _: end())

        def guard(step: Callable[..., None]) -> Callable[..., None]:
            def run(*args: Any) -> None:
                try:
                    step(*args)
                except Exception as error:
                    self._failed("submit_lookup_and_lock_task", error)
                    end()

            return run

        look_behind, pin_others = guard(look_behind), guard(pin_others)
        if keys:
            pin(list(range(len(keys))), look_behind)
        else:
            end()

    def _lookup_ended(self, task_id: int, n_keys: int, found: list[int]) -> None:
        bitmap = Bitmap(n_keys)
        for position in found:
            bitmap.set(position)
        with self._lock:
            self._found[task_id] = bitmap
        self._signal(self._lookup_event)

    # --- Load ---

    def submit_load_task(self, keys: Sequence[Any], objects: Sequence[Any]) -> int:
        """Starts to load objects into the memory of the given ones, and returns the task's id.

        The memory is in use until `query_load_result` has returned the task's bitmap.
        """
        return self._start_transfer(keys, objects, self._start_load, self._load_ended)

    def query_load_result(self, task_id: int) -> Any:
        """Returns which objects were filled, as a bitmap, once; None before the load has ended and afterwards."""
        with self._lock:
            return self._loaded.pop(task_id, None)

    def _start_load(self, task: _Task, packed: bytes, memory: list[Memory]) -> None:
        future = self._storage.futures.fetch_into(packed, memory)

        def answered(future: Future[list[int | Miss]]) -> None:
            results = self._result(future, [None] * len(task.keys))
            # An object of another size is another object.
            self._answered(task, [result == size for result, size in zip(results, task.sizes, strict=True)])

        future.add_done_callback(answered)

    def _load_ended(self, task: _Task) -> None:
        assert task.done is not None
        bitmap = Bitmap(len(task.keys))
        loaded = []
        for position, is_loaded in enumerate(task.done):
            if is_loaded:
                bitmap.set(position)
                loaded.append(task.keys[position])
        if loaded:
            self._notify(self._notify_keys_accessed, loaded)
        with self._lock:
            self._loaded[task.task_id] = bitmap
        self._signal(self._load_event)

    # --- Tasks ---

    def _next_id(self) -> int:
        with self._lock:
            self._n_tasks += 1
            return self._n_tasks

    def _start_transfer(
        self,
        keys: Sequence[Any],
        objects: Sequence[Any],
        start: Callable[[_Task, bytes, list[Memory]], None],
        end: Callable[[_Task], None],
    ) -> int:
        task = _Task(self._next_id(), keys, objects, end)
        nothing = [False] * len(task.keys)
        if not task.keys or len(task.keys) != len(task.objects):
            task.done = nothing
            end(task)
            return task.task_id
        with self._lock:
            self._transfers[task.task_id] = task
        memory: list[Memory] = []
        try:
            packed = self._keys(task.keys)
            memory = Memory.batch([obj.data_ptr for obj in task.objects], task.sizes, task, self._released)
            start(task, packed, memory)
        except Exception as error:
            self._failed(start.__name__, error)
            if not memory:
                self._released(task)
            self._answered(task, nothing)
        return task.task_id

    def _released(self, task: _Task) -> None:
        with self._lock:
            task.is_released = True
            is_over = task.done is not None and self._transfers.pop(task.task_id, None) is not None
            self._idle.notify_all()
        if is_over:
            task.end(task)

    def _answered(self, task: _Task, done: list[bool]) -> None:
        with self._lock:
            if task.done is None:
                task.done = done
            is_over = task.is_released and self._transfers.pop(task.task_id, None) is not None
            self._idle.notify_all()
        if is_over:
            task.end(task)

    def _result(self, future: Future[Any], failed: Any) -> Any:
        try:
            return future.result()
        except Exception as error:
            self._failed("an operation", error)
            return failed

    def _failed(self, what: str, error: Exception) -> None:
        # After closing, failures are what LMCache expects.
        if not self._is_closed:
            self._guard.failed(f"KvtierL2Adapter.{what}", error)

    def _signal(self, event: Any) -> None:
        with self._lock:
            if not self._is_closed:
                event.notify()

    def _notify(self, notify: Callable[..., None], *args: Any) -> None:
        try:
            notify(*args)
        except Exception as error:
            self._guard.failed("a listener", error)

    def _keys(self, keys: Sequence[Any]) -> bytes:
        return self._storage.keys([_key_name(key) for key in keys])

    # --- The rest ---

    def delete(self, keys: Sequence[Any]) -> None:
        """Deletes objects, and tells the listeners about those whose size is known: those that this process stored."""
        self._delete(list(keys))

    @guarded(None)
    def _delete(self, keys: list[Any]) -> None:
        if not keys or self._is_closed:
            return
        try:
            self._storage.remove(self._keys(keys))
        except RemoveError as error:
            # kvtier does not serve the chunks all the same, and asks again.
            log.warning("%s", error)
        with self._lock:
            sizes = {key: self._sizes.pop(key) for key in keys if key in self._sizes}
        if sizes:
            self._notify(self._notify_keys_deleted, list(sizes), list(sizes.values()))

    def report_status(self) -> dict[str, Any]:
        """Returns the adapter's state. It is healthy while one backend can serve."""
        return dict(self._report())

    @guarded(make=lambda: {"is_healthy": False, "type": "KvtierL2Adapter"})
    def _report(self) -> dict[str, Any]:
        with self._lock:
            state = {
                "type": "KvtierL2Adapter",
                "stored_object_count": len(self._sizes),
                "transfers_in_flight": len(self._transfers),
                "failed_calls": self._guard.n_failures,
            }
        if self._is_closed:
            return {"is_healthy": False, **state}
        backends = self._storage.status().backends
        return {
            "is_healthy": any(backend.is_up and not backend.bypassed for backend in backends),
            **state,
            "locked_lookup_count": len(self._pins),
            "backends": [
                {
                    "name": backend.name,
                    "is_up": backend.is_up,
                    "down": backend.down,
                    "bypassed": backend.bypassed,
                    "reading": backend.reading.state,
                    "writing": backend.writing.state,
                    "puts_pending": backend.puts_pending,
                }
                for backend in backends
            ],
        }

    def close(self) -> None:
        """Stores what is queued, within `kvtier.close_timeout_ms`, and closes. LMCache frees its memory afterwards.

        If a transfer still uses that memory by then, the memory is not freed.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            for event in (self._store_event, self._lookup_event, self._load_event):
                event.close()
        self._close_storage()
        with self._idle:
            self._idle.wait_for(lambda: all(task.is_released for task in self._transfers.values()), _LATE_WAIT_S)
            late = [task for task in self._transfers.values() if not task.is_released]
        for task in late:
            log.error("a transfer of %d objects has not ended; LMCache's memory is not freed", len(task.keys))
            for obj in task.objects:
                if (allocator := getattr(obj, "parent_allocator", None)) is not None:
                    allocator.close = _keep

    @guarded(None)
    def _close_storage(self) -> None:
        self._storage.close()


def _keep() -> None:
    """Takes the place of the `close` of an allocator whose memory a transfer still uses."""


def _capacity_bytes(config: Mapping[str, Any]) -> int:
    gib = config.get("max_capacity_gb", 0)
    if isinstance(gib, bool) or not isinstance(gib, (int, float)) or not 0 <= gib < 2**40:
        raise ConfigError(f"adapter_params.max_capacity_gb: expected a number of GiB, 0 for no limit, found {gib!r}")
    return int(gib * 1024**3)


def _key_name(key: Any) -> str:
    """Returns a name for LMCache's key that no other key has: neither model nor salt may have an `@`."""
    return f"{key.chunk_hash.hex()}@{key.model_name}@{key.kv_rank}@{key.object_group_id}@{key.cache_salt}"


def _split(packed: bytes) -> list[bytes]:
    return [packed[at : at + 16] for at in range(0, len(packed), 16)]
