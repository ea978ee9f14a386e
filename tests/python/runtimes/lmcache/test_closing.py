"""Closing LMCache while kvtier still uses its memory.

LMCache closes its backends in the order in which it made them: the CPU backend first, which frees the pool, and the
plugins afterwards. No transfer may run when the pool is freed.
"""

import gc
import threading

import harness
import kvtier.lmcache
import pytest
from harness import fs, has, kvtier_plugin, memory, misbehaving


def allocator_class():
    try:
        from lmcache.v1.memory_allocators.mixed_memory_allocator import MixedMemoryAllocator
    except ImportError:
        from lmcache.v1.memory_management import MixedMemoryAllocator
    return MixedMemoryAllocator


@pytest.mark.parametrize("is_hooked", [True, False], ids=["kvtier", "control"])
def test_puts_in_flight_end_before_the_pool_is_freed(lmcache, monkeypatch, is_hooked):
    late = misbehaving("LateBackend", "put", ms=700)
    counts = []
    monkeypatch.setattr(allocator_class(), "close", lambda self: counts.append(len(loans)))
    if not is_hooked:
        monkeypatch.setattr(kvtier.lmcache, "_close_before_the_pool", lambda *_: None)
    it = lmcache({"kv": kvtier_plugin({"tier": late})})
    loans = it.kvtier._loans
    objs = it.put(it.keys(1, 2, 3), [1, 2, 3])
    assert len(loans) == 3
    it.close()
    # The control shows what LMCache does by itself: it frees memory that is being read.
    assert counts == ([0] if is_hooked else [3])
    assert len(loans) == 0
    # None is kvtier's; one may be that of LMCache's cache.
    assert all(obj.get_ref_count() <= 1 for obj in objs)


def test_what_was_queued_is_stored_before_closing(lmcache, tmp_path):
    plugins = {"kv": kvtier_plugin({"disk": fs(tmp_path / "kv")})}
    first = lmcache(plugins)
    first.put(first.keys(*range(20)), range(20))
    first.close()
    second = lmcache(plugins)
    got = second.get(second.keys(*range(20)))
    assert [has(obj, seed) for seed, obj in enumerate(got)] == [True] * 20


def test_closing_with_a_put_that_hangs_ends(lmcache):
    it = lmcache(
        {"kv": kvtier_plugin({"tier": misbehaving("HangBackend", "put", call_timeout_ms=60000)})},
        {"kvtier.close_timeout_ms": 300},
    )
    it.put(it.keys(1), [1])
    it.close()
    assert len(it.kvtier._loans) == 0


def test_closing_while_a_get_waits_ends_it_with_a_miss(lmcache):
    it = lmcache(
        {"kv": kvtier_plugin({"tier": misbehaving("HangBackend", call_timeout_ms=60000)})},
        {"kvtier.close_timeout_ms": 300},
    )
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])
    results = []
    thread = threading.Thread(target=lambda: results.append(it.get(keys)))
    thread.start()
    while len(it.kvtier._loans) == 0:
        thread.join(0.01)
    it.close()
    thread.join(harness.LIMIT_S)
    assert results == [[None, None]] and len(it.kvtier._loans) == 0


def test_a_pool_that_a_transfer_still_uses_is_not_freed(lmcache, monkeypatch, caplog):
    freed = []
    monkeypatch.setattr(allocator_class(), "close", lambda self: freed.append(self))
    monkeypatch.setattr(kvtier.lmcache, "_LATE_WAIT_S", 0.05)
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    obj = it.allocate(1)
    lent = it.kvtier._loans.lend(obj)  # A transfer that does not end.
    it.close()
    assert freed == [] and "LMCache's pool is not freed" in caplog.text
    del lent
    assert it.kvtier._loans.wait_for_all(harness.LIMIT_S)


def test_a_backend_that_lmcache_forgets_does_not_keep_the_pool(lmcache, monkeypatch):
    freed = []
    monkeypatch.setattr(allocator_class(), "close", lambda self: freed.append(self))
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    it.put(it.keys(1), [1])
    it.settle()
    del it.manager.storage_backends["kv"]
    gc.collect()
    it.close()
    assert len(freed) == 1


def test_after_closing_everything_is_a_miss(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])
    backend = it.kvtier
    backend.close()
    backend.close()
    objs = [it.allocate(3)]
    assert not backend.contains(keys[0]) and backend.batched_contains(keys) == 0
    assert backend.get_blocking(keys[0]) is None and backend.batched_get_blocking(keys) == [None, None]
    assert backend.batched_submit_put_task(keys[:1], objs) is None and objs[0].get_ref_count() == 1
    assert backend.batched_remove(keys) == 0 and not backend.unpin(keys[0])
    assert it.run(backend.batched_async_contains("id", keys, True)) == 0
    assert it.run(backend.batched_get_non_blocking("id", keys)) == []
    assert backend._guard.n_failures == 0
    it.release(objs)


@pytest.mark.skipif(harness.IS_03, reason="LMCache 0.3.x makes its tiers once")
def test_a_plugin_that_lmcache_makes_again_takes_the_place_of_the_old_one(lmcache, tmp_path):
    it = lmcache({"kv": kvtier_plugin({"disk": fs(tmp_path / "kv")})})
    old = it.kvtier
    it.put(it.keys(1), [1])
    it.manager.create_backends()
    assert it.kvtier is not old and old.storage.is_closed
    it.release(None)
    it.stored(it.keys(2), [2])
    got = it.get(it.keys(1, 2))
    assert has(got[0], 1) and has(got[1], 2)
    it.release(got)
    it.manager.recreate_backend("kv")
    got = it.get(it.keys(1, 2))
    assert has(got[0], 1) and has(got[1], 2)
