"""LMCache's distributed storage manager over kvtier.lmcache_l2.

Real: the storage manager of LMCache's multi-process mode with its store, prefetch and eviction controllers, its L1
memory, and the command line that configures it; kvtier and its backends. What the server around it does (sockets, CUDA
handles) is left out.
"""

import harness
import pytest

if harness.IS_03:
    pytest.skip("LMCache 0.3.x has no L2 adapters", allow_module_level=True)

import harness_l2 as l2
from harness import eventually, fs, memory, misbehaving
from harness_l2 import LAYOUT, OBJECT_BYTES, key, parameters, prefetch, write


@pytest.fixture
def manager():
    opened = []

    def build(backends=None, *, l1_bytes=64 << 20, l2_spec=None, **more):
        params = parameters(backends or {"tier": memory()}, **more)
        opened.append(l2.build_manager(params, l1_bytes, **(l2_spec or {})))
        return opened[-1]

    yield build
    for each in opened:
        if not adapter_of(each).storage.is_closed:
            each.close()


def adapter_of(manager):
    ((_, adapter),) = manager.l2_adapters()
    return getattr(adapter, "inner_adapter", adapter)


def stored(manager, numbers):
    """Has LMCache write objects, waits until kvtier has them, and takes them out of L1."""
    keys = [key(n) for n in numbers]
    write(manager, keys, numbers)
    adapter = adapter_of(manager)
    assert eventually(lambda: all(one in adapter._sizes for one in keys))
    assert eventually(lambda: manager.delete_l1_keys(keys)[0] == len(keys) or not used(manager))
    assert used(manager) == 0
    return keys


def used(manager):
    return manager.get_l1_usage()[0]


def hits(result):
    return result.hit_cells[0].get_indices_list()


def check_and_release(manager, keys, numbers):
    with manager.read_prefetched_results(keys) as objects:
        assert all(l2.has(obj, n) for obj, n in zip(objects, numbers, strict=True))
    manager.finish_read_prefetched(keys)


def test_objects_go_to_kvtier_and_come_back(manager, tmp_path):
    it = manager({"disk": fs(tmp_path / "kv")})
    keys = stored(it, range(6))
    result = prefetch(it, keys)
    assert hits(result) == list(range(6)) and result.l2_hit_count == 6
    check_and_release(it, keys, range(6))
    assert eventually(lambda: adapter_of(it).storage.status().lookups_pinned == 0)
    assert it.report_status()["is_healthy"]


def test_the_next_server_finds_what_this_one_stored(manager, tmp_path):
    first = manager({"disk": fs(tmp_path / "kv")})
    keys = stored(first, range(3))
    first.close()
    second = manager({"disk": fs(tmp_path / "kv")})
    assert hits(prefetch(second, [*keys, key(99)])) == [0, 1, 2]
    check_and_release(second, keys, range(3))


def test_nothing_is_found(manager):
    it = manager()
    assert hits(prefetch(it, [key(1), key(2)])) == []
    assert used(it) == 0


def test_holes_are_loaded_if_lmcache_wants_all(manager):
    it = manager()
    keys = stored(it, [0, 2, 3])
    wanted = [key(n) for n in range(4)]
    assert hits(prefetch(it, wanted, "full")) == [0, 2, 3]
    check_and_release(it, keys, [0, 2, 3])
    # By default only the prefix counts, and what was found behind it is not kept.
    assert hits(prefetch(it, [key(9), *keys])) == []


@pytest.mark.parametrize(
    "bad",
    ["HangBackend", "TrapBackend", "ExitBackend", "StderrFloodBackend", "WrongBytesBackend", "HalfBackend"],
)
def test_a_bad_backend_costs_its_chunks_and_nothing_else(manager, bad):
    it = manager({"bad": misbehaving(bad)})
    keys = stored(it, range(3))
    assert hits(prefetch(it, keys)) == []
    assert eventually(lambda: used(it) == 0)
    # LMCache goes on: what it writes anew is served from L1.
    write(it, [key(50)], [50])
    assert hits(prefetch(it, [key(50)])) == [0]
    check_and_release(it, [key(50)], [50])


@pytest.mark.parametrize("bad", ["HangBackend", "TrapBackend", "FailBackend"])
def test_a_backend_that_stores_nothing_gives_l1_back(manager, bad):
    it = manager({"bad": misbehaving(bad, "put")})
    keys = [key(n) for n in range(3)]
    write(it, keys, range(3))
    assert eventually(lambda: it.delete_l1_keys(keys)[1] == 0)
    assert used(it) == 0 and adapter_of(it)._guard.n_failures == 0


def test_a_flipped_bit_is_a_miss(manager, tmp_path):
    it = manager({"disk": fs(tmp_path / "kv")})
    keys = stored(it, range(3))
    files = [path for path in (tmp_path / "kv").rglob("*") if path.is_file() and path.stat().st_size >= OBJECT_BYTES]
    for path in files:
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
    assert len(files) == 3 and hits(prefetch(it, keys)) == []


def test_lmcache_evicts_from_kvtier(manager):
    capacity_gb = 10 * OBJECT_BYTES / 1024**3
    eviction = {"eviction_policy": "LRU", "trigger_watermark": 0.5, "eviction_ratio": 0.5}
    it = manager(max_capacity_gb=capacity_gb, l2_spec={"eviction": eviction})
    write(it, [key(n) for n in range(8)], range(8))
    adapter = adapter_of(it)
    assert eventually(lambda: 0 < adapter.get_usage().usage_fraction <= 0.5)
    kept = [n for n in range(8) if key(n) in adapter._sizes]
    assert 0 < len(kept) <= 5 and adapter.get_usage().total_bytes_used == len(kept) * OBJECT_BYTES
    are_there = adapter.storage.contains_each(adapter._keys([key(n) for n in range(8)]))
    assert [n for n in range(8) if are_there[n]] == kept


def test_serialized_objects_pass_through(manager):
    it = manager(l2_spec={"serde": {"type": "fp8"}})
    keys = [key(n) for n in range(2)]
    objects = it.reserve_write(keys, LAYOUT)
    for one in keys:
        objects[one].tensor.fill_(1.5)
    it.finish_write(keys)
    adapter = adapter_of(it)
    assert eventually(lambda: len(adapter._sizes) == 2)
    assert eventually(lambda: it.delete_l1_keys(keys)[1] == 0)
    assert hits(prefetch(it, keys)) == [0, 1]
    with it.read_prefetched_results(keys) as loaded:
        assert all((obj.tensor == 1.5).all() for obj in loaded)
    it.finish_read_prefetched(keys)


def test_adapters_come_and_go_at_run_time(manager):
    it = manager()
    (config,) = l2.adapters_config(parameters({"other": memory()})).adapters
    new = it.add_l2_adapter(config)
    write(it, [key(1)], [1])
    adapters = {descriptor.index: adapter for descriptor, adapter in it.l2_adapters()}
    assert eventually(lambda: key(1) in adapters[new]._sizes)
    it.delete_l2_adapter(new)
    assert len(it.l2_adapters()) == 1 and adapters[new].storage.is_closed


def test_closing_with_stores_and_loads_in_flight_ends(manager):
    late = misbehaving("LateBackend", ms=300) | {"limits.open_timeout_ms": 30000}
    it = manager({"late": late})
    write(it, [key(n) for n in range(4)], range(4))
    adapter = adapter_of(it)
    assert eventually(lambda: adapter._transfers)
    it.close()
    assert all(task.is_released for task in adapter._transfers.values())
