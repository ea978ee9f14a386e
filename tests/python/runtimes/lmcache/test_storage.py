"""kvtier.lmcache in LMCache's storage manager: what is put is found again, without copies, and nothing is kept.

Real: LMCache (either generation) with its YAML, loader, pool and reference counts; kvtier; the backends `log`, `memory`
and `fs` in their sandbox. Nothing stands in.
"""

import threading

import harness
import pytest
import torch
from harness import CHUNK_BYTES, LIMIT_S, eventually, fs, has, kvtier_plugin, memory, misbehaving

# By default a quarter of LMCache's pool may wait to be stored: too little for the pools of a few chunks here.
QUEUE = {"kvtier.put_queue_bytes": 1 << 20}


class Spy:
    """Notes which memory kvtier is given, and passes everything on."""

    def __init__(self, backend):
        self.storage = backend._storage
        self.read, self.filled = [], []
        backend._storage = self

    def put_lent(self, keys, lent, **more):
        self.read += [(one.address, len(one)) for one in lent]
        return self.storage.put_lent(keys, lent, **more)

    def fetch_into(self, keys, lent, **more):
        self.filled += [(one.address, len(one)) for one in lent]
        return self.storage.fetch_into(keys, lent, **more)

    def __getattr__(self, name):
        return getattr(self.storage, name)


def test_the_yaml_of_lmcaches_documentation_works(lmcache):
    log = {"module_path": str(harness.GUESTS / "log.wasm"), "class_name": "ExternalLogBackend"}
    it = lmcache({"log_external_backend": kvtier_plugin({"log": log})})
    backend = it.manager.storage_backends["log_external_backend"]
    assert list(it.manager.storage_backends) == ["LocalCPUBackend", "log_external_backend"]
    keys = it.keys(1, 2)
    it.release(it.put(keys, [1, 2]) and None)
    backend.storage.flush(LIMIT_S)
    (log_counts,) = [counts for counts in backend.storage.counts() if counts.name == "log"]
    assert log_counts.bytes_written == 0 and log_counts.puts == 0  # `log` keeps nothing.
    assert not backend.contains(keys[0])
    assert it.manager.batched_get(keys, location="log_external_backend") == [None, None]
    assert backend.storage.status().backends[0].is_up


@pytest.mark.parametrize("kind", ["memory", "fs"])
def test_chunks_come_back_bit_by_bit(lmcache, tmp_path, kind):
    it = lmcache({"kv": kvtier_plugin({"tier": memory() if kind == "memory" else fs(tmp_path / "kv")})})
    keys = it.keys(*range(10, 18))
    it.stored(keys, range(8))
    assert it.kvtier.contains(keys[0]) and it.manager.contains(keys[7]) == "kv"
    got = it.get(keys)
    assert [has(obj, seed) for seed, obj in enumerate(got)] == [True] * 8
    it.release(got)
    one = it.kvtier.get_blocking(keys[3])
    assert has(one, 3)
    it.release([one])
    assert it.used_bytes == 0


def test_the_next_start_finds_what_this_one_stored(lmcache, tmp_path):
    plugins = {"kv": kvtier_plugin({"disk": fs(tmp_path / "kv")})}
    first = lmcache(plugins)
    first.stored(first.keys(1, 2, 3), [1, 2, 3])
    first.close()
    second = lmcache(plugins)
    got = second.get(second.keys(1, 2, 3, 4))
    assert [has(obj, seed) for seed, obj in zip([1, 2, 3], got[:3], strict=True)] == [True] * 3 and got[3] is None
    second.release(got)
    # Another model finds nothing of it.
    second.close()
    other = lmcache(plugins, fields={"model_name": "another/model"})
    assert other.get(other.keys(1, 2, 3)) == [None] * 3


def test_backends_read_and_fill_lmcaches_own_memory(lmcache, tmp_path):
    it = lmcache({"kv": kvtier_plugin({"disk": fs(tmp_path / "kv")})})
    spy = Spy(it.kvtier)
    keys = it.keys(1, 2, 3)
    objs = it.put(keys, [1, 2, 3])
    assert spy.read == [(obj.data_ptr, CHUNK_BYTES) for obj in objs]
    it.settle()
    it.release(None)
    it.manager.batched_remove(keys, ["LocalCPUBackend"])
    got = it.get(keys)
    assert spy.filled == [(obj.data_ptr, CHUNK_BYTES) for obj in got]
    pool = it.cpu.get_memory_allocator().buffer
    begin, end = pool.data_ptr(), pool.data_ptr() + pool.numel()
    assert all(begin <= address and address + size <= end for address, size in spy.read + spy.filled)
    assert [has(obj, seed) for obj, seed in zip(got, [1, 2, 3], strict=True)] == [True] * 3
    # The memory is not a view of something else: what kvtier filled is what the pool has there.
    at = got[1].data_ptr - begin
    assert torch.equal(pool[at : at + CHUNK_BYTES], harness.tensor(2).contiguous().view(torch.uint8).flatten())
    it.release(got)


