"""A hit that LMCache cannot take back is a chunk in memory.

LMCache 0.3.x, and any that reads layer by layer, computes with unfilled memory if a chunk that a lookup has found
cannot be loaded: vLLM has been told of the hit, and is told of no failure. There kvtier loads the chunk during the
lookup, and keeps it until it is read or unpinned. LMCache 0.5.x reports chunks that cannot be loaded, so there a lookup
only looks.

Real: LMCache (either generation) with its pool and reference counts, kvtier, its backends.
"""

import harness
import pytest
from harness import CHUNK_BYTES, fs, has, kvtier_plugin, memory, misbehaving
from kvtier._lmcache_memory import KeptObjects

only_03 = pytest.mark.skipif(not harness.IS_03, reason="LMCache 0.5.x reports chunks that cannot be loaded")
BAD = ["HangBackend", "TrapBackend", "ExitBackend", "WrongBytesBackend", "HalfBackend", "PhantomBackend"]


@only_03
def test_a_chunk_that_a_lookup_has_found_survives_its_backend(lmcache, tmp_path):
    it = lmcache({"kv": kvtier_plugin({"disk": fs(tmp_path / "kv")})})
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])
    assert all(it.manager.contains(key, pin=True) == "kv" for key in keys)
    assert it.used_bytes == 2 * CHUNK_BYTES
    for path in (tmp_path / "kv").rglob("*"):
        if path.is_file() and path.stat().st_size >= CHUNK_BYTES:
            path.write_bytes(bytes(path.stat().st_size))
    for _ in range(2):
        assert all(it.manager.contains(key) == "kv" for key in keys)
        got = it.get(keys)
        assert has(got[0], 1) and has(got[1], 2)
        it.release(got)
    it.manager.batched_unpin(keys)
    assert it.used_bytes == 0
    assert it.manager.contains(keys[0]) is None


@only_03
@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_loaded_is_not_found(lmcache, bad):
    it = lmcache({"kv": kvtier_plugin({"bad": misbehaving(bad)})})
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])
    assert it.manager.contains(keys[0], pin=True) is None and not it.kvtier.contains(keys[1])
    assert it.kvtier._loans.wait_for_all(harness.LIMIT_S)
    assert it.used_bytes == 0 and len(it.kvtier._kept) == 0 and it.kvtier._guard.n_failures == 0


@only_03
def test_what_was_found_without_a_pin_is_kept_for_one_read(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])
    assert it.kvtier.contains(keys[0]) and it.kvtier.contains(keys[1])
    assert it.used_bytes == 2 * CHUNK_BYTES
    got = it.get(keys)
    assert [obj.get_ref_count() for obj in got] == [1, 1] and len(it.kvtier._kept) == 0
    it.release(got)
    assert it.used_bytes == 0


@only_03
def test_what_is_kept_leaves_half_of_the_pool(lmcache):
    queue = {"kvtier.put_queue_bytes": 1 << 20}
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})}, queue, max_local_cpu_size=8 * CHUNK_BYTES / 1024**3)
    keys = it.keys(*range(6))
    it.stored(keys, range(6))
    assert [it.kvtier.contains(key, pin=True) for key in keys] == [True] * 4 + [False] * 2
    it.manager.batched_unpin(keys)
    assert it.used_bytes == 0 and it.kvtier.contains(keys[5])


@only_03
def test_removing_and_closing_give_back_what_is_kept(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])
    assert it.kvtier.contains(keys[0], pin=True) and it.kvtier.contains(keys[1], pin=True)
    assert it.manager.remove(keys[0]) == 1
    assert not it.kvtier.contains(keys[0]) and it.used_bytes == CHUNK_BYTES
    it.kvtier.close()
    assert it.used_bytes == 0


@pytest.mark.skipif(harness.IS_03, reason="LMCache 0.3.x cannot take a hit back")
def test_lmcache_05_only_looks(lmcache):
    it = lmcache({"kv": kvtier_plugin({"bad": misbehaving("WrongBytesBackend")})})
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])
    assert it.manager.batched_contains(keys, pin=True)[0] == 2 and it.used_bytes == 0
    assert it.get(keys) == [None, None]
    it.manager.batched_unpin(keys)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_kept_objects_expire(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    clock = Clock()
    kept = KeptObjects(10 * CHUNK_BYTES, pinned_s=100, unpinned_s=10, clock=clock)
    for n in (1, 2, 3):
        kept.keep(bytes([n]), it.allocate(n))
    assert kept.has(b"\x01", pin=True) and kept.has(b"\x02", pin=True) and kept.has(b"\x02", pin=True)
    clock.now = 9
    assert kept.has(b"\x03")
    clock.now = 18
    assert kept.has(b"\x03") and kept.has_room(7 * CHUNK_BYTES) and not kept.has_room(7 * CHUNK_BYTES + 1)
    clock.now = 28
    assert not kept.has(b"\x03") and kept.has_room(8 * CHUNK_BYTES) and it.used_bytes == 2 * CHUNK_BYTES
    assert kept.unpin(b"\x02") and kept.has(b"\x02") and kept.unpin(b"\x02") and not kept.unpin(b"\x02")
    assert it.used_bytes == CHUNK_BYTES
    clock.now = 101
    assert kept.has_room(10 * CHUNK_BYTES) and len(kept) == 0 and it.used_bytes == 0


def test_an_object_that_is_kept_already_is_given_back(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    kept = KeptObjects(10 * CHUNK_BYTES)
    first, second = it.allocate(1), it.allocate(1)
    kept.keep(b"k", first)
    kept.keep(b"k", second)
    assert (first.get_ref_count(), second.get_ref_count()) == (1, 0)
    assert kept.take(b"k") is first and kept.take(b"k") is None and first.get_ref_count() == 1
    first.ref_count_down()
    assert it.used_bytes == 0


def test_an_object_that_lmcache_has_freed_is_not_served(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    kept = KeptObjects(10 * CHUNK_BYTES)
    obj = it.allocate(1)
    kept.keep(b"k", obj)
    # As LMCache 0.3.x does it with the layers of a chunk, whoever else has them.
    it.cpu.get_memory_allocator().batched_free([obj])
    assert not kept.has(b"k") and kept.take(b"k") is None and len(kept) == 0
