"""kvtier.lmcache_l2 against the contract of LMCache's L2 adapters, without LMCache's controllers.

Real: LMCache's command line, plugin factory, bitmaps, event file descriptors and memory objects; kvtier; its backends.
"""

import harness
import pytest

if harness.IS_03:
    pytest.skip("LMCache 0.3.x has no L2 adapters", allow_module_level=True)

import harness_l2 as l2
import kvtier
import kvtier.lmcache_l2
from harness import eventually, fs, memory, misbehaving
from harness_l2 import OBJECT_BYTES, key, load, look_up, memory_object, parameters, store
from kvtier._adapter import RuntimeMismatch
from lmcache.v1.distributed.internal_api import L2StoreResult


@pytest.fixture
def adapter():
    opened = []

    def build(backends=None, **more):
        opened.append(l2.build_adapter(parameters(backends or {"tier": memory()}, **more)))
        return opened[-1]

    yield build
    for each in opened:
        each.close()


def stored(adapter, *numbers):
    keys = [key(n) for n in numbers]
    assert store(adapter, keys, [memory_object(n) for n in numbers]).is_successful()
    return keys


@pytest.mark.parametrize("kind", ["memory", "fs"])
def test_objects_are_stored_found_and_loaded(adapter, tmp_path, kind):
    it = adapter({"tier": memory() if kind == "memory" else fs(tmp_path / "kv")})
    keys = [key(n) for n in range(5)]
    result = store(it, keys, [memory_object(n) for n in range(5)])
    assert result == L2StoreResult(True, 5 * OBJECT_BYTES)
    assert look_up(it, keys) == [0, 1, 2, 3, 4]
    objects = [memory_object() for _ in keys]
    assert load(it, keys, objects) == [0, 1, 2, 3, 4]
    assert all(l2.has(obj, n) for n, obj in enumerate(objects))
    it.submit_unlock(keys)


def test_backends_read_and_fill_the_objects_memory(adapter, monkeypatch):
    it = adapter()
    lent = []
    batch = kvtier.lmcache_l2.Memory.batch

    class Spy:
        @staticmethod
        def batch(addresses, sizes, owner, on_release):
            lent.append((list(addresses), list(sizes)))
            return batch(addresses, sizes, owner, on_release)

    monkeypatch.setattr(kvtier.lmcache_l2, "Memory", Spy)
    sources, targets = [memory_object(1), memory_object(2)], [memory_object(), memory_object()]
    store(it, [key(1), key(2)], sources)
    assert load(it, [key(1), key(2)], targets) == [0, 1]
    sizes = [OBJECT_BYTES] * 2
    assert lent == [([obj.data_ptr for obj in objs], sizes) for objs in (sources, targets)]
    assert l2.has(targets[0], 1) and l2.has(targets[1], 2)


def test_the_three_file_descriptors_are_distinct_and_stay(adapter):
    it, other = adapter(), adapter()
    fds = [
        each()
        for one in (it, other)
        for each in (one.get_store_event_fd, one.get_lookup_and_lock_event_fd, one.get_load_event_fd)
    ]
    assert len(set(fds)) == 6
    assert fds[:3] == [it.get_store_event_fd(), it.get_lookup_and_lock_event_fd(), it.get_load_event_fd()]


def test_each_kind_of_task_writes_its_own_file_descriptor(adapter):
    it = adapter()
    fds = it.get_store_event_fd(), it.get_lookup_and_lock_event_fd(), it.get_load_event_fd()

    def only(fd):
        assert l2.signaled(fd)
        assert not any(l2.signaled(other, 0) for other in fds if other != fd)

    it.submit_store_task([key(1)], [memory_object(1)])
    only(fds[0])
    it.submit_lookup_and_lock_task([key(1)], {})
    only(fds[1])
    it.submit_load_task([key(1)], [memory_object()])
    only(fds[2])


