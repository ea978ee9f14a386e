"""The chain on keys: foreign keys, lent memory in both directions, receipts."""

import gc
import os

import chains
import kvtier
import numpy as np
import pytest
from conftest import eventually


def filled(n, size, first=1):
    return np.repeat(np.arange(first, first + n, dtype=np.uint8), size).reshape(n, size)


def lend(array, releases=None):
    """Lends each row of an array."""
    addresses = np.arange(len(array), dtype=np.int64) * array.strides[0] + array.ctypes.data
    return kvtier.Memory.batch(addresses, array.shape[1], array, releases)


# --- Keys ----------------------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_documentation(opened):
    metadata = kvtier.StorageMetadata("llama-3-8b", "vllm rows v1, bf16", 131072)
    storage = opened(kvtier.Storage.from_dict({}, metadata, cpu_tier=False, env={}))
    assert storage.namespace.hex() == "039c5e53fb9f05cd03c2b1dd94c80fe8"
    assert storage.keys(["block-0"]).hex() == "c577e3cea0e5d9533cbe9ffcf3533fef"
    engine = opened(
        kvtier.Engine.from_dict(
            {"max_local_cpu_size": 0.1}, kvtier.EngineMetadata("llama-3-8b", (32, 2, 256, 8, 128)), env={}
        )
    )
    keys = engine.storage.keys([b"block-0", "vllm@llama-3-8b@1@0@00ff"])
    assert keys.hex() == "415d2dc6bf12d4612dbdc034a4cda5ef" + "482aa01cb9bccc32423bcf2f2bc5fcf3"


def test_names_are_text_or_bytes_of_any_length(disk):
    names = ["", b"", "näme", "näme".encode(), "x" * 1000, b"\x00", "\x00\x00"]
    keys = disk.keys(names)
    assert len(keys) == 16 * len(names)
    split = [keys[at : at + 16] for at in range(0, len(keys), 16)]
    assert split[0] == split[1] and split[2] == split[3] and len(set(split)) == 5
    assert disk.keys(iter(names)) == disk.keys(tuple(names)) == keys
    assert disk.keys([]) == b""
    n = 5000
    assert disk.keys(map(str, range(n)))[-16:] == disk.keys([str(n - 1)])


@pytest.mark.parametrize(
    "metadata",
    [
        kvtier.StorageMetadata("other", "test v1", 1 << 20),
        kvtier.StorageMetadata("model", "test v2", 1 << 20),
        kvtier.StorageMetadata("model", "test v1", 1 << 19),
        kvtier.StorageMetadata("model", "test v1", 1 << 20, world_size=2),
        kvtier.StorageMetadata("model", "test v1", 1 << 20, world_size=2, worker_id=1),
    ],
    ids=["model", "layout", "chunk size", "world size", "worker"],
)
def test_another_namespace_shares_nothing(disk, opened, tmp_path, metadata):
    disk.put_lent(disk.keys(["a"]), [b"x" * 10]).stored()
    other = opened(
        kvtier.Storage.from_dict(chains.settings({"disk": chains.disk(tmp_path)}), metadata, cpu_tier=False, env={})
    )
    assert other.keys(["a"]) != disk.keys(["a"])
    assert other.contains(other.keys(["a"])) == 0
    # The control: the same keys are found there.
    assert other.contains(disk.keys(["a"])) == 1


# --- Puts and fetches ----------------------------------------------------------------------------------------------


def test_memory_goes_there_and_back_in_place(disk, releases):
    n, size = 100, 3000
    keys = disk.keys(map(str, range(n)))
    source = filled(n, size)
    receipt = disk.put_lent(keys, lend(source, releases))
    (of_disk,) = receipt.outcomes()
    assert of_disk.backend == "disk" and of_disk.stored == [True] * n and set(of_disk.outcomes) == {"stored"}
    assert receipt.stored() == [True] * n and receipt.is_complete
    assert releases.wait(1) == 1 and releases.owners[0] is source
    target = np.zeros((n, size), np.uint8)
    memory = lend(target, releases)
    assert [one.address for one in memory] == [row.ctypes.data for row in target]
    assert disk.fetch_into(keys, memory) == [size] * n
    assert releases.owners[1:] == [target] or releases.owners[1] is target
    assert (target == source).all()


