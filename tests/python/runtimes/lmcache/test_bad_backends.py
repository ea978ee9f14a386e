"""Bad backends below LMCache: each is a miss, nothing is raised, and LMCache's memory comes back.

Real: LMCache (either generation), kvtier, and the misbehaving components of the project's test guests.
"""

import harness
import pytest
from harness import CHUNK_BYTES, fs, has, kvtier_plugin, memory, misbehaving

# What goes wrong in `get`, each in a component that stores what it is given.
BAD_GETS = {
    "hangs": misbehaving("HangBackend"),
    "computes for ever": misbehaving("SpinBackend"),
    "blocks": misbehaving("BlockBackend"),
    "traps": misbehaving("TrapBackend"),
    "panics": misbehaving("PanicBackend"),
    "exits": misbehaving("ExitBackend"),
    "overflows its stack": misbehaving("OverflowBackend"),
    "fails": misbehaving("FailBackend"),
    "floods its standard error": misbehaving("StderrFloodBackend"),
    "floods random numbers": misbehaving("RandomFloodBackend"),
    "leaks handles": misbehaving("LeakBackend"),
    "takes all memory": misbehaving("GreedyBackend", "get"),
    "claims what it has not": misbehaving("OverclaimBackend"),
    "delivers nothing": misbehaving("PhantomBackend"),
    "flips a bit": misbehaving("WrongBytesBackend"),
    "makes up bytes": misbehaving("GarbageBackend"),
    "writes half": misbehaving("HalfBackend"),
    "writes past the end": misbehaving("PastEndBackend"),
    "leaves off a byte": misbehaving("ShortBackend"),
    "swaps chunks": misbehaving("SwappedBackend"),
    "returns too few results": misbehaving("WrongCountBackend"),
    "returns too many results": misbehaving("WrongCountBackend", results="long"),
    "returns a flood of results": misbehaving("WrongCountBackend", results="flood"),
}
BAD_PUTS = {
    "hangs": misbehaving("HangBackend", "put"),
    "traps": misbehaving("TrapBackend", "put"),
    "exits": misbehaving("ExitBackend", "put"),
    "fails": misbehaving("FailBackend", "put"),
    "takes all memory": misbehaving("GreedyBackend", "put"),
}
BAD_LOOKUPS = {
    "hangs": misbehaving("HangBackend", "contains"),
    "traps": misbehaving("TrapBackend", "contains"),
    "exits": misbehaving("ExitBackend", "contains"),
    "floods the log": misbehaving("LogFloodBackend", "contains"),
}


@pytest.mark.parametrize("what", BAD_GETS)
def test_a_get_from_a_backend_that(lmcache, what):
    it = lmcache({"kv": kvtier_plugin({"bad": BAD_GETS[what]})})
    keys = it.keys(1, 2, 3)
    it.stored(keys, [1, 2, 3])
    got = it.get(keys)
    assert got == [None] * 3
    assert it.kvtier.get_blocking(keys[0]) is None
    assert it.kvtier._loans.wait_for_all(harness.LIMIT_S)
    assert it.used_bytes == 0 and it.cpu.get_memory_allocator().memcheck()
    assert it.kvtier._guard.n_failures == 0  # A miss, and not an exception made one.


def test_the_control_finds_everything(lmcache):
    it = lmcache({"kv": kvtier_plugin({"good": misbehaving("GoodBackend")})})
    keys = it.keys(1, 2, 3)
    it.stored(keys, [1, 2, 3])
    got = it.get(keys)
    assert [has(obj, seed) for obj, seed in zip(got, [1, 2, 3], strict=True)] == [True] * 3


@pytest.mark.parametrize("what", BAD_PUTS)
def test_a_put_to_a_backend_that(lmcache, what):
    it = lmcache({"kv": kvtier_plugin({"bad": BAD_PUTS[what]})})
    keys = it.keys(1, 2)
    objs = it.put(keys, [1, 2])
    it.settle()
    assert [obj.get_ref_count() for obj in objs] == [1, 1]
    it.release(None)
    assert it.used_bytes == 0
    assert it.get(keys) == [None, None] and it.kvtier._guard.n_failures == 0