def test_references_are_back_after_puts_gets_and_misses(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    keys = it.keys(1, 2, 3)
    objs = it.put(keys, [1, 2, 3])
    it.settle()
    assert [obj.get_ref_count() for obj in objs] == [1, 1, 1]  # LMCache's own cache.
    it.release(None)
    assert it.used_bytes == 0
    got = it.get([*keys, *it.keys(99)])
    # Those of the caller, and in 0.5.x none more, since a miss keeps LMCache from caching the list.
    assert [obj.get_ref_count() for obj in got[:3]] == [1, 1, 1] and got[3] is None
    assert it.used_bytes == 3 * CHUNK_BYTES
    it.release(got)
    assert it.used_bytes == 0
    assert it.get(it.keys(7, 8)) == [None, None] and it.used_bytes == 0
    assert it.cpu.get_memory_allocator().memcheck()


def test_without_lmcaches_cache_objects_are_free_when_they_are_stored(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})}, local_cpu=False)
    objs = it.put(it.keys(1, 2), [1, 2])
    it.settle()
    assert [obj.get_ref_count() for obj in objs] == [0, 0] and it.used_bytes == 0
    got = it.get(it.keys(1, 2))
    assert has(got[0], 1) and has(got[1], 2)


def test_a_put_holds_its_objects_until_the_backend_has_read_them(lmcache):
    it = lmcache({"kv": kvtier_plugin({"late": misbehaving("LateBackend", "put", ms=1000)})})
    objs = it.put(it.keys(1, 2), [1, 2])
    assert [obj.get_ref_count() for obj in objs] == [2, 2]
    it.manager.batched_remove(it.keys(1, 2), ["LocalCPUBackend"])
    assert [obj.get_ref_count() for obj in objs] == [1, 1] and it.used_bytes == 2 * CHUNK_BYTES
    it.settle()
    assert it.used_bytes == 0
    got = it.get(it.keys(1, 2))
    assert has(got[0], 1) and has(got[1], 2)


def test_partial_chunks_come_back_in_their_shape(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})}, save_unfull_chunk=True)
    keys = it.keys(1, 2, 3)
    objs = [it.allocate(1), it.allocate(2), it.allocate(3, n_tokens=17)]
    it.manager.batched_put(keys, objs)
    it.settle()
    it.release(None)
    got = it.get(keys)
    assert has(got[0], 1) and has(got[1], 2) and has(got[2], 3, n_tokens=17)
    assert got[2].get_size() == CHUNK_BYTES // harness.N_TOKENS * 17 and got[2].get_num_tokens() == 17
    it.release(got)
    assert it.used_bytes == 0 and it.cpu.get_memory_allocator().memcheck()


def test_objects_of_another_layout_are_not_stored(lmcache, caplog):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    shape = torch.Size((2, harness.N_LAYERS + 1, harness.N_TOKENS, harness.WIDTH))
    objs = [it.manager.allocate(shape, harness.DTYPE), it.allocate(2)]
    keys = it.keys(1, 2)
    it.manager.batched_put(keys, objs)
    it.settle()
    it.release(None)
    assert [obj and has(obj, 2) for obj in it.get(keys)] == [None, True]
    assert "objects of another layout than" in caplog.text


def test_models_with_mla_have_one_tensor_a_layer(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})}, fields={"use_mla": True})
    want = harness.tensor(5, n_kinds=1)
    from lmcache.v1.memory_management import MemoryFormat

    obj = it.manager.allocate(want.shape, harness.DTYPE, MemoryFormat.KV_MLA_FMT)
    obj.tensor.copy_(want)
    (key,) = it.keys(1)
    it.manager.batched_put([key], [obj])
    it.settle()
    it.release(None)
    found = it.kvtier.get_blocking(key)
    assert found.meta.fmt == MemoryFormat.KV_MLA_FMT
    assert torch.equal(found.tensor.view(torch.int16), want.view(torch.int16))