def test_results_are_given_once_and_to_their_task(adapter):
    it = adapter()
    keys = stored(it, 1, 2)
    first = it.submit_lookup_and_lock_task(keys, {})
    second = it.submit_lookup_and_lock_task([key(9)], {})
    assert first != second
    fd = it.get_lookup_and_lock_event_fd()
    assert l2.await_result(lambda: it.query_lookup_and_lock_result(second), fd).get_indices_list() == []
    assert eventually(lambda: first in it._found)
    assert it.query_lookup_and_lock_result(first).get_indices_list() == [0, 1]
    assert it.query_lookup_and_lock_result(first) is None and it.query_lookup_and_lock_result(12345) is None

    objects = [memory_object(), memory_object()]
    task = it.submit_load_task(keys, objects)
    assert l2.await_result(lambda: it.query_load_result(task), it.get_load_event_fd()).count_leading_ones() == 2
    assert it.query_load_result(task) is None and it.query_load_result(12345) is None
    assert it.pop_completed_store_tasks() == {}


def test_results_have_holes(adapter):
    it = adapter()
    stored(it, 1, 3, 4, 7)
    keys = [key(n) for n in range(8)]
    assert look_up(it, keys) == [1, 3, 4, 7]
    objects = [memory_object() for _ in keys]
    assert load(it, keys, objects) == [1, 3, 4, 7]
    assert all(l2.has(objects[n], n) for n in (1, 3, 4, 7))
    assert all(l2.is_untouched(objects[n]) for n in (0, 2, 5, 6))


def test_locks_hold_until_each_key_is_unlocked(adapter):
    it = adapter()
    keys = stored(it, 1, 2, 3)

    def n_locked():
        return it.storage.status().lookups_pinned

    assert look_up(it, keys) == [0, 1, 2] and n_locked() == 1
    assert look_up(it, [key(9), *keys[1:]]) == [1, 2] and n_locked() == 2
    it.submit_unlock(keys[:1])
    it.submit_unlock(keys[1:])
    assert eventually(lambda: n_locked() == 1)
    it.submit_unlock(keys[1:])
    assert eventually(lambda: n_locked() == 0)
    # More than were locked, and unknown ones.
    it.submit_unlock([*keys, key(77)])
    assert it._guard.n_failures == 0


def test_lookups_that_find_nothing_lock_nothing(adapter):
    it = adapter()
    assert look_up(it, [key(1), key(2)]) == [] and look_up(it, []) == []
    assert it.storage.status().lookups_pinned == 0 and len(it._pins) == 0


def test_empty_tasks_end(adapter):
    it = adapter()
    assert store(it, [], []).is_successful()
    assert load(it, [], []) == []


def test_usage_and_listeners_hear_of_what_is_stored_loaded_and_deleted(adapter):
    it = adapter(max_capacity_gb=0.5)
    heard = l2.Listener()
    it.register_listener(heard)
    assert it.supports_global_eviction and it.get_usage().usage_fraction == 0
    salted = [key(1, salt="alice"), key(2, salt="bob")]
    store(it, salted, [memory_object(1), memory_object(2)])
    store(it, salted[:1], [memory_object(1)])  # Again: LMCache must not count it twice.
    usage = it.get_usage()
    assert usage.total_bytes_used == 2 * OBJECT_BYTES and usage.total_capacity_bytes == 2**29
    assert dict(usage.bytes_by_cache_salt) == {"alice": OBJECT_BYTES, "bob": OBJECT_BYTES}
    assert heard.stored == [(salted, [OBJECT_BYTES] * 2)]
    load(it, [salted[1], key(9)], [memory_object(), memory_object()])
    assert heard.accessed == [[salted[1]]]
    it.delete([salted[0], key(9)])
    assert heard.deleted == [[salted[0]]]
    assert it.get_usage().total_bytes_used == OBJECT_BYTES
    assert dict(it.get_usage().bytes_by_cache_salt) == {"bob": OBJECT_BYTES}
    assert look_up(it, salted) == [1]
    it.delete([])
    it.delete(salted)
    assert it.get_usage().total_bytes_used == 0


