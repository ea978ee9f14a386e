"""kvtier as a storage backend of LMCache, in process: 0.3.7 (`external_backends`) and 0.5.x (`storage_plugins`).

LMCache's CPU backend stays the CPU tier and the allocator of memory. kvtier adds the tiers behind it: sandboxed
backends, whose bytes are verified while they are moved straight into LMCache's pool. Nothing is copied in either
direction. A backend that hangs, traps, lies or fails is a miss, and never an exception in the serving engine.

In LMCache's file:

    storage_plugins: "kv"                                   # 0.3.7: external_backends
    extra_config:
      storage_plugin.kv.module_path: kvtier.lmcache         # 0.3.7: external_backend.kv.module_path, and so on
      storage_plugin.kv.class_name: KvtierBackend
      storage_plugin.kv.backends: "disk"                    # in search order
      storage_plugin.kv.disk.module_path: /opt/kv/fs.wasm
      storage_plugin.kv.disk.class_name: FsBackend
      storage_plugin.kv.disk.config.root: /data
      storage_plugin.kv.disk.allow.fs: ["/var/cache/kv:/data:rw"]
      kvtier.integrity_key: file:/etc/kvtier/key

Relative paths start at the directory of the file that `LMCACHE_CONFIG_FILE` names.
"""

import logging
import os
import time
import weakref
from collections.abc import Sequence
from typing import Any

from kvtier import _lmcache_setup as setup
from kvtier._adapter import Guard, LookupPins, guarded, open_storage
from kvtier._errors import ConfigError
from kvtier._kvtier import Receipt, Storage
from kvtier._lmcache_memory import KeptObjects, Loans, ObjectLayout
from kvtier._types import StorageMetadata

log = logging.getLogger("kvtier.lmcache")

# The lookup id under which LMCache reads layer by layer.
_LAYERWISE_ID = "fake_lookup_id"
# Stands for groups of layers that LMCache has not been asked for.
_NOT_ASKED = object()
# How long a get waits for memory that other transfers of kvtier hold.
_ROOM_WAIT_S = 1.0
# How long closing waits for transfers that are late, after the storage has closed.
_LATE_WAIT_S = 5.0


# The backends that are in use, by the CPU backend that they belong to and their name.
_in_place: "weakref.WeakValueDictionary[tuple[int, str], KvtierBackend]" = weakref.WeakValueDictionary()


class LayerMissing(Exception):
    """A layer cannot be read that LMCache takes to be there. It has no word for a miss at this place."""