def test_a_hit_behind_a_miss_is_returned_at_its_place(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    it.stored(it.keys(1, 3), [1, 3])
    got = it.get(it.keys(1, 2, 3))
    assert has(got[0], 1) and got[1] is None and has(got[2], 3)
    it.release(got)
    assert it.used_bytes == 0


def test_more_chunks_than_the_pool_has_room_for_are_misses_and_not_a_deadlock(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})}, QUEUE, max_local_cpu_size=4 * CHUNK_BYTES / 1024**3)
    for at in range(0, 6, 2):
        it.stored(it.keys(at, at + 1), [at, at + 1])
    got = it.get(it.keys(*range(6)))
    assert [has(obj, seed) for seed, obj in enumerate(got[:4])] == [True] * 4 and got[4:] == [None, None]
    it.release(got)
    assert it.used_bytes == 0


def test_a_get_waits_for_memory_that_a_put_is_still_using(lmcache):
    late = misbehaving("LateBackend", "put", ms=400)
    plugins = {"kv": kvtier_plugin({"late": late, "tier": memory()})}
    it = lmcache(plugins, QUEUE, max_local_cpu_size=4 * CHUNK_BYTES / 1024**3)
    it.put(it.keys(1, 2, 3), [1, 2, 3])
    it.settle()
    it.release(None)
    it.put(it.keys(4, 5, 6, 7), [4, 5, 6, 7])
    it.manager.batched_remove(it.keys(4, 5, 6, 7), ["LocalCPUBackend"])
    assert it.used_bytes == 4 * CHUNK_BYTES
    got = it.get(it.keys(1, 2, 3))
    assert [has(obj, seed) for obj, seed in zip(got, [1, 2, 3], strict=True)] == [True] * 3
    it.release(got)


@pytest.mark.skipif(harness.IS_03, reason="LMCache 0.3.x keeps what it has pinned in memory")
def test_pins_are_given_back_key_by_key(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    backend = it.kvtier
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])

    def n_pinned():
        return backend.storage.status().lookups_pinned

    for key in keys:
        assert backend.contains(key, pin=True)
    assert not backend.contains(*it.keys(9), pin=True)
    assert n_pinned() == 2
    it.manager.batched_unpin(keys)
    assert eventually(lambda: n_pinned() == 0)
    assert backend.pin(keys[0]) and n_pinned() == 1 and backend.unpin(keys[0])
    assert eventually(lambda: n_pinned() == 0)
    assert not backend.unpin(keys[0])
    assert it.manager.batched_contains([*keys, *it.keys(9)], pin=True) == (2, {"kv": keys})
    assert n_pinned() == 1
    it.manager.batched_unpin(keys, ["kv"])
    assert eventually(lambda: n_pinned() == 0)


def test_chunks_are_removed(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    keys = it.keys(1, 2, 3)
    it.stored(keys, [1, 2, 3])
    assert it.manager.remove(keys[0]) == 1 and not it.kvtier.contains(keys[0])
    assert it.manager.batched_remove(keys) == 2 and not it.kvtier.contains(keys[2])


def test_tags_that_look_alike_are_different_chunks(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    (honest,) = it.keys(1, tenant="a", mode="b")
    (forged,) = it.keys(1, tenant="a@mode%b")
    assert honest.to_string() == forged.to_string()  # LMCache's text does not tell them apart.
    it.stored([honest], [1])
    assert it.kvtier.contains(honest) and not it.kvtier.contains(forged)


@pytest.mark.skipif(harness.IS_03, reason="LMCache 0.3.x has no completion callbacks")
def test_completion_callbacks_name_what_was_stored(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": misbehaving("GoodBackend")})})
    told, done = [], threading.Semaphore(0)

    def stored(key):
        told.append(key)
        done.release()
        raise RuntimeError("a callback's exception is logged")

    keys, objs = it.keys(1, 2), [it.allocate(1), it.allocate(2)]
    it.kvtier.batched_submit_put_task(keys, objs, on_complete_callback=stored)
    for _ in keys:
        assert done.acquire(timeout=LIMIT_S)
    assert told == keys and it.kvtier._guard.n_failures >= 1
    it.release(objs)


def test_chunks_of_lmcaches_evictions_that_tear_are_removed(lmcache):
    # LMCache 0.3.x frees all layers of a chunk when one of them has no other user.
    late = misbehaving("LateBackend", "put", ms=500)
    it = lmcache({"kv": kvtier_plugin({"late": late})})
    (key,) = it.keys(1)
    (obj,) = it.put([key], [1])
    it.cpu.hot_cache.pop(key)
    it.cpu.get_memory_allocator().batched_free([obj])
    assert not obj.is_valid()
    it.settle()
    assert eventually(lambda: not it.kvtier.contains(key))