def test_a_listener_that_raises_stops_nothing(adapter):
    it = adapter()

    class Broken(l2.Listener):
        def on_l2_keys_stored(self, keys, sizes):
            raise RuntimeError("broken")

        on_l2_keys_accessed = on_l2_keys_deleted = on_l2_keys_stored

    it.register_listener(Broken())
    keys = stored(it, 1)
    it.delete(keys)
    assert it._guard.n_failures >= 1


def test_without_a_capacity_lmcache_does_not_evict(adapter):
    it = adapter()
    assert not it.supports_global_eviction and it.get_usage().usage_fraction < 0


def test_keys_differ_in_every_field(adapter):
    it = adapter()
    keys = stored(it, 1)
    others = [key(2), key(1, model="other/model"), key(1, salt="s"), key(1, group=1)]
    assert look_up(it, [*others, *keys]) == [4]


def test_a_namespace_of_its_own_sees_nothing_of_others(adapter, tmp_path):
    first = adapter({"disk": fs(tmp_path / "kv")})
    keys = stored(first, 1)
    first.close()
    assert look_up(adapter({"disk": fs(tmp_path / "kv")}, namespace="fp8"), keys) == []


def test_an_object_of_another_size_is_not_loaded(adapter):
    it = adapter()
    keys = stored(it, 1)
    small = memory_object()
    small.set_used_size(OBJECT_BYTES // 2)
    large = memory_object()
    assert load(it, [keys[0], keys[0]], [small, large]) == [1]


# --- Bad backends ---


@pytest.mark.parametrize(
    "bad",
    [
        misbehaving("HangBackend"),
        misbehaving("SpinBackend"),
        misbehaving("TrapBackend"),
        misbehaving("ExitBackend"),
        misbehaving("StderrFloodBackend"),
        misbehaving("OverclaimBackend"),
        misbehaving("PhantomBackend"),
        misbehaving("WrongBytesBackend"),
        misbehaving("HalfBackend"),
        misbehaving("ShortBackend"),
    ],
    ids=lambda backend: backend["class_name"],
)
def test_a_bad_backend_loads_nothing(adapter, bad):
    it = adapter({"bad": bad})
    keys = stored(it, 1, 2)
    assert load(it, keys, [memory_object(), memory_object()]) == []
    assert it._transfers == {} and it._guard.n_failures == 0


@pytest.mark.parametrize("bad", ["HangBackend", "TrapBackend", "ExitBackend", "FailBackend"])
def test_a_bad_backend_stores_and_finds_nothing(adapter, bad):
    it = adapter({"bad": misbehaving(bad, "put")})
    result = store(it, [key(1), key(2)], [memory_object(1), memory_object(2)])
    assert not result.is_successful() and result.bytes_transferred() == 0
    assert it.get_usage().total_bytes_used == 0
    deaf = adapter({"bad": misbehaving(bad, "contains")})
    assert look_up(deaf, [key(1), key(2)]) == []
    assert it._guard.n_failures == 0 and deaf._guard.n_failures == 0


def test_a_load_is_not_over_while_its_memory_is_in_use(adapter):
    it = adapter({"late": misbehaving("LateBackend", "get", ms=500)})
    keys = stored(it, 1)
    task = it.submit_load_task(keys, [memory_object()])
    assert it.query_load_result(task) is None and it.report_status()["transfers_in_flight"] == 1
    assert l2.await_result(lambda: it.query_load_result(task), it.get_load_event_fd()).get_indices_list() == [0]
    assert it.report_status()["transfers_in_flight"] == 0


def test_whatever_happens_inside_tasks_end(adapter):
    it = adapter()
    broken = [object()]  # No key at all.
    objects = [memory_object()]
    assert not store(it, broken, objects).is_successful()
    assert look_up(it, broken) == [] and load(it, broken, objects) == []
    it.submit_unlock(broken)
    it.delete(broken)
    assert it._transfers == {} and it._guard.n_failures >= 4


# --- The end ---


def test_closing_waits_for_transfers_and_ends_everything(adapter):
    it = adapter({"late": misbehaving("LateBackend", "put", ms=500)})
    it.submit_store_task([key(1)], [memory_object(1)])
    it.close()
    assert all(task.is_released for task in it._transfers.values())
    it.close()
    objects = [memory_object()]
    for submit in (it.submit_store_task, it.submit_load_task):
        assert isinstance(submit([key(1)], objects), int)
    assert isinstance(it.submit_lookup_and_lock_task([key(1)], {}), int)
    it.submit_unlock([key(1)])
    it.delete([key(1)])
    assert it.report_status()["is_healthy"] is False


def test_closing_with_transfers_that_hang_ends(adapter):
    it = adapter({"bad": misbehaving("HangBackend", "put", call_timeout_ms=60000)}, **{"kvtier.close_timeout_ms": 200})
    it.submit_store_task([key(1)], [memory_object(1)])
    it.submit_lookup_and_lock_task([key(1)], {})
    it.close()
    assert all(task.is_released for task in it._transfers.values())


def test_memory_that_a_transfer_still_uses_is_not_freed(adapter, monkeypatch):
    monkeypatch.setattr(kvtier.lmcache_l2, "_LATE_WAIT_S", 0.05)
    it = adapter()
    freed = []

    class Allocator:
        def close(self):
            freed.append(self)

    obj = memory_object(1)
    obj.parent_allocator = Allocator()
    task = kvtier.lmcache_l2._Task(99, [key(1)], [obj], lambda task: None)
    it._transfers[99] = task  # A transfer that does not end.
    it.close()
    obj.parent_allocator.close()
    assert freed == []
    obj.parent_allocator = None


def test_the_status_names_the_backends(adapter):
    it = adapter({"one": memory(), "two": misbehaving("GoodBackend")})
    stored(it, 1)
    status = it.report_status()
    assert status["is_healthy"] and status["type"] == "KvtierL2Adapter" and status["stored_object_count"] == 1
    assert [backend["name"] for backend in status["backends"]] == ["one", "two"]
    it.storage.bypass("one")
    assert it.report_status()["is_healthy"]
    it.storage.bypass("two")
    assert not it.report_status()["is_healthy"]


# --- Configuration ---


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "adapter_params.backends is missing"),
        ({"backends": "a", "b.module_path": "x"}, "list it in adapter_params.backends"),
        (parameters({"tier": memory()}, max_capacity_gb="much"), "adapter_params.max_capacity_gb: expected a number"),
        (parameters({"tier": memory() | {"limits.memry": 1}}), "adapter_params.tier.limits.memry"),
        (parameters({"tier": memory() | {"module_path": "/no/such.wasm"}}), "/no/such.wasm"),
    ],
)
def test_a_wrong_configuration_stops_the_server_with_its_key(params, expected):
    with pytest.raises(kvtier.KvtierError) as caught:
        l2.build_adapter(params)
    assert expected in str(caught.value)


def test_an_lmcache_of_another_shape_is_refused(monkeypatch):
    monkeypatch.setattr(
        kvtier.lmcache_l2.L2AdapterInterface, "submit_load_task", lambda self, keys, objects, deadline: 0
    )
    with pytest.raises(RuntimeMismatch, match="written for LMCache 0.5.6, and LMCache 0.5.6 is installed"):
        l2.build_adapter(parameters({"tier": memory()}))


def test_submitting_does_not_wait_for_the_backend(adapter):
    it = adapter({"bad": misbehaving("HangBackend", "get", call_timeout_ms=60000)}, **{"kvtier.close_timeout_ms": 200})
    keys = stored(it, 1)
    # The backend answers the first one after a minute at the earliest, and all of these return before.
    tasks = [it.submit_load_task(keys, [memory_object()]) for _ in range(10)]
    assert it.report_status()["transfers_in_flight"] == 10
    assert all(it.query_load_result(task) is None for task in tasks)