@pytest.mark.parametrize("what", BAD_LOOKUPS)
def test_a_lookup_in_a_backend_that(lmcache, what):
    it = lmcache({"kv": kvtier_plugin({"bad": BAD_LOOKUPS[what], "good": memory()})})
    keys = it.keys(1, 2)
    it.stored(keys, [1, 2])
    # The backend behind it still answers.
    assert it.kvtier.contains(keys[0]) and it.kvtier.batched_contains(keys) == 2
    assert it.kvtier._guard.n_failures == 0


@pytest.mark.parametrize("what", ["traps", "exits", "fails", "flips a bit", "writes half", "delivers nothing"])
def test_a_good_backend_serves_behind_one_that(lmcache, what):
    it = lmcache({"kv": kvtier_plugin({"bad": BAD_GETS[what], "good": memory()})})
    keys = it.keys(1, 2, 3)
    it.stored(keys, [1, 2, 3])
    got = it.get(keys)
    assert [has(obj, seed) for obj, seed in zip(got, [1, 2, 3], strict=True)] == [True] * 3


def test_a_backend_that_hangs_costs_one_get_and_is_skipped_by_the_next(lmcache):
    hangs = misbehaving("HangBackend") | {"breaker.failures": 1, "breaker.window": 1, "breaker.pause_ms": 60000}
    hangs["breaker.pause_max_ms"] = 60000
    it = lmcache({"kv": kvtier_plugin({"bad": hangs, "good": memory()})})
    keys = it.keys(1, 2, 3)
    it.stored(keys, [1, 2, 3])
    assert it.get(keys) == [None] * 3
    got = it.get(keys)
    assert [has(obj, seed) for obj, seed in zip(got, [1, 2, 3], strict=True)] == [True] * 3


def test_a_flipped_bit_in_a_stored_file_is_a_miss(lmcache, tmp_path):
    it = lmcache({"kv": kvtier_plugin({"disk": fs(tmp_path / "kv")})})
    keys = it.keys(1, 2, 3)
    it.stored(keys, [1, 2, 3])
    files = [path for path in (tmp_path / "kv").rglob("*") if path.is_file() and path.stat().st_size >= CHUNK_BYTES]
    assert len(files) == 3
    with files[0].open("r+b") as file:
        file.seek(CHUNK_BYTES // 2)
        byte = file.read(1)[0]
        file.seek(CHUNK_BYTES // 2)
        file.write(bytes([byte ^ 1]))
    got = it.get(keys)
    assert [has(obj, seed) for obj, seed in zip(got, [1, 2, 3], strict=True) if obj is not None] == [True, True]
    it.release(got)
    assert it.used_bytes == 0


def test_a_forged_checksum_needs_the_integrity_key_to_be_noticed(lmcache, tmp_path):
    forges = {"kv": kvtier_plugin({"bad": misbehaving("ForgeBackend")})}
    (tmp_path / "key").write_text("a key of sixteen bytes or more")
    without = lmcache(forges)
    keys = without.keys(1)
    without.stored(keys, [1])
    (obj,) = without.get(keys)
    # The control: without a key nothing can tell.
    assert obj is not None and not has(obj, 1)
    without.release([obj])
    keyed = lmcache(forges, {"kvtier.integrity_key": f"file:{tmp_path / 'key'}"})
    keyed.stored(keys, [1])
    assert keyed.get(keys) == [None] and keyed.used_bytes == 0


def test_methods_answer_with_misses_whatever_happens_inside(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    backend, keys = it.kvtier, it.keys(1, 2)
    it.stored(keys, [1, 2])
    broken = [object(), object()]  # No keys at all.
    assert backend.contains(broken[0]) is False and backend.pin(broken[0]) is False
    assert backend.batched_contains(broken) == 0
    assert backend.get_blocking(broken[0]) is None and backend.batched_get_blocking(broken) == [None, None]
    assert backend.batched_submit_put_task(broken, broken) is None
    assert backend.remove(broken[0]) is False and backend.batched_remove(broken) == 0
    assert it.run(backend.batched_async_contains("id", broken)) == 0
    assert it.run(backend.batched_get_non_blocking("id", broken)) == []
    assert backend._guard.n_failures == 9
    assert it.used_bytes == 0
    got = it.get(keys)
    assert has(got[0], 1) and has(got[1], 2)
