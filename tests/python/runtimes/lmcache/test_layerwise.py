"""LMCache reading and storing layer by layer (`use_layerwise`): one object per chunk and layer.

Real: LMCache's storage manager, its keys of layers and its event loop. The steps are those of its engine's
`store_layer` and `retrieve_layer`, which want a GPU's connector.
"""

import asyncio

import harness
import kvtier.lmcache
import pytest
import torch
from harness import DTYPE, LIMIT_S, N_LAYERS, N_TOKENS, WIDTH, Lookups, fs, kvtier_plugin, memory, misbehaving
from lmcache.v1.event_manager import EventType
from lmcache.v1.memory_management import MemoryFormat


def build(lmcache, backends, **settings):
    # The serializer, which 0.3.x wants for reading layers, comes with the lookup server.
    return lmcache(
        {"kv": kvtier_plugin(backends)},
        async_lookups=Lookups(),
        enable_async_loading=True,
        use_layerwise=True,
        **settings,
    )


def layer(seed, n, n_tokens=N_TOKENS):
    generator = torch.Generator().manual_seed(1000 * seed + n)
    return torch.randint(-(2**15), 2**15, (n_tokens, 2, WIDTH), dtype=torch.int16, generator=generator).view(DTYPE)


def has_layer(obj, seed, n, n_tokens=N_TOKENS):
    return torch.equal(obj.tensor.view(torch.int16), layer(seed, n, n_tokens).view(torch.int16))


def store(it, keys, seeds, n_tokens=N_TOKENS):
    """Stores chunks as `store_layer` does. Returns the keys by layer."""
    objs = [
        it.manager.batched_allocate(torch.Size((n_tokens, 2, WIDTH)), DTYPE, N_LAYERS, MemoryFormat.KV_T2D)
        for _ in seeds
    ]
    by_layer = list(zip(*(key.split_layers(N_LAYERS) for key in keys), strict=True))
    for n in range(N_LAYERS):
        for obj, seed in zip(objs, seeds, strict=True):
            obj[n].tensor.copy_(layer(seed, n, n_tokens))
        it.manager.batched_put(list(by_layer[n]), [obj[n] for obj in objs])
    it.settle()
    it.release(None)
    assert it.used_bytes == 0
    return [list(layer_keys) for layer_keys in by_layer]


def retrieve(it, keys):
    """Finds chunks by their first layer and reads all layers, as `retrieve_layer` does. Returns objects by layer."""
    found, location = [], None
    for key in keys:
        tier = it.manager.contains(key.split_layers(N_LAYERS)[0])
        if tier is None:
            break
        location = location or tier
        found.append(key.split_layers(N_LAYERS))
    if not found:
        return []
    by_layer = [list(layer_keys) for layer_keys in zip(*found, strict=True)]
    # 0.3.x reads from its CPU cache, wherever it has found the first layer.
    reader = it.manager.layerwise_batched_get(by_layer, **({} if harness.IS_03 else {"location": location}))
    return [future.result(LIMIT_S) for future in reader]


def give_back(it, layers=()):
    """Drops all references, also of what kvtier keeps a while because LMCache may read it."""
    it.release([obj for objs in layers for obj in objs])
    it.kvtier._kept.drop_all()
    it.release(None)


@pytest.mark.parametrize("kind", ["memory", "fs"])
def test_layers_come_back_bit_by_bit(lmcache, tmp_path, kind):
    it = build(lmcache, {"tier": memory() if kind == "memory" else fs(tmp_path / "kv")})
    keys = it.keys(1, 2, 3)
    store(it, keys, [1, 2, 3])
    layers = retrieve(it, [*keys, *it.keys(4)])
    assert len(layers) == N_LAYERS and all(len(objs) == 3 for objs in layers)
    assert all(has_layer(objs[i], seed, n) for n, objs in enumerate(layers) for i, seed in enumerate([1, 2, 3]))
    give_back(it, layers)
    assert it.used_bytes == 0


def test_layers_of_partial_chunks_have_their_shape(lmcache):
    it = build(lmcache, {"tier": memory()})
    keys = it.keys(1)
    store(it, keys, [1], n_tokens=9)
    layers = retrieve(it, keys)
    assert all(has_layer(objs[0], 1, n, n_tokens=9) for n, objs in enumerate(layers))


def test_layers_are_read_from_kvtier_by_its_name(lmcache):
    it = build(lmcache, {"tier": memory()})
    keys = it.keys(1, 2)
    by_layer = store(it, keys, [1, 2])
    layers = [future.result(LIMIT_S) for future in it.manager.layerwise_batched_get(by_layer, location="kv")]
    assert all(has_layer(objs[i], seed, n) for n, objs in enumerate(layers) for i, seed in enumerate([1, 2]))
    give_back(it, layers)
    assert it.used_bytes == 0


