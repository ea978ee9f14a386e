"""`kvtier.vllm.KvtierTier` under vLLM's own offloading manager.

Proves: chunks survive in a backend and come back verified; rows are lent and not copied; a row is not given back while
a transfer uses it; one question a step; failures are misses that vLLM does not repeat; other models and layouts do not
see each other's chunks; wrong configuration and other interfaces are refused.

Real: vLLM's `TieringOffloadingSpec`, manager, CPU tier in shared memory and loader of tiers; kvtier's components.
Stands in: the test is the scheduler and the workers.
"""

import json
import os
import re
import threading

import kvtier.vllm
import numpy as np
import pytest
from kvtier import BuildError, ConfigError
from kvtier._adapter import RuntimeMismatch
from settings import disk, hostile
from stack import ROW_BYTES, Stack, key
from vllm.v1.kv_offload.base import Locality, LookupResult, ReqContext
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

N = 8


@pytest.fixture
def new_stack():
    """Makes stacks, and shuts them down."""
    stacks = []

    def new(*tiers, **settings):
        stacks.append(Stack(*tiers, **settings))
        return stacks[-1]

    yield new
    for stack in stacks:
        if stack.rows is not None:
            stack.close()


def chunks(n=N, first=0, row_bytes=ROW_BYTES):
    return {key(number): os.urandom(row_bytes) for number in range(first, first + n)}


def calls_of(stack, monkeypatch, *operations):
    """Records the arguments of the operations of the tier's storage, which stays what it is."""
    calls = []
    futures = stack.tier._storage.futures
    for name in operations:
        original = getattr(futures, name)

        def record(*arguments, name=name, original=original, **more):
            calls.append((name, arguments))
            return original(*arguments, **more)

        futures.__dict__[name] = record

    class Recording:
        def __getattr__(self, name):
            return futures if name == "futures" else getattr(storage, name)

    storage = stack.tier._storage
    monkeypatch.setattr(stack.tier, "_storage", Recording())
    monkeypatch.setattr(stack.tier._lookups, "_storage", stack.tier._storage)
    return calls


def test_what_one_process_stored_another_one_finds(new_stack, guests, tmp_path):
    stored = chunks()
    first = new_stack(disk(guests, tmp_path / "disk"))
    first.store(stored)
    first.settle()
    first.close()

    second = new_stack(disk(guests, tmp_path / "disk"))
    unknown = key(1000)
    assert second.load([*stored, unknown]) == [*stored.values(), None]


def test_rows_are_lent_where_they_are(new_stack, guests, tmp_path, monkeypatch):
    stack, stored = new_stack(disk(guests, tmp_path / "disk")), chunks()
    rows = np.asarray(stack.rows)
    first, end = rows.ctypes.data, rows.ctypes.data + rows.nbytes
    del rows
    calls = calls_of(stack, monkeypatch, "put_lent", "fetch_into")
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    assert stack.load(list(stored)) == list(stored.values())

    assert [name for name, _ in calls] == ["put_lent", "fetch_into"]
    for _, (_, memory) in calls:
        addresses = [one.address for one in memory]
        assert len(set(addresses)) == N
        assert all(first <= address < end and (address - first) % ROW_BYTES == 0 for address in addresses)
        assert all(len(one) == ROW_BYTES for one in memory)


def test_a_step_asks_once_for_all_keys_of_all_requests(new_stack, guests, tmp_path, monkeypatch):
    stack, stored = new_stack(disk(guests, tmp_path / "disk")), chunks()
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    calls = calls_of(stack, monkeypatch, "contains_each")
    one, other = stack.request(), stack.request()
    keys = [*stored, key(1000)]
    for request in (one, other):
        assert {stack.manager.lookup(k, request) for k in keys} == {LookupResult.RETRY}
    stack.end_step()
    assert len(calls) == 1
    assert len(calls[0][1][0]) == 16 * len(keys)
    # The answers are kept for both requests, and asked for again when neither needs them.
    assert stack.load(keys) == [*stored.values(), None]
    assert len(calls) == 1
    for request in (one, other):
        stack.manager.on_request_finished(request)
    stack.forget_cpu()
    assert stack.load(keys) == [*stored.values(), None]
    assert len(calls) == 2


