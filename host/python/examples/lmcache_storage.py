"""Stores the KV cache of a prompt through LMCache, starts LMCache again, and finds it in kvtier's `fs` backend.

    pip install kvtier lmcache
    python lmcache_storage.py

Runs without a GPU: LMCache's storage manager is the real one, and random tensors are the KV cache. What a serving
engine adds is the copy between its GPU and LMCache's memory. In vLLM only the YAML file is needed:
`LMCACHE_CONFIG_FILE=lmcache.yaml vllm serve … --kv-transfer-config '{"kv_connector": "LMCacheConnectorV1", "kv_role":
"kv_both"}'`.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")

import kvtier.components
import torch
from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.event_manager import EventManager
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.storage_manager import StorageManager

# A small model: 4 layers, 2 KV heads of 64 elements, chunks of 256 tokens.
MODEL, SHAPE, DTYPE = "example/model", (4, 2, 256, 2, 64), torch.bfloat16

YAML = """
chunk_size: 256
local_cpu: true
max_local_cpu_size: 0.1
storage_plugins: "kv"
extra_config:
  storage_plugin.kv.module_path: kvtier.lmcache
  storage_plugin.kv.class_name: KvtierBackend
  storage_plugin.kv.backends: "disk"
  storage_plugin.kv.disk.module_path: {component}
  storage_plugin.kv.disk.class_name: {class_name}
  storage_plugin.kv.disk.config.root: /data
  storage_plugin.kv.disk.allow.fs: ["{folder}:/data:rw"]
  kvtier.on_load_error: fail
"""


def start(path: Path) -> StorageManager:
    """Starts LMCache's storage manager from a configuration file."""
    metadata = LMCacheMetadata(
        model_name=MODEL,
        world_size=1,
        local_world_size=1,
        worker_id=0,
        local_worker_id=0,
        kv_dtype=DTYPE,
        kv_shape=SHAPE,
        chunk_size=SHAPE[2],
        role="worker",
    )
    return StorageManager(LMCacheEngineConfig.from_file(str(path)), metadata, EventManager())


def content(n: int) -> torch.Tensor:
    """Returns the KV of the n-th chunk, as LMCache lays it out: kinds (K and V), layers, tokens, heads times size."""
    layers, kinds, tokens, heads, size = SHAPE
    return torch.randn(kinds, layers, tokens, heads * size, generator=torch.Generator().manual_seed(n)).to(DTYPE)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kv"
        folder.mkdir()
        path = Path(scratch) / "lmcache.yaml"
        component, class_name = kvtier.components.path("fs"), kvtier.components.class_name("fs")
        path.write_text(YAML.format(component=component, class_name=class_name, folder=folder))
        keys = [
            CacheEngineKey(model_name=MODEL, world_size=1, worker_id=0, chunk_hash=n, dtype=DTYPE) for n in range(8)
        ]

        lmcache = start(path)
        objects = []
        for n in range(8):
            obj = lmcache.allocate(content(n).shape, DTYPE)
            obj.tensor.copy_(content(n))
            objects.append(obj)
        lmcache.batched_put(keys, objects)
        lmcache.close()
        n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"stored 8 chunks, {n_bytes >> 10} KiB on disk")

        lmcache = start(path)
        n_found, by_tier = lmcache.batched_contains(keys)
        found = lmcache.batched_get(keys, location="kv")
        right = sum(obj is not None and torch.equal(obj.tensor, content(n)) for n, obj in enumerate(found))
        print(f"after a restart: found {n_found} chunks in {', '.join(by_tier)}, {right} of them right")
        for obj in found:
            if obj is not None:
                obj.ref_count_down()
        (disk,) = lmcache.storage_backends["kv"].storage.status().backends
        print(f"backend {disk.name}: up {disk.is_up}, lanes restarted {disk.lane_restarts} times")
        lmcache.close()
        if right != 8:
            raise SystemExit("not all chunks came back")


if __name__ == "__main__":
    main()