def test_nothing_is_copied_on_the_way(disk):
    # 64 MiB in a process that may not grow by half of it.
    import resource

    n, size = 64, 1 << 20
    source, target = filled(n, size), np.ones((n, size), np.uint8)
    keys = disk.keys(map(str, range(n)))
    disk.put_lent(keys[:16], [source[0]]).stored()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert all(disk.put_lent(keys, lend(source)).stored())
    assert disk.fetch_into(keys, lend(target)) == [size] * n
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert (target == source).all()
    assert grown_bytes < n * size // 2


def test_holes_are_misses_and_do_not_stop_a_fetch(disk):
    keys = disk.keys(["a", "b", "c", "d"])
    disk.put_lent(keys[16:32] + keys[48:], [b"b" * 10, b"d" * 20]).stored()
    targets = [bytearray(b"." * 20) for _ in range(4)]
    first, second, third, fourth = disk.fetch_into(keys, targets)
    assert (second, fourth) == (10, 20)
    assert (first.reason, third.reason) == ("not_found", "not_found") and first.message
    assert repr(first) == 'Miss(reason="not_found", message="not found")'
    # What follows a chunk in larger memory is arbitrary.
    assert [bytes(targets[0]), targets[1][:10], targets[2], targets[3]] == [b"." * 20, b"b" * 10, b"." * 20, b"d" * 20]
    assert disk.contains(keys) == 0 and disk.contains(keys[16:]) == 1
    assert disk.contains_each(keys) == [False, True, False, True]


def test_a_chunk_larger_than_the_memory_is_a_miss_that_writes_nothing_beyond(disk):
    keys = disk.keys(["a"])
    disk.put_lent(keys, [b"x" * 1000]).stored()
    room = bytearray(b"." * 2000)
    (miss,) = disk.fetch_into(keys, [memoryview(room)[500:1499]])
    assert isinstance(miss, kvtier.Miss) and miss.reason != "not_found"
    assert room[:500] == b"." * 500 and room[1499:] == b"." * 501
    assert disk.fetch_into(keys, [memoryview(room)[500:1500]]) == [1000]
    assert room[500:1500] == b"x" * 1000 and room[1500:] == b"." * 500


def test_flipped_bits_on_disk_are_a_miss(disk, tmp_path):
    keys = disk.keys(["a", "b"])
    disk.put_lent(keys, [b"a" * 5000, b"b" * 5000]).stored()
    (file,) = [path for path in tmp_path.rglob("*.kv") if b"a" * 100 in path.read_bytes()]
    data = bytearray(file.read_bytes())
    data[data.index(b"aaaa") + 2000] ^= 1
    file.write_bytes(data)
    result = disk.fetch_into(keys, [bytearray(5000), bytearray(5000)])
    assert isinstance(result[0], kvtier.Miss) and result[0].reason == "check_failed" and result[1] == 5000


def test_chunks_that_are_too_large_are_dropped_and_said_to_be(disk, releases):
    keys = disk.keys(["a", "b"])
    large = np.zeros(2 << 20, np.uint8)
    memory = kvtier.Memory(large.ctypes.data, large.nbytes, large, releases)
    (entry,) = disk.put_lent(keys, [memory, b"x"]).outcomes()
    assert entry.stored == [False, True] and entry.outcomes == ["dropped: too_large", "stored"]
    assert releases.wait(1) == 1


def test_a_receipt_has_an_entry_for_each_backend(storage, tmp_path):
    chain = storage({"disk": chains.disk(tmp_path), "bad": chains.guest("FailBackend", in_="put")})
    receipt = chain.put_lent(chain.keys(["a", "b"]), [b"x", b"y"])
    disk, bad = receipt.outcomes()
    assert (disk.backend, disk.stored) == ("disk", [True, True])
    assert (bad.backend, bad.stored) == ("bad", [False, False])
    assert all(outcome.startswith("failed: ") and "on purpose" in outcome for outcome in bad.outcomes)
    assert receipt.stored() == [True, True]
    only_bad = chain.put_lent(chain.keys(["c"]), [b"x"], tiers="bad")
    assert only_bad.stored() == [False]