def test_chunks_in_part_of_a_load_that_are_missing_are_the_only_ones_that_fail(new_stack, guests, tmp_path):
    stack, stored = new_stack(disk(guests, tmp_path / "disk")), chunks()
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    names = list(stored)
    # Behind the tier's back, after its lookup: the host's promise is verification at the load.
    request = stack.request()
    assert {stack.manager.lookup(k, request) for k in names} == {LookupResult.RETRY}
    stack.end_step()
    stack.tier._storage.remove(stack.tier._storage.keys(names[2:4]))
    found = stack.load(names)
    assert [one is not None for one in found] == [at not in (2, 3) for at in range(N)]
    assert all(one is None or one == stored[name] for one, name in zip(found, names))


@pytest.mark.parametrize("class_name", ["WrongBytesBackend", "GarbageBackend", "HalfBackend", "SwappedBackend",
                                        "ShortBackend", "PhantomBackend", "ForgeBackend"])  # fmt: skip
def test_wrong_bytes_are_misses(new_stack, guests, tmp_path, class_name):
    (tmp_path / "key").write_text("a key that backends do not know")
    bad = hostile(guests, class_name) | {"kvtier.integrity_key": f"file:{tmp_path / 'key'}"}
    stack, stored = new_stack(bad), chunks()
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    assert stack.load(list(stored)) == [None] * N
    # The same chunks can be stored again.
    stack.store(stored)
    stack.settle()


@pytest.mark.parametrize("class_name", ["HangBackend", "BlockBackend", "TrapBackend", "ExitBackend", "SpinBackend"])
@pytest.mark.parametrize("method", ["contains", "put", "get"])
def test_calls_that_end_badly_are_misses(new_stack, guests, class_name, method):
    stack, stored = new_stack(hostile(guests, class_name, **{"config.in": method})), chunks()
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    assert stack.load(list(stored)) == [None] * N


def test_rows_of_a_hanging_store_are_kept_until_it_has_ended(new_stack, guests):
    stack, stored = new_stack(hostile(guests, "HangBackend", **{"config.in": "put"})), chunks()
    stack.store(stored)
    assert stack.manager.has_pending_work()
    used = [stack.manager.primary_tier._policy.get(name) for name in stored]
    assert {chunk.ref_cnt for chunk in used} == {1}
    stack.settle()
    assert {chunk.ref_cnt for chunk in used} == {0}


def test_a_result_waits_for_the_release_of_its_rows(new_stack, guests, tmp_path, monkeypatch):
    """A transfer may outlive the call that began it. Here its release is held back, as a late transfer would."""
    stack, stored = new_stack(disk(guests, tmp_path / "disk")), chunks()
    lent, batch = [], kvtier.vllm.Memory.batch

    class LateMemory:
        @staticmethod
        def batch(addresses, n_bytes, owner, on_release):
            return batch(addresses, n_bytes, owner, lambda job: lent.append((job, on_release)))

    monkeypatch.setattr(kvtier.vllm, "Memory", LateMemory)
    stack.store(stored)
    tick = threading.Event()
    while not (lent and lent[0][0].outcome is not None and lent[0][0].outcome.is_complete):
        stack.end_step()
        tick.wait(0.001)
    for _ in range(20):
        stack.end_step()
        assert stack.manager.has_pending_work()
    [(job, release)] = lent
    release(job)
    stack.settle()


