"""kvtier in SGLang: a storage backend of HiCache, loaded as `dynamic`.

    --enable-hierarchical-cache --hicache-mem-layout page_first --hicache-storage-backend dynamic
    --hicache-storage-backend-extra-config '{"backend_name": "kvtier", "module_path": "kvtier.sglang",
      "class_name": "KvtierHiCache", "interface_v1": 1, "backends": "disk", "disk.module_path": "/opt/kv/fs.wasm",
      "disk.class_name": "FsBackend", "disk.config.root": "/data", "disk.allow.fs": ["/var/cache/kv:/data:rw"]}'

A page lies in one or two pieces of SGLang's host pool (K and V lie apart), and each piece is a chunk. Backends read and
write the pool itself; nothing is copied, and what they deliver is verified on the way.

Invariants:
- SGLang's own threads for storage call these methods, one call at a time for each kind. They wait; the scheduler does
  not wait for them.
- A method returns only when no transfer uses the pages any more: SGLang may give them to other requests then.
- No exception leaves a method that moves or looks for pages: it is a miss, or a page that was not stored.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

try:
    import sglang
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage
except ImportError as error:
    raise ImportError(f"kvtier.sglang needs SGLang with HiCache, such as SGLang 0.5.23: {error}") from error

from kvtier._adapter import Guard, check_interface, guarded, open_storage, read_section
from kvtier._errors import CloseError, ConfigError
from kvtier._kvtier import Memory, Storage
from kvtier._types import StorageMetadata

log = logging.getLogger("kvtier.sglang")

# Raised whenever the mapping of SGLang's keys or the meaning of the bytes of a piece changes: what was stored before is
# then a miss.
MAPPING_VERSION = 1
TESTED_VERSIONS = ("0.5.23",)
WHERE = "hicache-storage-backend-extra-config"
# Keys of the same dictionary that are SGLang's.
SGLANG_KEYS = ("backend_name", "module_path", "class_name", "interface_v1", "file_storage_path")
LAYOUTS = ("page_first", "page_first_direct", "page_head")
# The name of the pool that `register_mem_pool_host` has registered already.
KV_POOL = "kv"
# How long a transfer may outlive its call before a line of the log says so; then the same again.
LATE_S = 60.0

_DEFAULTS = {
    # SGLang's thread waits for each put, so a put should wait for room as well, and needs no other bound than SGLang's
    # own: 128 pages at a time.
    "kvtier.on_full": "wait",
    "kvtier.put_queue_bytes": "1TiB",
}
_METHODS = {
    "register_mem_pool_host": ("mem_pool_host",),
    "register_mem_host_pool_v2": ("host_pool", "host_pool_name"),
    "batch_exists": ("keys", "extra_info"),
    "batch_get_v1": ("keys", "host_indices", "extra_info"),
    "batch_set_v1": ("keys", "host_indices", "extra_info"),
    "exists": ("key",),
    "get": ("key", "target_location", "target_sizes"),
    "batch_get": ("keys", "target_locations", "target_sizes"),
    "set": ("key", "value", "target_location", "target_sizes"),
    "batch_set": ("keys", "values", "target_locations", "target_sizes"),
    "clear": (),
    "get_stats": (),
}


def _none_found(keys: Sequence[str], *_: Any, **__: Any) -> list[bool]:
    return [False] * len(keys)


class KvtierHiCache(HiCacheStorage):  # type: ignore[misc]
    """SGLang's storage for pages of the host pool, over kvtier's chain of backends.

    The extra configuration has, beside SGLang's own keys, those of kvtier: `backends`, `<backend>.*` and `kvtier.*`, or
    `config`. A wrong configuration, a layout of the pool without contiguous pages, or another SGLang than the adapter
    knows, is an error when the storage is attached.
    """

    def __init__(self, storage_config: Any, kwargs: dict[str, Any] | None = None) -> None:
        check_interface("SGLang", sglang.__version__, TESTED_VERSIONS, HiCacheStorage, _METHODS)
        self._config = storage_config
        self._section = dict(storage_config.extra_config or {})
        self._guard = Guard(log)
        self._storage: Storage | None = None
        # The sizes in bytes of the pieces of one page.
        self._piece_bytes: list[int] = []
        if not self._section.get("interface_v1"):
            raise ConfigError(
                f'{WHERE}.interface_v1 must be 1: kvtier reads and writes the host pool itself ("interface_v1": 1)'
            )
        if storage_config.should_split_heads:
            raise ConfigError(
                f"{WHERE}.tp_lcm_size: kvtier stores whole pages and does not split heads; remove the key"
            )
        if not storage_config.model_name:
            raise ConfigError("SGLang gave no model name, which keeps models apart in storage; set --served-model-name")
        # Opened later, when the size of a page is known, but mistakes are found now.
        read_section(self._section, where=WHERE, defaults=_DEFAULTS, own=SGLANG_KEYS)

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Opens the storage for the pages of this pool."""
        if mem_pool_host.layout not in LAYOUTS:
            raise ConfigError(
                f"kvtier needs a host pool whose pages are contiguous, and the layout is {mem_pool_host.layout!r}; "
                "start SGLang with --hicache-mem-layout page_first (or page_first_direct)"
            )
        super().register_mem_pool_host(mem_pool_host)
        addresses, sizes = mem_pool_host.get_page_buffer_meta(_first_page(mem_pool_host))
        self._piece_bytes = [int(size) for size in sizes]
        assert len(addresses) == len(sizes)
        self._storage = open_storage(
            self._section,
            where=WHERE,
            metadata=storage_metadata(self._config, mem_pool_host, self._piece_bytes),
            defaults=_DEFAULTS,
            own=SGLANG_KEYS,
        )

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """Accepts the pool that `register_mem_pool_host` knows. Raises `ConfigError` for any other."""
        if str(host_pool_name) != KV_POOL:
            raise ConfigError(
                f"kvtier stores plain KV pages, and this model or setting also needs a pool {str(host_pool_name)!r}; "
                "use another storage backend for it"
            )
        super().register_mem_host_pool_v2(host_pool, host_pool_name)

    @guarded(0)
    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """Returns how many pages are stored, from the first on without a gap."""
        return self._opened().contains(self._keys(keys)) // len(self._piece_bytes)

    @guarded(make=_none_found)
    def batch_set_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Stores pages of the host pool, and returns for each whether at least one backend has all of it."""
        storage, lent = self._opened(), _Lent(self._pieces(keys, host_indices))
        try:
            stored = storage.put_lent(self._keys(keys), lent.take()).stored()
        finally:
            lent.wait()
        return self._pages(stored)

    @guarded(make=_none_found)
    def batch_get_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Fetches pages into the host pool, and returns for each whether it is there, verified."""
        storage, pieces = self._opened(), self._pieces(keys, host_indices)
        lent = _Lent(pieces)
        try:
            found = storage.fetch_into(self._keys(keys), lent.take())
        finally:
            lent.wait()
        return self._pages([n_bytes == size for n_bytes, size in zip(found, pieces[1], strict=True)])

    def exists(self, key: str) -> bool:
        """Reports whether a page is stored."""
        return bool(self.batch_exists([key]))

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """Raises `NotImplementedError`."""
        raise _v0("get")

    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> Any:
        """Raises `NotImplementedError`."""
        raise _v0("batch_get")

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """Raises `NotImplementedError`."""
        raise _v0("set")

    def batch_set(
        self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        """Raises `NotImplementedError`."""
        raise _v0("batch_set")

    def clear(self) -> None:
        """Deletes nothing: backends are shared with other processes. Their owners empty them."""
        log.warning("kvtier's backends are not emptied by SGLang; delete what they store where they store it")

    def close(self) -> None:
        """Closes the storage. Calls that are still under way end at once, as misses."""
        storage, self._storage = self._storage, None
        if storage is None:
            return
        try:
            storage.close()
        except CloseError as error:
            log.warning("%s", error)

    def _opened(self) -> Storage:
        if self._storage is None:
            raise RuntimeError("the storage is not attached")
        return self._storage

    def _keys(self, keys: Sequence[str]) -> bytes:
        pieces = range(len(self._piece_bytes))
        return self._opened().keys([f"{key}.{piece}" for key in keys for piece in pieces])

    def _pieces(self, keys: Sequence[str], host_indices: Any) -> tuple[list[int], list[int]]:
        """Returns address and size of each piece, page by page."""
        addresses, sizes = self.mem_pool_host.get_page_buffer_meta(host_indices)
        expected = self._piece_bytes * len(keys)
        if list(sizes) != expected or len(addresses) != len(expected):
            raise ValueError(f"{len(keys)} pages of {self._piece_bytes} bytes expected, and {len(sizes)} pieces found")
        return addresses, expected

    def _pages(self, pieces: Sequence[bool]) -> list[bool]:
        n_pieces = len(self._piece_bytes)
        return [all(pieces[at : at + n_pieces]) for at in range(0, len(pieces), n_pieces)]


class _Lent:
    """Pages that are lent to kvtier until the last transfer that uses them has ended."""

    def __init__(self, pieces: tuple[list[int], list[int]]) -> None:
        self._is_free = threading.Event()
        self._memory: list[Memory] | None = Memory.batch(*pieces, self._is_free, threading.Event.set)

    def take(self) -> list[Memory]:
        memory, self._memory = self._memory, None
        assert memory is not None
        return memory

    def wait(self) -> None:
        """Waits until the pages are free, which is normally at once: every call of a backend has a deadline, and
        afterwards only the operating system can keep a transfer from ending. Then there is no end to this wait either:
        SGLang has no other way to keep the pages, and serving goes on without this thread.
        """
        self._memory = None
        while not self._is_free.wait(LATE_S):
            log.error("a transfer still uses pages of SGLang's host pool long after its call has ended; waiting for it")


def storage_metadata(config: Any, pool: Any, piece_bytes: Sequence[int]) -> StorageMetadata:
    """Returns what distinguishes the pieces of this rank from those of others.

    `config` is SGLang's `HiCacheStorageConfig`, `pool` the host pool. SGLang's keys are hashes of tokens and have none
    of this. Ranks of tensor parallelism have different heads, but the same latent pages (MLA), which one of them writes
    and all read.
    """
    is_shared = config.is_mla_model
    facts: dict[str, Any] = {
        "dtype": str(pool.dtype),
        "layout": pool.layout,
        "page_size": pool.page_size,
        "piece_bytes": list(piece_bytes),
        "layers": [pool.start_layer, pool.end_layer, pool.layer_num],
        "pool": [type(pool).__name__, *(getattr(pool, name, None) for name in _SHAPE)],
        "is_mla": config.is_mla_model,
        "pp": [config.pp_rank, config.pp_size],
        "attn_cp": [config.attn_cp_rank, config.attn_cp_size],
        "dcp": [config.dcp_rank, config.dcp_size],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return StorageMetadata(
        model_name=config.model_name,
        world_size=1 if is_shared else config.tp_size,
        worker_id=0 if is_shared else config.tp_rank,
        layout=f"sglang hicache v{MAPPING_VERSION} {pool.dtype} {pool.layout} {pool.page_size} tokens {digest}",
        chunk_bytes_max=max(piece_bytes),
    )


# Attributes of host pools that say what is where in a page; each kind of pool has some of them.
_SHAPE = ("head_num", "head_dim", "v_head_dim", "head_group_num", "kv_lora_rank", "qk_rope_head_dim", "kv_cache_dim")


def _first_page(pool: Any) -> Any:
    import torch

    return torch.arange(pool.page_size, dtype=torch.int64)


def _v0(method: str) -> NotImplementedError:
    return NotImplementedError(
        f'kvtier has no {method}, which copies pages: set "interface_v1": 1 in --{WHERE}, and SGLang calls '
        f"batch_get_v1 and batch_set_v1"
    )