def test_a_receipt_waits_as_long_as_it_is_told(storage):
    slow = storage({"slow": chains.guest("SlowMemory", ms=400)})
    receipt = slow.put_lent(slow.keys(["a"]), [b"x"])
    assert not receipt.is_complete
    for timeout in (0, 0.0, 0.01):
        with pytest.raises(TimeoutError, match="not ended yet"):
            receipt.outcomes(timeout)
        with pytest.raises(TimeoutError):
            receipt.stored(timeout=timeout)
    assert receipt.stored(60) == [True] and receipt.is_complete
    assert receipt.outcomes(0)[0].stored == [True]


def test_a_callback_gets_the_receipt_before_and_after_the_end(storage):
    from threading import Event, current_thread

    slow = storage({"slow": chains.guest("SlowMemory", ms=100)})
    receipt = slow.put_lent(slow.keys(["a"]), [b"x"])
    for _ in range(2):
        seen, done = [], Event()

        def note(given):
            seen.append((given is receipt, given.is_complete, given.stored(0), current_thread().name))
            done.set()

        receipt.add_done_callback(note)
        assert done.wait(60)
        assert seen == [(True, True, [True], "kvtier-events")]


def test_the_cpu_tier_does_not_keep_what_is_lent(storage, tmp_path):
    chain = storage({"disk": chains.disk(tmp_path)}, cpu_tier=True)
    keys = chain.keys(["a", "b"])
    assert chain.put_lent(keys, [b"x" * 100, b"y" * 100]).stored() == [True, True]
    assert chain.status().cpu.entries == 0 and chain.contains(keys, tiers="cpu") == 0
    targets = [bytearray(100), bytearray(100)]
    assert chain.fetch_into(keys, targets) == [100, 100] and targets[1] == b"y" * 100
    (chunk, _) = chain.get(keys, 100)
    assert bytes(chunk) == b"x" * 100 and chain.status().cpu.entries == 2
    targets = [bytearray(100), bytearray(100)]
    assert chain.fetch_into(keys, targets, tiers="cpu") == [100, 100] and targets[0] == b"x" * 100


def test_allocations_on_keys_of_different_sizes(storage, tmp_path):
    chain = storage({"disk": chains.disk(tmp_path)}, cpu_tier=True)
    keys = chain.keys(["a", "b", "c"])
    with chain.allocate(keys, [10, 2000, 300]) as allocation:
        assert [len(missing) for missing in allocation.missing] == [10, 2000, 300]
        chains.fill(allocation)
        assert chain.store(allocation).n_new == 3
    chunks = chain.get(keys, [10, 2000, 300])
    assert [bytes(chunk) for chunk in chunks] == [b"\1" * 10, b"\2" * 2000, b"\3" * 300]
    chain.flush()
    assert chain.remove(keys, tiers="cpu") == 3
    # From the backend, by an upper bound of the size.
    assert [len(chunk) for chunk in chain.get(keys, 5000)] == [10, 2000, 300]


def test_pins_on_keys_are_held_by_their_id(disk):
    keys = disk.keys(["a", "b", "c"])
    disk.put_lent(keys[:32], [b"x", b"y"]).stored()
    assert disk.contains(keys, pin="one") == 2 and disk.contains(keys, pin="two") == 2
    assert disk.status().lookups_pinned == 2
    disk.unpin("one")
    disk.unpin("one")
    assert disk.status().lookups_pinned == 1 and disk.contains(keys) == 2
    disk.unpin("two")
    assert disk.status().lookups_pinned == 0


def test_removed_chunks_are_gone(disk):
    keys = disk.keys(["a", "b"])
    disk.put_lent(keys, [b"x", b"y"]).stored()
    assert disk.remove(keys[:16]) == 1
    assert disk.contains_each(keys) == [False, True]
    assert disk.remove(keys) == 1 and disk.remove(keys) == 0