def test_memory_that_is_never_released_is_not_given_back(guests, tmp_path, monkeypatch):
    stack = Stack(disk(guests, tmp_path / "disk"))
    lent, batch = [], kvtier.vllm.Memory.batch

    class LostMemory:
        @staticmethod
        def batch(addresses, n_bytes, owner, on_release):
            return batch(addresses, n_bytes, owner, lent.append)

    monkeypatch.setattr(kvtier.vllm, "Memory", LostMemory)
    monkeypatch.setattr(kvtier.vllm, "DRAIN_S", 0.2)
    monkeypatch.setattr(kvtier.vllm, "SHUTDOWN_S", 0.2)
    stack.store(chunks())
    with pytest.raises(RuntimeError, match="still use vLLM's memory"):
        stack.forget_cpu()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="still use vLLM's memory"):
            stack.close()
    # vLLM keeps the memory mapped in this case.
    view = stack.manager.primary_tier.get_kv_memoryview()
    assert np.asarray(view)[0, 0] is not None
    del view
    [job] = lent
    stack.tier._ended.put(job)
    stack.close()


def test_chunks_may_be_large(new_stack, guests, tmp_path):
    n_bytes = 96 << 20
    stack = new_stack(disk(guests, tmp_path / "disk"), row_bytes=n_bytes, n_chunks=4)
    stored = chunks(2, row_bytes=n_bytes)
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    assert stack.load(list(stored)) == list(stored.values())


def test_drain_waits_for_what_is_under_way(new_stack, guests):
    slow = hostile(guests, "SlowMemory", **{"config.ms": 100})
    stack, stored = new_stack(slow), chunks()
    stack.store(stored)
    assert stack.manager.has_pending_work()
    stack.forget_cpu()
    assert not stack.manager.has_pending_work()
    assert stack.load(list(stored)) == list(stored.values())


@pytest.mark.parametrize("method", ["contains", "put", "get"])
def test_shutdown_in_the_middle_of_a_hanging_call(new_stack, guests, method):
    bad = hostile(guests, "HangBackend", **{"config.in": method, "limits.call_timeout_ms": 600_000})
    stack, stored = new_stack(bad | {"kvtier.close_timeout_ms": 200}), chunks()
    stack.store(stored)
    request = stack.request()
    if method != "put":
        stack.settle()
        stack.forget_cpu()
        answers = None
        while method == "get" and answers != {LookupResult.HIT_PENDING}:
            answers = {stack.manager.lookup(k, request) for k in stored}
            stack.end_step()
        stack.manager.lookup(key(1000), request)
        stack.end_step()
    stack.close()
    assert not stack.tier._open


def test_a_full_queue_drops_and_does_not_wait(new_stack, guests):
    bad = hostile(guests, "HangBackend", **{"config.in": "put"}) | {"kvtier.put_queue_bytes": 2 * ROW_BYTES}
    stack = new_stack(bad)
    stack.store(chunks())
    stack.settle()
    [tier] = [one for one in stack.tier._storage.counts() if one.name == "bad"]
    assert tier.drops.get("queue_full", 0) > 0
    assert tier.puts == 0


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"dtype": "float16"},
        {"layout": "LBNHC"},
        {"canonical": True},
        {"row_bytes": 2 * ROW_BYTES},
        {"world_size": 2, "tp_size": 2},
        {"world_size": 2, "pp_size": 2},
    ],
    ids=str,
)
def test_other_models_and_layouts_do_not_see_each_other(new_stack, guests, tmp_path, other):
    stored = chunks()
    first = new_stack(disk(guests, tmp_path / "disk"))
    first.store(stored)
    first.settle()
    first.close()
    assert new_stack(disk(guests, tmp_path / "disk"), **other).load(list(stored)) == [None] * N


@pytest.mark.parametrize(
    "other", [{"data_parallel_index": 1, "data_parallel_size": 2}, {"rank": 0}, {"n_chunks": 64}], ids=str
)
def test_replicas_share_what_they_store(new_stack, guests, tmp_path, other):
    stored = chunks()
    first = new_stack(disk(guests, tmp_path / "disk"))
    first.store(stored)
    first.settle()
    first.close()
    assert new_stack(disk(guests, tmp_path / "disk"), **other).load(list(stored)) == list(stored.values())