def test_a_chunk_that_lacks_a_layer_is_not_found(lmcache):
    it = build(lmcache, {"tier": memory()})
    keys = it.keys(1, 2)
    by_layer = store(it, keys, [1, 2])
    it.kvtier.remove(by_layer[2][1])
    layers = retrieve(it, keys)
    assert all(len(objs) == 1 and has_layer(objs[0], 1, n) for n, objs in enumerate(layers))
    give_back(it, layers)
    assert it.used_bytes == 0


@pytest.mark.parametrize("bad", ["HangBackend", "TrapBackend", "HalfBackend", "WrongBytesBackend", "OverclaimBackend"])
def test_a_bad_backend_finds_nothing(lmcache, bad):
    it = build(lmcache, {"bad": misbehaving(bad)})
    keys = it.keys(1, 2)
    store(it, keys, [1, 2])
    assert retrieve(it, keys) == []
    assert it.kvtier._loans.wait_for_all(LIMIT_S) and it.used_bytes == 0
    assert it.kvtier._guard.n_failures == 0


def look_up(it, key):
    """Looks for a chunk as LMCache's `lookup` does. Reports whether it counts as found, and returns what is pinned."""
    layer_keys = key.split_layers(N_LAYERS)
    if harness.IS_03:
        tiers = [it.manager.contains(each, pin=True) for each in layer_keys]
        # Any layer counts.
        return any(tiers), layer_keys
    n_found, by_tier = it.manager.batched_contains(layer_keys, pin=True)
    return n_found == N_LAYERS and len(by_tier) == 1, layer_keys


def test_a_chunk_that_a_lookup_has_found_is_whole(lmcache):
    it = build(lmcache, {"tier": memory()})
    keys = it.keys(1, 2)
    by_layer = store(it, keys, [1, 2])
    it.kvtier.remove(by_layer[1][1])
    found = [look_up(it, key) for key in keys]
    assert [is_found for is_found, _ in found] == [True, False]
    # What was found is in memory, whatever becomes of the backend.
    it.kvtier.storage.remove(it.kvtier._keys([each for layer_keys in by_layer for each in layer_keys]))
    layers = retrieve(it, keys)
    assert all(len(objs) == 1 and has_layer(objs[0], 1, n) for n, objs in enumerate(layers))
    it.manager.batched_unpin(found[0][1])
    give_back(it, layers)
    assert it.used_bytes == 0


@pytest.mark.parametrize("bad", ["HangBackend", "TrapBackend", "HalfBackend", "WrongBytesBackend", "OverclaimBackend"])
def test_a_lookup_in_a_bad_backend_finds_nothing(lmcache, bad):
    it = build(lmcache, {"bad": misbehaving(bad)})
    keys = it.keys(1)
    store(it, keys, [1])
    assert look_up(it, keys[0])[0] is False
    assert it.kvtier._loans.wait_for_all(LIMIT_S) and it.used_bytes == 0


def test_a_layer_that_was_not_looked_up_and_is_missing_stops_the_request(lmcache):
    it = build(lmcache, {"tier": memory()})
    keys = it.keys(1, 2)
    by_layer = store(it, keys, [1, 2])
    it.kvtier.remove(by_layer[1][0])
    reader = it.manager.layerwise_batched_get(by_layer, location="kv")
    first = next(reader).result(LIMIT_S)
    assert len(first) == 2
    with pytest.raises(kvtier.lmcache.LayerMissing):
        next(reader).result(LIMIT_S)
    it.release(first)
    assert it.used_bytes == 0


def test_without_a_cpu_cache_layers_are_found_where_lmcache_can_read_them(lmcache):
    it = build(lmcache, {"tier": memory()}, local_cpu=False)
    keys = it.keys(1)
    store(it, keys, [1])
    layers = retrieve(it, keys)
    if harness.IS_03:
        assert layers == []
    else:
        assert all(has_layer(objs[0], 1, n) for n, objs in enumerate(layers))


@pytest.mark.skipif(harness.IS_03, reason="LMCache 0.3.x does not load layers asynchronously")
def test_layers_are_loaded_asynchronously(lmcache):
    it = build(lmcache, {"tier": memory()})
    keys = it.keys(1, 2)
    store(it, keys, [1, 2])
    lookups = it.manager.async_lookup_server
    flat = [layer_key for key in keys for layer_key in key.split_layers(N_LAYERS)]
    it.run(
        it.manager.async_lookup_and_prefetch(
            "request", flat, [0, N_TOKENS, 2 * N_TOKENS], pin=True, keys_per_chunk=N_LAYERS
        )
    )
    while "request" not in lookups.answers:
        it.run(asyncio.sleep(0.01))
    tiers = it.events.pop_event(EventType.LOADING, "request").result()
    n_tokens, objs = lookups.answers["request"], [obj for tier in tiers for _, obj in tier]
    assert n_tokens == 2 * N_TOKENS
    assert all(has_layer(obj, 1 + i // N_LAYERS, i % N_LAYERS) for i, obj in enumerate(objs))
