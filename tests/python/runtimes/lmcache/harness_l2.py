"""Builds kvtier's L2 adapter the way LMCache's multi-process server does: from the JSON of `--l2-adapter`."""

import argparse
import json
import select
import time

import torch
from lmcache.v1.distributed.api import GroupedObjectKeys, MemoryLayoutDesc, ObjectKey, PrefetchTaskSpec
from lmcache.v1.distributed.config import EvictionConfig, L1ManagerConfig, L1MemoryManagerConfig, StorageManagerConfig
from lmcache.v1.distributed.internal_api import L2AdapterListener
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.config import add_l2_adapters_args, parse_args_to_l2_adapters_config
from lmcache.v1.distributed.storage_manager import StorageManager
from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj
from lmcache.v1.platform import consume_fd

SHAPE, DTYPE = torch.Size((2, 4, 64, 64)), torch.bfloat16
LAYOUT = MemoryLayoutDesc(shapes=[SHAPE], dtypes=[DTYPE])
OBJECT_BYTES = SHAPE.numel() * DTYPE.itemsize
LIMIT_S = 60.0


def parameters(backends, **more):
    """Returns `adapter_params` with these backends, by name and in order."""
    flat = {f"{name}.{key}": value for name, backend in backends.items() for key, value in backend.items()}
    return {"backends": ", ".join(backends), "kvtier.on_load_error": "fail"} | flat | more


def adapters_config(params, **more):
    """Returns what LMCache's server makes of its command line."""
    spec = {"type": "plugin", "module_path": "kvtier.lmcache_l2", "class_name": "KvtierL2Adapter"}
    parser = argparse.ArgumentParser()
    add_l2_adapters_args(parser)
    args = parser.parse_args(["--l2-adapter", json.dumps(spec | {"adapter_params": params} | more)])
    return parse_args_to_l2_adapters_config(args)


def build_adapter(params):
    (config,) = adapters_config(params).adapters
    return create_l2_adapter(config)


def build_manager(params, l1_bytes=64 << 20, **more):
    return StorageManager(
        StorageManagerConfig(
            l1_manager_config=L1ManagerConfig(
                memory_config=L1MemoryManagerConfig(size_in_bytes=l1_bytes, use_lazy=False, shm_name="")
            ),
            eviction_config=EvictionConfig(eviction_policy="noop"),
            l2_adapter_config=adapters_config(params, **more),
        )
    )


def key(n, model="tests/model", salt="", group=0):
    return ObjectKey(
        chunk_hash=n.to_bytes(8, "big"), model_name=model, kv_rank=0, object_group_id=group, cache_salt=salt
    )


def content(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**15), 2**15, SHAPE, dtype=torch.int16, generator=generator).view(DTYPE)


def memory_object(seed=None):
    """Returns an object of LMCache over memory of its own, with the content of a seed or zeros."""
    raw = torch.zeros(OBJECT_BYTES, dtype=torch.uint8)
    meta = MemoryObjMetadata(SHAPE, DTYPE, 0, OBJECT_BYTES, 1, 0, MemoryFormat.KV_2LTD, shapes=[SHAPE], dtypes=[DTYPE])
    obj = TensorMemoryObj(raw, meta, parent_allocator=None)
    if seed is not None:
        obj.tensor.copy_(content(seed))
    return obj


def has(obj, seed):
    return torch.equal(obj.tensor.view(torch.int16), content(seed).view(torch.int16))


def is_untouched(obj):
    return not obj.raw_data.any()


def signaled(fd, limit_s=LIMIT_S):
    """Waits until a file descriptor is written, and reads it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(limit_s * 1000):
        return False
    consume_fd(fd)
    return True


def await_result(query, fd):
    """Polls as LMCache's controllers do: when the file descriptor is written."""
    end = time.monotonic() + LIMIT_S
    while (result := query()) is None:
        assert time.monotonic() < end and signaled(fd)
    return result


def store(adapter, keys, objects):
    task = adapter.submit_store_task(keys, objects)
    completed = {}

    def query():
        completed.update(adapter.pop_completed_store_tasks())
        return completed.get(task)

    return await_result(query, adapter.get_store_event_fd())


def look_up(adapter, keys):
    """Returns the positions of the keys that were found and locked."""
    task = adapter.submit_lookup_and_lock_task(keys, {0: LAYOUT})
    fd = adapter.get_lookup_and_lock_event_fd()
    return await_result(lambda: adapter.query_lookup_and_lock_result(task), fd).get_indices_list()


def load(adapter, keys, objects):
    """Returns the positions of the objects that were filled."""
    task = adapter.submit_load_task(keys, objects)
    return await_result(lambda: adapter.query_load_result(task), adapter.get_load_event_fd()).get_indices_list()


class Listener(L2AdapterListener):
    def __init__(self):
        self.stored, self.accessed, self.deleted = [], [], []

    def on_l2_keys_stored(self, keys, sizes):
        self.stored.append((list(keys), list(sizes)))

    def on_l2_keys_accessed(self, keys):
        self.accessed.append(list(keys))

    def on_l2_keys_deleted(self, keys):
        self.deleted.append(list(keys))


# --- The storage manager ---


def write(manager, keys, seeds):
    """Writes objects into L1, from where LMCache stores them in L2."""
    objects = manager.reserve_write(keys, LAYOUT)
    assert len(objects) == len(keys)
    for one, seed in zip(keys, seeds, strict=True):
        objects[one].tensor.copy_(content(seed))
    manager.finish_write(keys)


def prefetch(manager, keys, policy="prefix"):
    """Has LMCache load objects into L1. Returns its result."""
    spec = PrefetchTaskSpec(
        [GroupedObjectKeys(keys=keys, object_group_id=0, layout_desc=LAYOUT)], fetching_policy=policy
    )
    handle = manager.submit_prefetch_task(spec)
    assert manager.wait_prefetch_status(handle, LIMIT_S)
    return manager.query_prefetch_status(handle)