class KvtierBackend(setup.BASE):  # type: ignore[misc]
    """A storage backend of LMCache whose tiers are sandboxed components.

    All methods may be called from any thread. None but the constructor raises an exception, except for a layer that
    is read without having been found, and is missing (`LayerMissing`).
    """

    # The name of the plugin in LMCache's list, for classes of `KvtierBackend:<name>`.
    _name: str | None = None

    def __init__(
        self,
        dst_device: str = "cpu",
        config: Any = None,
        metadata: Any = None,
        local_cpu_backend: Any = None,
        loop: Any = None,
    ) -> None:
        """Makes the backend out of LMCache's configuration. Called by LMCache, with keyword arguments.

        Raises `ConfigError` for a wrong section, `RuntimeMismatch` for an LMCache with another interface, and
        `BuildError` where `kvtier.on_load_error` is `fail` and a backend does not load. LMCache logs it and runs
        without this tier.
        """
        setup.check_lmcache()
        super().__init__(
            dst_device=dst_device, config=config, metadata=metadata, local_cpu_backend=local_cpu_backend, loop=loop
        )
        if config is None or metadata is None:
            raise ConfigError("KvtierBackend needs LMCache's configuration and metadata")
        pool_bytes = int((config.max_local_cpu_size or 0) * 1024**3)
        self._guard = Guard(log)
        reference = weakref.ref(self)
        self._loans = Loans(lambda key: _remove_torn(reference(), key))
        # Beyond half of the pool nothing is found, so that LMCache can go on storing.
        self._kept = KeptObjects(pool_bytes // 2)
        self._is_closing = False
        self._n_refused = 0
        name, section = setup.section_of(config, type(self))
        setup.check_settings(config, name)
        place = (id(local_cpu_backend), name)
        if (before := _in_place.get(place)) is not None:
            # LMCache 0.5.x makes all plugins again when it makes any tier at run time, and forgets the old ones.
            before.close()
        layout = setup.chunk_layout(metadata, None)
        self._storage: Storage = open_storage(
            section,
            where=f"{setup.PREFIX}.{name}",
            metadata=StorageMetadata(
                model_name=metadata.model_name,
                world_size=metadata.world_size,
                worker_id=metadata.worker_id,
                layout=setup.layout_tag(config, metadata),
                chunk_bytes_max=layout.n_bytes,
            ),
            defaults={"kvtier.put_queue_bytes": pool_bytes // 4} if pool_bytes else {},
            own=("module_path", "class_name"),
            base_dir=os.path.dirname(os.environ.get("LMCACHE_CONFIG_FILE", "")) or ".",
        )
        self._pins = LookupPins(self._storage.futures.unpin, prefix=f"lmcache-{name}")
        self._groups: Any = _NOT_ASKED
        self._chunks = layout
        self._key_suffix = ""
        self._layers = setup.layer_layout(config, metadata)
        _in_place[place] = self
        if local_cpu_backend is not None:
            _close_before_the_pool(self, self._loans, local_cpu_backend.get_memory_allocator())

    @property
    def storage(self) -> Storage:
        """The storage, for its status and metrics."""
        return self._storage

    def __str__(self) -> str:
        return "KvtierBackend"

    # --- Lookup ---

    @guarded(False)
    def contains(self, key: Any, pin: bool = False) -> bool:
        """Reports whether a chunk, or a layer of a chunk, is stored. `pin` holds it until `unpin`.

        LMCache 0.3.x, and any that reads layer by layer, cannot take a hit back: it would compute with memory that
        nobody has filled. There the chunk, with all its layers, is loaded into LMCache's memory first, and kept until
        LMCache has read it or unpins it.
        """
        if self._is_closing:
            return False
        return self._load_and_keep(key, pin) if self._must_keep(key) else self._find([key], pin) > 0

    @guarded(0)
    def batched_contains(self, keys: Sequence[Any], pin: bool = False) -> int:
        """Returns how many keys at the beginning of the list are stored."""
        if self._is_closing or not keys:
            return 0
        if not self._must_keep(keys[0]):
            return self._find(keys, pin)
        for n_found, key in enumerate(keys):
            if not self._load_and_keep(key, pin):
                return n_found
        return len(keys)

    @guarded(0)
    async def batched_async_contains(self, lookup_id: str, keys: Sequence[Any], pin: bool = False) -> int:
        """Returns how many keys at the beginning of the list are stored. Pins hold until they have been read."""
        if self._is_closing or not keys:
            return 0
        packed = self._keys(keys)
        if not pin:
            n_found: int = await self._storage.aio.contains(packed)
            return n_found
        pin_id = _async_pin_id(lookup_id)
        n_found = await self._storage.aio.contains(packed, pin=pin_id)
        self._pins.hold(pin_id, _split(packed, n_found))
        return n_found

    @guarded(False)
    def exists_in_put_tasks(self, key: Any) -> bool:
        """Reports False. LMCache does not ask, and a chunk that is put twice at a time is harmless."""
        return False

    @guarded(False)
    def pin(self, key: Any) -> bool:
        """Pins a stored chunk. Reports whether there is one."""
        return not self._is_closing and self._find([key], True) > 0

    @guarded(False)
    def unpin(self, key: Any) -> bool:
        """Gives back one pin of a chunk. Reports whether there was one."""
        if len(self._pins) == 0 and len(self._kept) == 0:
            return False
        packed = self._keys([key])
        return self._kept.unpin(packed) or self._pins.release(packed)

    # --- Put ---

    @guarded(None)
    def batched_submit_put_task(
        self, keys: Sequence[Any], objs: Sequence[Any], transfer_spec: Any = None, on_complete_callback: Any = None
    ) -> None:
        """Queues chunks to be stored, and returns at once.

        Backends read the objects where they are. Each object has one more reference until the last backend has read
        it. `on_complete_callback(key)` is called for each key that at least one backend has stored, on the thread
        `kvtier-events`. Objects of a layout that kvtier does not know are not stored.
        """
        if self._is_closing or self.local_cpu_backend is None:
            return
        self._update_layout()
        taken = [(key, obj) for key, obj in zip(keys, objs, strict=False) if self._accepts(key, obj)]
        if not taken:
            return
        packed = self._keys([key for key, _ in taken])
        memory = [self._loans.lend(obj, key) for key, (_, obj) in zip(_split(packed, len(taken)), taken, strict=True)]
        receipt = self._storage.put_lent(packed, memory)
        if on_complete_callback is not None:
            stored_keys = [key for key, _ in taken]
            receipt.add_done_callback(lambda receipt: self._report_stored(receipt, stored_keys, on_complete_callback))

    def _accepts(self, key: Any, obj: Any) -> bool:
        layout = self._layout_of(key)
        if setup.is_in_host_memory(obj) and layout.accepts(obj):
            return True
        self._n_refused += 1
        if self._n_refused == 1:
            meta = getattr(obj, "meta", obj)
            log.warning("objects of another layout than %s are not stored, such as %s", layout, meta)
        return False

    def _report_stored(self, receipt: Receipt, keys: Sequence[Any], callback: Any) -> None:
        for key, is_stored in zip(keys, receipt.stored(0), strict=True):
            if is_stored:
                try:
                    callback(key)
                except Exception as error:
                    self._guard.failed("on_complete_callback", error)

    # --- Get ---

    @guarded(None)
    def get_blocking(self, key: Any) -> Any:
        """Returns a chunk in an object of LMCache's pool, with one reference for the caller, or None."""
        found = self._get([key])
        return found[0] if found else None

    @guarded(make=lambda keys: [None] * len(keys))
    def batched_get_blocking(self, keys: Sequence[Any]) -> list[Any]:
        """Returns one object per key, with one reference for the caller each, or None for a miss."""
        return self._get(keys)

    async def batched_get_non_blocking(
        self, lookup_id: str, keys: Sequence[Any], transfer_spec: Any = None
    ) -> list[Any]:
        """Returns objects for the keys at the beginning of the list, up to the first miss. One reference each.

        Raises `LayerMissing` if LMCache reads layer by layer and one is missing: with fewer objects it would compute
        with layers that nobody has filled.
        """
        found: list[Any] = await self._get_prefix(lookup_id, keys)
        if lookup_id == _LAYERWISE_ID and len(found) < len(keys):
            _drop(found)
            raise LayerMissing(f"{len(keys) - len(found)} of {len(keys)} objects of a layer cannot be read any more")
        return found

    @guarded(make=lambda lookup_id, keys: [])
    async def _get_prefix(self, lookup_id: str, keys: Sequence[Any]) -> list[Any]:
        if self._is_closing or not keys or self.local_cpu_backend is None:
            return []
        try:
            found = self._take_kept(keys)
            if None not in found:
                return found
            _drop(found)
            objs, packed = self._allocate(keys, wait=False)
            try:
                memory = [self._loans.lend(obj) for obj in objs]
                results = await self._storage.aio.fetch_into(packed, memory)
            except BaseException:
                _drop(objs)
                raise
            taken = self._take(objs, results, keys)
        finally:
            self._pins.release_lookup(_async_pin_id(lookup_id))
        n_found = taken.index(None) if None in taken else len(taken)
        _drop(taken[n_found:])
        return taken[:n_found]

    def _get(self, keys: Sequence[Any]) -> list[Any]:
        if self._is_closing or not keys or self.local_cpu_backend is None:
            return [None] * len(keys)
        found = self._take_kept(keys)
        missing = [position for position, obj in enumerate(found) if obj is None]
        if missing:
            try:
                fetched = self._fetch([keys[position] for position in missing])
            except BaseException:
                _drop(found)
                raise
            for position, obj in zip(missing, fetched, strict=True):
                found[position] = obj
        return found

    def _fetch(self, keys: Sequence[Any]) -> list[Any]:
        objs, packed = self._allocate(keys, wait=True)
        try:
            memory = [self._loans.lend(obj) for obj in objs]
            results = self._storage.fetch_into(packed, memory)
        except BaseException:
            _drop(objs)
            raise
        return self._take(objs, results, keys) + [None] * (len(keys) - len(objs))

    def _allocate(self, keys: Sequence[Any], *, wait: bool) -> tuple[list[Any], bytes]:
        """Returns objects for the first keys, as many as there is room for, and these keys."""
        self._update_layout()
        deadline = time.monotonic() + _ROOM_WAIT_S
        objs: list[Any] = []
        try:
            for key in keys:
                layout = self._layout_of(key)
                obj = layout.allocate(self.local_cpu_backend)
                # Puts that are being read cannot be evicted; they end soon.
                while obj is None and wait and self._loans.wait_for_one(deadline):
                    obj = layout.allocate(self.local_cpu_backend)
                if obj is None:
                    break
                objs.append(obj)
            return objs, self._keys(keys[: len(objs)])
        except BaseException:
            _drop(objs)
            raise

    def _take(self, objs: Sequence[Any], results: Sequence[Any], keys: Sequence[Any]) -> list[Any]:
        """Returns the objects that were filled, and None for the others, whose reference is dropped."""
        taken: list[Any] = []
        for obj, result, key in zip(objs, results, keys, strict=False):
            is_filled = isinstance(result, int) and self._layout_of(key).trim(obj, result)
            if not is_filled:
                # If a transfer is late, it still has a reference.
                obj.ref_count_down()
            taken.append(obj if is_filled else None)
        return taken

    # --- Hits that cannot be taken back ---

    def _must_keep(self, key: Any) -> bool:
        return self.local_cpu_backend is not None and (setup.IS_03 or _is_layer(key))

    def _load_and_keep(self, key: Any, pin: bool) -> bool:
        name = self._keys([key])
        if self._kept.has(name, pin=pin):
            return True
        keys = [key]
        if _is_layer(key):
            if key.layer_id != 0 or (setup.IS_03 and not self.local_cpu_backend.use_hot):
                # Layers are loaded together, with the first. LMCache 0.3.x reads them from its CPU cache only.
                return False
            keys = key.split_layers(self.metadata.kv_shape[0])
        if self._find(keys, False) < len(keys) or not self._kept.has_room(self._layout_of(key).n_bytes * len(keys)):
            return False
        objs = self._get(keys)
        if None in objs:
            _drop(objs)
            return False
        for each, obj, each_name in zip(keys, objs, _split(self._keys(keys), len(keys)), strict=True):
            if _is_layer(key) and self.local_cpu_backend.use_hot:
                self.local_cpu_backend.submit_put_task(each, obj)
            self._kept.keep(each_name, obj)
        return self._kept.has(name, pin=pin)

    def _take_kept(self, keys: Sequence[Any]) -> list[Any]:
        """Returns the objects that are kept, and None for the others."""
        if len(self._kept) == 0:
            return [None] * len(keys)
        return [self._kept.take(name) for name in _split(self._keys(keys), len(keys))]

    # --- The rest ---

    @guarded(False)
    def remove(self, key: Any, force: bool = True) -> bool:
        """Removes a chunk from all tiers. Reports whether one had it."""
        return self._remove([key]) > 0

    @guarded(0)
    def batched_remove(self, keys: Sequence[Any], force: bool = True) -> int:
        """Removes chunks from all tiers. Returns how many were removed."""
        return self._remove(keys)

    def _remove(self, keys: Sequence[Any]) -> int:
        if self._is_closing or not keys:
            return 0
        packed = self._keys(keys)
        for name in _split(packed, len(keys)):
            self._kept.drop(name)
        return self._storage.remove(packed)

    def get_allocator_backend(self) -> Any:
        """Returns LMCache's CPU backend, whose memory kvtier reads and fills."""
        return self.local_cpu_backend

    @guarded(None)
    def close(self) -> None:
        """Stores what is queued, within `kvtier.close_timeout_ms`, and closes. Afterwards everything is a miss.

        LMCache frees its pool before it closes its plugins, so this runs before that (`_close_before_the_pool`), and
        a second time, when there is nothing left to do.
        """
        if not self._is_closing:
            self._is_closing = True
            self._kept.drop_all()
            self._storage.close()

    def _find(self, keys: Sequence[Any], pin: bool) -> int:
        packed = self._keys(keys)
        if not pin:
            return self._storage.contains(packed)
        lookup_id = self._pins.new_id()
        n_found = self._storage.contains(packed, pin=lookup_id)
        self._pins.hold(lookup_id, _split(packed, n_found))
        return n_found

    def _keys(self, keys: Sequence[Any]) -> bytes:
        self._update_layout()
        return self._storage.keys([setup.key_name(key) + self._key_suffix for key in keys])

    def _layout_of(self, key: Any) -> ObjectLayout:
        return self._layers if _is_layer(key) else self._chunks

    def _update_layout(self) -> None:
        """Looks whether LMCache has learnt of groups of layers, which it does after plugins are made."""
        groups = getattr(self.metadata, "kv_layer_groups_manager", None)
        if groups is self._groups:
            return
        self._groups = groups
        self._chunks = setup.chunk_layout(self.metadata, self.local_cpu_backend)
        # Models with one group, nearly all, have the keys that they would have without.
        self._key_suffix = f"\n{self._chunks}" if len(self._chunks.shapes) > 1 else ""


def __getattr__(name: str) -> Any:
    """Makes the class `KvtierBackend:<name>`, for the second kvtier plugin of one LMCache."""
    base, colon, plugin = name.partition(":")
    if base != "KvtierBackend" or not colon or not plugin:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return type(name, (KvtierBackend,), {"_name": plugin, "__module__": __name__})


def _split(packed: bytes, n_keys: int) -> list[bytes]:
    return [packed[at : at + 16] for at in range(0, 16 * n_keys, 16)]


def _async_pin_id(lookup_id: str) -> str:
    return f"lmcache-async-{lookup_id}"


def _is_layer(key: Any) -> bool:
    return getattr(key, "layer_id", None) is not None


def _drop(objs: Sequence[Any]) -> None:
    for obj in objs:
        if obj is not None:
            obj.ref_count_down()


def _remove_torn(backend: KvtierBackend | None, key: bytes) -> None:
    """Removes a chunk whose memory was used for something else while it was being stored."""
    if backend is not None and not backend._is_closing:
        log.warning("a chunk was evicted while it was being stored, and is removed")
        backend._storage.futures.remove(key)


def _close_before_the_pool(backend: KvtierBackend, loans: Loans, allocator: Any) -> None:
    """Has a backend closed before LMCache's pool is freed.

    LMCache closes its backends in the order in which it made them: first the CPU backend, which frees the pool, and
    then the plugins. A transfer of kvtier may be in the pool's memory at that time. If one does not end, the pool is
    not freed.
    """
    free_pool = allocator.close
    reference = weakref.ref(backend)

    def close() -> None:
        backend = reference()
        if backend is not None:
            backend.close()
        if loans.wait_for_all(_LATE_WAIT_S):
            free_pool()
        else:
            log.error("LMCache's pool is not freed, because %d transfers still use it", len(loans))

    allocator.close = close
