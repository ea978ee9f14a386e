"""Builds LMCache's real storage manager from a YAML file, in both generations: 0.3.x and 0.5.x.

Real: LMCache's configuration, plugin loader, storage manager, CPU backend, pool and keys. Nothing stands in.
"""

import asyncio
import gc
import os
import time
from pathlib import Path

import torch
import yaml
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.event_manager import EventManager
from lmcache.v1.storage_backend import abstract_backend
from lmcache.v1.storage_backend.storage_manager import StorageManager

try:
    from lmcache.v1.metadata import LMCacheMetadata
    from lmcache.v1.pin_monitor import PinMonitor
except ImportError:
    from lmcache.config import LMCacheEngineMetadata
from lmcache.utils import CacheEngineKey

IS_03 = not hasattr(abstract_backend, "StoragePluginInterface")
LIST, PREFIX = ("external_backends", "external_backend") if IS_03 else ("storage_plugins", "storage_plugin")

GUESTS = Path(os.environ["KVTIER_GUESTS"])
MODEL = "tests/model"
N_LAYERS, N_TOKENS, N_HEADS, HEAD_SIZE = 4, 64, 2, 32
WIDTH = N_HEADS * HEAD_SIZE
DTYPE = torch.bfloat16
CHUNK_BYTES = N_LAYERS * 2 * N_TOKENS * WIDTH * DTYPE.itemsize
# No test needs as long; a limit only ends a hang.
LIMIT_S = 60.0

# --- Backends ---


# A call of a good backend has time, however busy the machine is; one that hangs is waited for no longer than this.
PATIENT_MS, HANG_MS = 30_000, 1_000
HANGING = {"HangBackend", "SpinBackend", "BlockBackend", "StderrFloodBackend", "RandomFloodBackend", "LogFloodBackend"}


def fs(root):
    Path(root).mkdir(parents=True, exist_ok=True)
    return {
        "module_path": str(GUESTS / "fs.wasm"),
        "class_name": "FsBackend",
        "config.root": "/data",
        "allow.fs": [f"{root}:/data:rw"],
        "limits.call_timeout_ms": PATIENT_MS,
    }


def memory():
    return {
        "module_path": str(GUESTS / "memory.wasm"),
        "class_name": "LruMemoryBackend",
        "limits.call_timeout_ms": PATIENT_MS,
    }


def misbehaving(class_name, wrong_in=None, *, call_timeout_ms=None, **config):
    backend = {
        "module_path": str(GUESTS / "misbehaving.wasm"),
        "class_name": class_name,
        "limits.call_timeout_ms": call_timeout_ms or (HANG_MS if class_name in HANGING else PATIENT_MS),
        # One failure must not hide the next call's.
        "breaker.failures": 0,
    }
    config |= {} if wrong_in is None else {"in": wrong_in}
    return backend | {f"config.{key}": value for key, value in config.items()}


def kvtier_plugin(backends, *, class_name="KvtierBackend", **more):
    """Returns the section of a kvtier plugin with these backends, by name and in order."""
    section = {"module_path": "kvtier.lmcache", "class_name": class_name, "backends": ", ".join(backends)}
    for name, backend in backends.items():
        section |= {f"{name}.{key}": value for key, value in backend.items()}
    return section | more


# --- LMCache ---


def metadata(**more):
    shape = (N_LAYERS, 1 if more.get("use_mla") else 2, N_TOKENS, N_HEADS, HEAD_SIZE)
    shared = {"model_name": MODEL, "world_size": 1, "worker_id": 0, "kv_dtype": DTYPE, "kv_shape": shape}
    if IS_03:
        return LMCacheEngineMetadata(**(shared | {"fmt": "vllm"} | more))
    return LMCacheMetadata(
        **(shared | {"local_world_size": 1, "local_worker_id": 0, "chunk_size": N_TOKENS, "role": "worker"} | more)
    )


def write_yaml(path, plugins, extra=None, **settings):
    """Writes a configuration file of LMCache with these plugins, by name."""
    config = {
        "chunk_size": N_TOKENS,
        "local_cpu": True,
        "max_local_cpu_size": 32 / 1024,
        LIST: ", ".join(plugins),
        "extra_config": {
            f"{PREFIX}.{name}.{key}": value for name, plugin in plugins.items() for key, value in plugin.items()
        }
        # Starting waits until the components are compiled, and a backend that does not load is no surprise later.
        | {"kvtier.on_load_error": "fail"}
        | (extra or {}),
    } | settings
    Path(path).write_text(yaml.safe_dump(config))
    return path