def test_layouts_that_do_not_depend_on_ranks_are_shared_between_sizes(new_stack, guests, tmp_path):
    stored = chunks()
    first = new_stack(disk(guests, tmp_path / "disk"), is_parallelism_agnostic=True)
    first.store(stored)
    first.settle()
    first.close()
    second = new_stack(disk(guests, tmp_path / "disk"), is_parallelism_agnostic=True, world_size=2, tp_size=2)
    assert second.load(list(stored)) == list(stored.values())


def test_groups_of_one_hash_are_different_chunks(new_stack, guests, tmp_path):
    stack = new_stack(disk(guests, tmp_path / "disk"))
    one, other = os.urandom(ROW_BYTES), os.urandom(ROW_BYTES)
    stack.store({key(1, 0): one, key(1, 1): other})
    stack.settle()
    stack.forget_cpu()
    assert stack.load([key(1, 0), key(1, 1)]) == [one, other]


def test_metrics_are_declared_and_count(new_stack, guests, tmp_path, monkeypatch):
    monkeypatch.setattr(kvtier.vllm, "STATS_INTERVAL_S", 0.0)
    stack, stored = new_stack(disk(guests, tmp_path / "disk")), chunks()
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    stack.load([*stored, key(1000)])
    prefix = "vllm:kv_offload_tiering_kvtier_"
    values = stack.tier.get_stats()._values
    definitions = kvtier.vllm.KvtierTier.build_metric_definitions({})
    assert {name: by_labels[("disk",)] for name, by_labels in values.items() if ("disk",) in by_labels} == {
        prefix + "chunks_read": N,
        prefix + "bytes_read": N * ROW_BYTES,
        prefix + "chunks_stored": N,
        prefix + "bytes_stored": N * ROW_BYTES,
        prefix + "is_up": 1,
    }
    for name, by_labels in values.items():
        assert all(len(labels) == len(definitions[name].labelnames) for labels in by_labels)
    # Differences, not sums.
    again = stack.tier.get_stats()._values
    assert set(again) == {prefix + "is_up"}