def test_a_backend_is_taken_out_and_put_back(storage, tmp_path):
    chain = storage({"disk": chains.disk(tmp_path)})
    keys = chain.keys(["a"])
    chain.put_lent(keys, [b"x"]).stored()
    chain.bypass("disk")
    assert chain.status().backends[0].bypassed and chain.contains(keys) == 0
    chain.restore("disk")
    assert not chain.status().backends[0].bypassed and chain.contains(keys) == 1
    chain.recreate("disk")
    assert eventually(lambda: chain.contains(keys)) == 1
    for call in (chain.bypass, chain.restore):
        with pytest.raises(kvtier.UnknownBackendError, match="nobody"):
            call("nobody")
    with pytest.raises((kvtier.UnknownBackendError, kvtier.RecreateError), match="nobody"):
        chain.recreate("nobody")


def test_two_processes_worth_of_chains_share_a_folder_one_after_the_other(storage, tmp_path):
    first = storage({"disk": chains.disk(tmp_path)})
    keys = first.keys(["a"])
    data = os.urandom(100_000)
    first.put_lent(keys, [data])
    first.close()
    second = storage({"disk": chains.disk(tmp_path)})
    target = bytearray(len(data))
    assert second.fetch_into(keys, [target]) == [len(data)] and target == data


# --- Release -------------------------------------------------------------------------------------------------------


def test_memory_that_is_never_lent_is_released_when_it_is_collected(disk, releases):
    array = np.zeros(100, np.uint8)
    memory = kvtier.Memory(array.ctypes.data, 100, array, releases)
    assert (memory.address, len(memory)) == (array.ctypes.data, 100) and "100" in repr(memory)
    del memory
    gc.collect()
    assert releases.wait(1) == 1 and releases.owners[0] is array
    batch = lend(np.zeros((5, 10), np.uint8), releases)
    del batch[1:]
    gc.collect()
    assert len(releases.owners) == 1
    del batch
    assert releases.wait(2) == 2


def test_a_shared_owner_is_released_once_after_the_last_transfer(storage, releases):
    slow = storage({"slow": chains.guest("SlowMemory", ms=200), "slower": chains.guest("SlowMemory", ms=700)})
    source = filled(3, 100)
    receipt = slow.put_lent(slow.keys(["a", "b", "c"]), lend(source, releases))
    fast = slow.put_lent(slow.keys(["d"]), [source[0].copy()], tiers="slow")
    fast.stored()
    assert not receipt.is_complete and releases.owners == []
    assert receipt.stored() == [True] * 3
    assert releases.wait(1) == 1
    slow.flush()
    slow.close()
    assert len(releases.owners) == 1


def test_a_call_that_is_refused_lends_nothing(disk, releases):
    array = filled(2, 100)
    first, second = lend(array, releases)
    keys = disk.keys(["a", "b"])
    for memory in ([first, first], [first, 5], [second, b""], [first]):
        with pytest.raises((ValueError, TypeError, BufferError)):
            disk.put_lent(keys, memory)
    assert releases.owners == []
    assert disk.put_lent(keys, [first, second]).stored() == [True, True]
    assert releases.wait(1) == 1
    with pytest.raises(ValueError, match="memory 0 was lent before"):
        disk.put_lent(keys, [first, second])


def test_on_release_may_be_anything_that_is_called(disk, capfd):
    array = filled(4, 10)
    called = []

    def fails(owner):
        called.append("fails")
        raise RuntimeError("on purpose")

    def exits(owner):
        called.append("exits")
        raise SystemExit(3)

    def takes_none():
        called.append("never")

    memory = [
        kvtier.Memory(row.ctypes.data, 10, array, function)
        for row, function in zip(array, (fails, exits, takes_none, lambda owner: called.append("fine")), strict=True)
    ]
    keys = disk.keys(["a", "b", "c", "d"])
    assert disk.put_lent(keys, memory).stored() == [True] * 4
    assert eventually(lambda: "fine" in called)
    assert eventually(lambda: sorted(called) == ["exits", "fails", "fine"])
    assert disk.fetch_into(keys, [bytearray(10) for _ in range(4)]) == [10] * 4