class Lookups:
    """Takes the place of LMCache's lookup server, which talks to vLLM's scheduler: it hears how much was loaded."""

    def __init__(self):
        self.answers = {}
        self.changed = asyncio.Event()

    def send_response_to_scheduler(self, lookup_id, n_tokens):
        self.answers[lookup_id] = n_tokens


class LMCache:
    """LMCache's storage manager, built from a YAML file."""

    def __init__(self, path, *, async_lookups=None, **metadata_fields):
        self.config = LMCacheEngineConfig.from_file(str(path))
        self.config.validate() if hasattr(self.config, "validate") else None
        self.metadata = metadata(**metadata_fields)
        self.events = EventManager()
        if IS_03:
            self.manager = StorageManager(self.config, self.metadata, self.events)
            if async_lookups is not None:
                self.manager.post_init(async_lookup_server=async_lookups)
        else:
            PinMonitor.GetOrCreate(self.config, self.metadata)
            self.manager = StorageManager(self.config, self.metadata, self.events, async_lookup_server=async_lookups)
        self.is_closed = False

    @property
    def kvtier(self):
        return self.manager.storage_backends["kv"]

    @property
    def cpu(self):
        return self.manager.storage_backends["LocalCPUBackend"]

    @property
    def used_bytes(self):
        """How much of the pool is in use."""
        return self.cpu.get_memory_allocator().pin_allocator.total_allocated_size

    def keys(self, *hashes, **request_configs):
        configs = {f"lmcache.tag.{name}": value for name, value in request_configs.items()}
        if IS_03:
            return [CacheEngineKey("vllm", MODEL, 1, 0, chunk_hash, configs) for chunk_hash in hashes]
        return [
            CacheEngineKey(
                model_name=MODEL,
                world_size=1,
                worker_id=0,
                chunk_hash=chunk_hash,
                dtype=DTYPE,
                request_configs=configs,
            )
            for chunk_hash in hashes
        ]

    def allocate(self, seed, n_tokens=N_TOKENS):
        """Returns an object of LMCache's pool with the content of `tensor(seed)`."""
        want = tensor(seed, n_tokens)
        obj = self.manager.allocate(want.shape, DTYPE)
        obj.tensor.copy_(want)
        return obj

    def put(self, keys, seeds, n_tokens=N_TOKENS):
        """Puts chunks, and returns the objects that were put."""
        objs = [self.allocate(seed, n_tokens) for seed in seeds]
        self.manager.batched_put(keys, objs)
        return objs

    def settle(self):
        """Waits until kvtier has stored what was put, and uses no memory of LMCache."""
        self.kvtier.storage.flush(LIMIT_S)
        assert self.kvtier._loans.wait_for_all(LIMIT_S)

    def stored(self, keys, seeds):
        """Puts chunks into kvtier, and empties LMCache's own cache."""
        self.put(keys, seeds)
        self.settle()
        self.manager.batched_remove(keys, ["LocalCPUBackend"])
        assert self.used_bytes == 0

    def get(self, keys):
        return self.manager.batched_get(keys, location="kv")

    def release(self, objs):
        """Drops the caller's references, and what LMCache keeps of the objects."""
        for obj in objs or []:
            if obj is not None:
                obj.ref_count_down()
        self.cpu.clear()
        # In 0.3.x, clear() leaves what it should remove.
        self.manager.batched_remove(list(self.cpu.hot_cache), ["LocalCPUBackend"])

    def run(self, coroutine):
        """Runs a coroutine on LMCache's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.manager.loop).result(LIMIT_S)

    def close(self):
        if not self.is_closed:
            self.is_closed = True
            self.manager.close()
            gc.collect()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def tensor(seed, n_tokens=N_TOKENS, n_kinds=2):
    """Returns the content of a chunk: the same for the same seed, in every process."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n_kinds, N_LAYERS, n_tokens, WIDTH)
    return torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=generator).view(DTYPE)


def has(obj, seed, n_tokens=N_TOKENS):
    """Reports whether an object has the content of `tensor(seed)`, bit by bit."""
    want = tensor(seed, n_tokens)
    found = obj.tensor
    same = found.shape == want.shape and found.dtype == want.dtype
    return same and torch.equal(found.contiguous().view(torch.int16), want.view(torch.int16))


def eventually(condition):
    """Waits until a condition holds. Reports whether it does."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
