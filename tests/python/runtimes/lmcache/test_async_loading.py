"""LMCache's asynchronous loading through kvtier: lookup and loading on LMCache's event loop.

Real: LMCache's storage manager, event loop, serializer and event manager. `harness.Lookups` takes the place of the
lookup server, which tells vLLM's scheduler over a socket how many tokens were loaded.
"""

import asyncio

import harness
import pytest
from harness import CHUNK_BYTES, LIMIT_S, N_TOKENS, Lookups, fs, has, kvtier_plugin, memory, misbehaving
from lmcache.v1.event_manager import EventType


def build(lmcache, backends, **settings):
    lookups = Lookups()
    it = lmcache({"kv": kvtier_plugin(backends)}, async_lookups=lookups, enable_async_loading=True, **settings)
    return it, lookups


def load(it, lookups, keys, lookup_id="request"):
    """Looks up and loads as LMCache's engine does. Returns how many tokens were reported, and the objects."""
    ends = [N_TOKENS * n for n in range(len(keys) + 1)]
    it.run(it.manager.async_lookup_and_prefetch(lookup_id, keys, ends, pin=True))
    objs = []
    while lookup_id not in lookups.answers:
        it.run(asyncio.sleep(0.01))
    if lookups.answers[lookup_id]:
        tiers = it.events.pop_event(EventType.LOADING, lookup_id).result()
        objs = [obj if harness.IS_03 else obj[1] for tier in tiers for obj in tier]
    return lookups.answers[lookup_id], objs


@pytest.mark.parametrize("kind", ["memory", "fs"])
def test_chunks_are_found_and_loaded_on_the_event_loop(lmcache, tmp_path, kind):
    it, lookups = build(lmcache, {"tier": memory() if kind == "memory" else fs(tmp_path / "kv")})
    keys = it.keys(*range(6))
    it.stored(keys, range(6))
    n_tokens, objs = load(it, lookups, [*keys, *it.keys(99)])
    assert n_tokens == 6 * N_TOKENS and len(objs) == 6
    assert [has(obj, seed) for seed, obj in enumerate(objs)] == [True] * 6
    assert [obj.get_ref_count() for obj in objs] == [1] * 6
    # Pins end with the loading, because LMCache does not give them back.
    assert len(it.kvtier._pins) == 0
    it.release(objs)
    assert it.used_bytes == 0


def test_nothing_is_found(lmcache):
    it, lookups = build(lmcache, {"tier": memory()})
    assert load(it, lookups, it.keys(1, 2)) == (0, [])
    assert it.used_bytes == 0 and len(it.kvtier._pins) == 0


def test_the_rest_behind_lmcaches_own_cache_is_loaded(lmcache):
    it, lookups = build(lmcache, {"tier": memory()})
    keys = it.keys(*range(4))
    it.stored(keys, range(4))
    it.manager.local_cpu_backend.batched_submit_put_task(keys[:2], [it.allocate(0), it.allocate(1)])
    n_tokens, objs = load(it, lookups, keys)
    assert n_tokens == 4 * N_TOKENS and [has(obj, seed) for seed, obj in enumerate(objs)] == [True] * 4


@pytest.mark.parametrize(
    "bad", ["HangBackend", "TrapBackend", "ExitBackend", "HalfBackend", "WrongBytesBackend", "PhantomBackend"]
)
def test_a_bad_backend_loads_nothing_and_the_request_is_answered(lmcache, bad):
    it, lookups = build(lmcache, {"bad": misbehaving(bad)})
    keys = it.keys(1, 2, 3)
    it.stored(keys, [1, 2, 3])
    n_tokens, objs = load(it, lookups, keys)
    assert n_tokens == 0 and objs == []
    assert it.kvtier._loans.wait_for_all(LIMIT_S) and it.used_bytes == 0
    assert it.kvtier._guard.n_failures == 0


def test_loading_stops_at_the_first_chunk_that_is_lost(lmcache, tmp_path):
    it, lookups = build(lmcache, {"disk": fs(tmp_path / "kv")})
    keys = it.keys(1, 2, 3, 4)
    files = set()
    for key, seed in zip(keys, [1, 2, 3, 4], strict=True):
        it.stored([key], [seed])
        now = {path for path in (tmp_path / "kv").rglob("*") if path.is_file() and path.stat().st_size >= CHUNK_BYTES}
        ((new,), files) = (now - files, now)
        if seed == 3:
            new.write_bytes(new.read_bytes()[:-100] + bytes(100))
    n_tokens, objs = load(it, lookups, keys)
    assert n_tokens == 2 * N_TOKENS and [has(obj, seed) for obj, seed in zip(objs, [1, 2], strict=True)] == [True] * 2
    it.release(objs)
    assert it.used_bytes == 0


def test_a_load_that_is_cancelled_gives_its_memory_back(lmcache):
    it, _ = build(lmcache, {"tier": misbehaving("LateBackend", "get", ms=300)})
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])

    async def cancel():
        task = asyncio.ensure_future(it.kvtier.batched_get_non_blocking("request", keys))
        while len(it.kvtier._loans) == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert it.run(cancel())
    assert it.kvtier._loans.wait_for_all(LIMIT_S) and it.used_bytes == 0
