"""Components that trap, end, overflow, hang or lie: misses, whatever handlers of signals the process has."""

import chains
import kvtier
import numpy as np
import pytest
from conftest import eventually

LIMITS = {"call_timeout_ms": 300}

BEHAVIOURS = {
    "TrapBackend": "trap",
    "PanicBackend": "trap",
    "ExitBackend": "trap",
    "OverflowBackend": "trap",
    "LeakBackend": "trap",
    "StderrFloodBackend": None,
    "SpinBackend": None,
    "BlockBackend": None,
    "HangBackend": "timeout",
    "FailBackend": None,
    "WrongCountBackend": None,
    "OverclaimBackend": None,
    "PhantomBackend": None,
    "WrongBytesBackend": "check_failed",
    "GarbageBackend": None,
    "HalfBackend": None,
    "PastEndBackend": None,
    "SwappedBackend": None,
    "ShortBackend": None,
    "RandomFloodBackend": None,
    "StraggleBackend": None,
}

# What a class answers wrong it does in puts and gets, whatever `in` says.
FETCH = """
import faulthandler
order, name, method = sys.argv[1:]
if order == "before":
    faulthandler.enable()
limits = {"call_timeout_ms": 300}
chain = chains.storage({"bad": chains.guest(name, in_=method, limits=limits), "good": chains.guest("GoodBackend")})
if order == "after":
    faulthandler.enable()
keys = chain.keys(["a", "b"])
for turn in range(3):
    chain.put_lent(keys, [b"x" * 1000, b"y" * 1000]).outcomes()
    print(chain.contains(keys, tiers="bad") <= 2)
    result = chain.fetch_into(keys, [bytearray(1000), bytearray(1000)], tiers="bad")
    print(all(isinstance(one, kvtier.Miss) for one in result), [one.reason for one in result if one != 1000])
    target = [bytearray(1000), bytearray(1000)]
    assert chain.fetch_into(keys, target, tiers="good") == [1000, 1000] and target == [b"x" * 1000, b"y" * 1000]
"""


@pytest.mark.parametrize("order", ["before", "after", "never"])
@pytest.mark.parametrize("name", ["TrapBackend", "OverflowBackend", "ExitBackend", "PanicBackend"])
def test_a_trap_is_a_miss_whenever_faulthandler_is_enabled(program, order, name):
    for method in ("get", "put", "contains"):
        done = program(FETCH, order, name, method)
        lines = done.ended_well()
        assert len(lines) == 6
        if method == "get":
            assert lines[1].startswith("True") and "trap" in lines[1]
        assert "Fatal Python error" not in done.err and "Segmentation" not in done.err


def test_a_handler_of_the_programs_own_is_not_called_for_a_trap(program):
    lines = program(
        """
import signal
chain = chains.storage({"bad": chains.guest("TrapBackend"), "deep": chains.guest("OverflowBackend")})
for number in (signal.SIGILL, signal.SIGSEGV, signal.SIGFPE, signal.SIGBUS, signal.SIGTRAP):
    signal.signal(number, lambda number, _: print("handler", number, flush=True))
keys = chain.keys(["a"])
print([one.reason for one in chain.fetch_into(keys, [bytearray(9)])])
chain.put_lent(keys, [b"x"]).outcomes()
print([one.reason for one in chain.fetch_into(keys, [bytearray(9)], tiers="bad")])
print([one.reason for one in chain.fetch_into(keys, [bytearray(9)], tiers="deep")])
"""
    ).ended_well()
    assert lines == ["['trap']", "['trap']", "['trap']"]


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_every_bad_component_causes_misses_and_gives_memory_back_once(storage, releases, name):
    bad = (
        chains.guest(name, limits=LIMITS)
        if BEHAVIOURS[name] != "trap"
        else chains.guest(name, in_="get", limits=LIMITS)
    )
    chain = storage({"bad": bad}, close_timeout_ms=100)
    keys = chain.keys(["a", "b"])
    source, target = np.full((2, 500), 7, np.uint8), np.zeros((2, 500), np.uint8)
    n = 0
    for turn in range(2):
        put = kvtier.Memory.batch([row.ctypes.data for row in source], 500, source, releases)
        chain.put_lent(keys, put).outcomes()
        result = chain.fetch_into(keys, kvtier.Memory.batch([row.ctypes.data for row in target], 500, target, releases))
        n += 2
        for row, one in zip(target, result, strict=True):
            assert isinstance(one, kvtier.Miss) or (one == 500 and (row == 7).all()), one
        assert any(isinstance(one, kvtier.Miss) for one in result)
        if BEHAVIOURS[name]:
            assert {one.reason for one in result if isinstance(one, kvtier.Miss)} <= {
                BEHAVIOURS[name],
                "lost",
                "skipped",
            }
    del put
    assert releases.wait(n) == n
    chain.flush()
    assert len(releases.owners) == n