WRONG = {
    "did you mean secondary_tiers.KvtierTier.disk.config.root?": {"disc.config.root": "/data"},
    "secondary_tiers.KvtierTier.backends is missing": {"backends": None},
    "`secondary_tiers.KvtierTier.disk.limits.call_timeout_ms`: expected a whole number": {
        "disk.limits.call_timeout_ms": "soon"
    },
    "did you mean `kvtier.on_full`?": {"kvtier.on_ful": "drop"},
    "none.wasm` does not exist": {"disk.module_path": "none.wasm"},
    "it exports FsBackend": {"disk.class_name": "Other"},
    "looks like a Python module": {"disk.module_path": "kvtier.vllm"},
    "move secondary_tiers.KvtierTier.": {"config": "kvtier.yaml"},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_section_is_refused_with_the_key_and_advice(guests, tmp_path, message):
    section = disk(guests, tmp_path / "disk") | WRONG[message]
    with pytest.raises((ConfigError, BuildError), match=re.escape(message)):
        Stack({key: value for key, value in section.items() if value is not None})


def test_another_interface_is_refused_with_both_versions(monkeypatch):
    def lookup(self, key):
        """As in an imagined later version."""

    monkeypatch.setattr(SecondaryTierManager, "lookup", lookup)
    monkeypatch.setattr(kvtier.vllm.vllm, "__version__", "9.9.9")
    with pytest.raises(RuntimeMismatch, match=r"0\.32\.\*.*9\.9\.9.*SecondaryTierManager\.lookup"):
        kvtier.vllm.check_vllm()


def test_another_kind_of_result_is_refused(monkeypatch):
    def __init__(self, job_id, success):
        """As in an imagined earlier version."""

    monkeypatch.setattr(JobResult, "__init__", __init__)
    with pytest.raises(RuntimeMismatch, match="JobResult"):
        kvtier.vllm.check_vllm()


def test_an_untested_version_of_the_known_interface_warns_once(monkeypatch, caplog):
    monkeypatch.setattr(kvtier.vllm.vllm, "__version__", "9.9.8")
    kvtier.vllm.check_vllm()
    kvtier.vllm.check_vllm()
    assert caplog.text.count("9.9.8") == 1


def job(job_id, keys, rows, is_promotion):
    return TransferJob(job_id, keys, np.array(rows, dtype=np.int32), is_promotion, ReqContext(req_id="by hand"))


@pytest.mark.parametrize("is_promotion", [False, True], ids=["store", "load"])
@pytest.mark.parametrize("rows", [[0, 32], [-1, 0], [0]], ids=["beyond the end", "before the start", "too few"])
def test_a_job_over_other_memory_fails(new_stack, guests, tmp_path, is_promotion, rows):
    tier = new_stack(disk(guests, tmp_path / "disk"), n_chunks=32).tier
    submit = tier.submit_load if is_promotion else tier.submit_store
    submit(job(1, [key(1), key(2)], rows, is_promotion))
    tier.drain_jobs()
    [result] = tier.get_finished_jobs()
    assert (result.job_id, result.success, result.successful_keys) == (1, False, None)


@pytest.mark.parametrize("is_promotion", [False, True], ids=["store", "load"])
def test_a_job_without_chunks_ends(new_stack, guests, tmp_path, is_promotion):
    tier = new_stack(disk(guests, tmp_path / "disk")).tier
    submit = tier.submit_load if is_promotion else tier.submit_store
    submit(job(1, [], [], is_promotion))
    tier.drain_jobs()
    [result] = tier.get_finished_jobs()
    assert (result.job_id, result.success) == (1, True)


def test_no_exception_reaches_vllm(new_stack, guests, tmp_path, monkeypatch):
    stack, stored = new_stack(disk(guests, tmp_path / "disk")), chunks()
    storage = stack.tier._storage

    class Broken:
        def __getattr__(self, name):
            raise OSError(f"{name} is broken on purpose")

    for owner in (stack.tier, stack.tier._lookups, stack.tier._stats):
        monkeypatch.setattr(owner, "_storage", Broken())
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    assert stack.load(list(stored)) == [None] * N
    assert stack.tier.get_stats() is None
    assert stack.tier._guard.n_failures > 0
    for owner in (stack.tier, stack.tier._lookups, stack.tier._stats):
        monkeypatch.setattr(owner, "_storage", storage)


def test_the_section_may_name_a_file(new_stack, guests, tmp_path):
    (tmp_path / "disk").mkdir()
    settings = {
        "external_backends": ["disk"],
        "extra_config": {
            "kvtier.on_load_error": "fail",
            "kvtier.put_queue_bytes": "1MiB",
            "external_backend.disk.module_path": str(guests / "fs.wasm"),
            "external_backend.disk.class_name": "FsBackend",
            "external_backend.disk.config.root": "/data",
            "external_backend.disk.allow.fs": [f"{tmp_path / 'disk'}:/data:rw"],
        },
    }
    (tmp_path / "kvtier.yaml").write_text(json.dumps(settings))
    tier = {"type": "KvtierTier", "module_path": "kvtier.vllm", "config": str(tmp_path / "kvtier.yaml")}
    stack, stored = new_stack(tier), chunks()
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    assert stack.load(list(stored)) == list(stored.values())


def test_settings_of_vllm_itself_work(new_stack, guests, tmp_path):
    own = {"locality": "REMOTE", "backpressure": {"backpressure_cls": "EMABackpressureDetector"}}
    stack = new_stack(disk(guests, tmp_path / "disk") | own)
    stack.store(chunks())
    stack.settle()
    assert stack.tier.locality is Locality.REMOTE
    assert stack.tier.bp_detector._completions == 1


def test_a_storage_that_is_closed_under_the_tier_is_a_miss(new_stack, guests, tmp_path):
    stack, stored = new_stack(disk(guests, tmp_path / "disk")), chunks()
    stack.tier._storage.close()
    stack.store(stored)
    stack.settle()
    stack.forget_cpu()
    assert stack.load(list(stored)) == [None] * N