def test_memory_of_a_fetch_that_timed_out_is_free_only_when_it_says_so(storage, releases):
    late = chains.guest("LateBackend", in_="get", ms=1500, limits={"call_timeout_ms": 200})
    chain = storage({"late": late})
    keys = chain.keys(["a"])
    chain.put_lent(keys, [b"x" * 100]).stored()
    target = np.zeros(100, np.uint8)
    (miss,) = chain.fetch_into(keys, [kvtier.Memory(target.ctypes.data, 100, target, releases)])
    assert miss.reason == "timeout"
    assert releases.wait(1) == 1
    at_release = target.copy()
    # Nobody writes it any more.
    chain.flush()
    eventually(lambda: chain.contains(keys) == 1)
    assert (target == at_release).all() and len(releases.owners) == 1


def test_memory_of_a_put_that_hangs_is_released_when_the_call_is_given_up(storage, releases):
    chain = storage({"bad": chains.guest("HangBackend", in_="put", limits=LIMITS)}, close_timeout_ms=100)
    source = np.zeros(1000, np.uint8)
    receipt = chain.put_lent(chain.keys(["a"]), [kvtier.Memory(source.ctypes.data, 1000, source, releases)])
    assert not receipt.is_complete and releases.owners == []
    assert receipt.stored(60) == [False]
    assert "failed" in receipt.outcomes()[0].outcomes[0]
    assert releases.wait(1) == 1


def test_memory_of_queued_puts_is_released_when_the_chain_is_closed(storage, releases):
    limits = {"call_timeout_ms": 60000, "close_timeout_ms": 100}
    chain = storage({"bad": chains.guest("HangBackend", in_="put", limits=limits)}, close_timeout_ms=200)
    source = np.zeros((50, 1000), np.uint8)
    receipts = [
        chain.put_lent(chain.keys([str(i)]), [kvtier.Memory(row.ctypes.data, 1000, i, releases)])
        for i, row in enumerate(source)
    ]
    chain.close()
    assert releases.wait(50) == 50 and sorted(releases.owners) == list(range(50))
    assert [receipt.stored(60) for receipt in receipts] == [[False]] * 50


def test_a_dropped_chain_releases_what_it_was_lent(storage, releases):
    # A call that is under way when the chain is dropped ends with its limit.
    limits = {"call_timeout_ms": 500}
    bad = chains.guest("HangBackend", in_="put", limits=limits)
    chain = chains.storage({"bad": bad, "spin": chains.guest("SpinBackend", in_="put", limits=limits)})
    source = np.zeros(1000, np.uint8)
    receipt = chain.put_lent(chain.keys(["a"]), [kvtier.Memory(source.ctypes.data, 1000, source, releases)])
    del chain, receipt
    assert releases.wait(1) == 1


def test_a_flood_of_logs_does_not_stop_anything(storage):
    chain = storage({"bad": chains.guest("LogFloodBackend", lines=20000, limits={"call_timeout_ms": 5000})})
    keys = chain.keys(["a"])
    chain.put_lent(keys, [b"x"]).stored()
    for _ in range(3):
        assert chain.contains(keys) in (0, 1)
    assert chain.futures.fetch_into(keys, [bytearray(1)]).result(60) == [1]
