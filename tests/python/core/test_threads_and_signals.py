"""Threads and signals: waits leave the GIL to others, Ctrl-C ends them, and chains are shared."""

import concurrent.futures
import os
import signal
import threading
import time

import chains
import kvtier
import numpy as np
import pytest
from chains import store_prompt
from conftest import eventually

HANGS = {"call_timeout_ms": 60000}


def hanging(storage, method, close_timeout_ms=100):
    """A chain that hangs in a method for longer than a test takes."""
    top = {"lookup_timeout_ms": 60000, "blocking_timeout_secs": 60}
    backends = {
        "hangs": chains.guest("HangBackend", in_=method, limits={**HANGS, "close_timeout_ms": close_timeout_ms})
    }
    return storage(backends, top=top, close_timeout_ms=close_timeout_ms)


class Counter(threading.Thread):
    """Counts as fast as it can."""

    def __init__(self):
        super().__init__(daemon=True)
        self.n, self.stops = 0, False

    def run(self):
        while not self.stops:
            self.n += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stops = True
        self.join()


@pytest.mark.parametrize("wait", ["contains", "fetch_into", "outcomes", "flush", "future"])
def test_others_compute_while_a_call_waits(storage, wait):
    slow = storage({"slow": chains.guest("SlowMemory", ms=400)})
    keys = slow.keys(["a"])
    receipt = slow.put_lent(keys, [b"x"])
    calls = {
        "contains": lambda: slow.contains(keys),
        "fetch_into": lambda: slow.fetch_into(keys, [bytearray(1)]),
        "outcomes": receipt.outcomes,
        "flush": slow.flush,
        "future": lambda: slow.futures.contains(keys).result(60),
    }
    with Counter() as counter:
        assert eventually(lambda: counter.n > 0)
        before = counter.n
        calls[wait]()
        counted = counter.n - before
    # A wait that keeps the GIL lets it count nothing. Without the GIL it counts millions a second.
    assert counted > 10_000


def test_large_copies_between_the_cpu_tier_and_memory_leave_the_gil_to_others(storage):
    n, size = 16, 8 << 20
    chain = storage(cpu_tier=True, chunk_bytes_max=size, top={"max_local_cpu_size": 0.2})
    keys = chain.keys(map(str, range(n)))
    with chain.allocate(keys, size) as allocation:
        chains.fill(allocation)
        chain.store(allocation)
    target = np.zeros((n, size), np.uint8)
    with Counter() as counter:
        assert eventually(lambda: counter.n > 0)
        before = counter.n
        assert chain.fetch_into(keys, list(target)) == [size] * n
        counted = counter.n - before
    assert (target[:, 0] == np.arange(1, n + 1)).all()
    assert counted > 1000


def interrupt(after_s):
    """Sends what Ctrl-C sends, after a while."""
    timer = threading.Timer(after_s, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    return timer


@pytest.mark.parametrize("method", ["contains", "get", "put", "remove"])
def test_ctrl_c_ends_a_wait_for_a_backend_that_hangs(storage, method):
    chain = hanging(storage, method)
    keys = chain.keys(["a"])
    calls = {
        "contains": lambda: chain.contains(keys),
        "get": lambda: chain.fetch_into(keys, [bytearray(10)]),
        "put": lambda: chain.put_lent(keys, [b"x"]).outcomes(),
        "remove": lambda: chain.remove(keys),
    }
    timer = interrupt(0.3)
    with pytest.raises(KeyboardInterrupt):
        calls[method]()
        time.sleep(10)
        pytest.fail("the call returned, and nothing interrupted it")
    timer.join()
    # The chain works on.
    assert not chain.is_closed and chain.status().backends[0].name == "hangs"
    if method != "put":
        assert chain.put_lent(chain.keys(["b"]), [b"x"]).stored() == [True]
    if method != "contains":
        assert chain.contains(chain.keys(["c"])) == 0


def test_ctrl_c_ends_the_closing_of_a_chain_which_can_be_closed_again(storage):
    chain = hanging(storage, "close", close_timeout_ms=3000)
    timer = interrupt(0.3)
    with pytest.raises(KeyboardInterrupt):
        chain.close()
    timer.join()
    assert not chain.is_closed
    with pytest.raises(kvtier.CloseError, match="hangs"):
        chain.close()
    assert chain.is_closed


def test_ctrl_c_ends_the_opening_of_a_chain(storage):
    timer = interrupt(0.3)
    with pytest.raises(KeyboardInterrupt):
        hanging(storage, "open")
    timer.join()


def test_a_signal_handler_runs_during_a_wait_and_may_use_the_chain(storage):
    chain = hanging(storage, "get")
    seen = []

    def handler(*_):
        seen.append(chain.contains(chain.keys(["b"])))
        if len(seen) == 2:
            raise InterruptedError("enough")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        with pytest.raises(InterruptedError, match="enough"):
            chain.fetch_into(chain.keys(["a"]), [bytearray(10)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen == [0, 0]


def test_memory_of_an_interrupted_fetch_is_released_later_and_once(storage, releases):
    top = {"blocking_timeout_secs": 2}
    chain = storage(
        {"hangs": chains.guest("HangBackend", in_="get", limits={"call_timeout_ms": 1500})},
        top=top,
        close_timeout_ms=100,
    )
    array = np.zeros(100, np.uint8)
    timer = interrupt(0.2)
    with pytest.raises(KeyboardInterrupt):
        chain.fetch_into(chain.keys(["a"]), [kvtier.Memory(array.ctypes.data, 100, array, releases)])
    timer.join()
    assert releases.wait(1) == 1 and releases.owners[0] is array
    chain.close()
    assert len(releases.owners) == 1


def test_memory_of_an_interrupted_put_is_released_once(storage, releases):
    hangs = chains.guest("HangBackend", in_="put", limits=HANGS)
    top = {"blocking_timeout_secs": 60}
    chain = storage({"hangs": hangs}, top=top, on_full="wait", put_queue_bytes=1000, close_timeout_ms=100)
    array = np.zeros(10_000, np.uint8)
    n, receipts = 0, []
    timer = interrupt(0.3)
    with pytest.raises(KeyboardInterrupt):
        while True:
            n += 1
            memory = kvtier.Memory(array.ctypes.data, array.nbytes, n, releases)
            receipts.append(chain.put_lent(chain.keys([str(n)]), [memory]))
            # The queue takes one chunk of any size.
            del memory
    timer.join()
    assert len(receipts) == n - 1
    chain.close()
    assert releases.wait(n) == n and sorted(releases.owners) == list(range(1, n + 1))
    assert [receipt.stored(60) for receipt in receipts] == [[False]] * (n - 1)


def test_threads_share_a_chain(storage, tmp_path):
    chain = storage({"disk": chains.disk(tmp_path), "memory": chains.guest("GoodBackend")}, on_full="wait")

    def work(number):
        for turn in range(20):
            keys = chain.keys([f"{number} {turn} {part}" for part in range(4)])
            data = [bytes([number, turn, part]) * 100 for part in range(4)]
            assert chain.put_lent(keys, data).stored() == [True] * 4
            targets = [bytearray(300) for _ in range(4)]
            assert chain.fetch_into(keys, targets) == [300] * 4
            assert targets == data
            assert chain.contains(keys, pin=f"{number}") == 4
            chain.unpin(f"{number}")
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert chain.status().lookups_pinned == 0


def test_threads_share_an_engine_that_evicts(engine):
    chain = engine(top={"max_local_cpu_size": 0.0003})

    def work(number):
        for turn in range(100):
            tokens = [number * 10_000 + turn % 7 * 100 + token for token in range(64)]
            store_prompt(chain, tokens)
            for position, chunk in enumerate(chain.retrieve(tokens).chunks):
                assert bytes(chunk) == bytes([position + 1]) * len(chunk)
        return True

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    assert chain.status().cpu.evictions > 0


def test_one_prompt_is_appended_by_several_threads(cpu):
    prompt = cpu.prompt([])

    def work(_):
        for _ in range(200):
            prompt.append([7] * 3)
            assert len(prompt.keys) % 16 == 0
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert prompt.n_tokens == 4 * 200 * 3 and prompt.keys == cpu.prompt([7] * 2400).keys


def test_calls_from_several_threads_while_another_closes(storage, tmp_path, releases):
    for turn in range(5):
        chain = storage({"disk": chains.disk(tmp_path), "slow": chains.guest("SlowMemory", ms=5)})
        keys = chain.keys(["a", "b"])
        ended = []
        started = threading.Barrier(7)

        def work(call):
            started.wait()
            while True:
                try:
                    call()
                except kvtier.ClosedError:
                    ended.append("closed")
                    return

        def futures():
            for future in [chain.futures.contains(keys) for _ in range(5)]:
                future.result(60)

        calls = [
            lambda: chain.contains(keys),
            lambda: chain.put_lent(keys, [b"x", b"y"]).outcomes(),
            lambda: chain.fetch_into(keys, [bytearray(10), bytearray(10)]),
            lambda: (chain.status(), chain.counts(), chain.metrics()),
            futures,
        ]
        threads = [threading.Thread(target=work, args=[call], daemon=True) for call in calls]
        closer = threading.Thread(target=lambda: (started.wait(), time.sleep(0.02), chain.close()), daemon=True)
        for thread in [*threads, closer]:
            thread.start()
        started.wait()
        chain.close()
        for thread in [*threads, closer]:
            thread.join(60)
            assert not thread.is_alive()
        assert ended == ["closed"] * len(calls) and chain.is_closed


def test_a_closed_chain_says_so(storage, engine):
    chain, tokens = storage({"memory": chains.guest("GoodBackend")}), engine()
    prompt, keys = tokens.prompt(range(32)), chain.keys(["a"])
    on_keys = tokens.storage
    chain.close()
    tokens.close()
    calls = [
        lambda: chain.contains(keys),
        lambda: chain.contains_each(keys),
        lambda: chain.keys(["b"]),
        lambda: chain.namespace,
        lambda: chain.put_lent(keys, [b"x"]),
        lambda: chain.fetch_into(keys, [bytearray(1)]),
        lambda: chain.get(keys, 1),
        lambda: chain.remove(keys),
        lambda: chain.bypass("memory"),
        lambda: chain.recreate("memory"),
        lambda: chain.unpin("x"),
        chain.flush,
        chain.status,
        chain.counts,
        chain.metrics,
        lambda: chain.futures.contains(keys),
        lambda: tokens.lookup(prompt),
        lambda: tokens.prompt(range(3)),
        lambda: tokens.chunk_bytes,
        lambda: tokens.pool,
        lambda: on_keys.contains(keys),
    ]
    for call in calls:
        with pytest.raises(kvtier.ClosedError, match="closed"):
            call()
    assert chain.is_closed and tokens.is_closed and on_keys.is_closed
    chain.close()
    tokens.close()
    # What needs no chain goes on.
    prompt.append([1, 2, 3])
    assert prompt.n_tokens == 35


def test_a_refused_put_of_a_closed_chain_does_not_keep_its_memory(storage, releases):
    chain = storage({"memory": chains.guest("GoodBackend")})
    keys = chain.keys(["a"])
    chain.close()
    array, plain = np.zeros(10, np.uint8), bytearray(10)
    memory = kvtier.Memory(array.ctypes.data, 10, array, releases)
    for wrong in (memory, plain):
        with pytest.raises(kvtier.ClosedError):
            chain.put_lent(keys, [wrong])
        with pytest.raises(kvtier.ClosedError):
            chain.fetch_into(keys, [wrong])
    plain.append(1)
    assert releases.owners == []
    del memory, wrong
    assert releases.wait(1) == 1


def test_the_collector_may_run_code_while_chunks_to_be_filled_are_listed(program):
    """Another thread that opens a view at that moment must not wait for it with the GIL."""
    source = """
import gc
engine = chains.engine()
allocation = engine.allocate(range(64))
first = allocation.missing[0]
is_over = threading.Event()

class Cycle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        time.sleep(0.001)

def look():
    while not is_over.is_set():
        memoryview(first).release()

looking = threading.Thread(target=look)
looking.start()
gc.set_threshold(1)
for _ in range(200):
    Cycle()
    assert len(allocation.missing) == 4
gc.set_threshold(700)
is_over.set()
looking.join()
allocation.release()
engine.close()
print("over")
"""
    assert program(source).ended_well() == ["over"]


def test_asyncio_closes_at_the_end_of_a_block(engine):
    async def run():
        opened = engine()
        async with opened.aio as aio:
            assert (await aio.lookup(range(64))).n_tokens == 0
        await opened.aio.close()
        return opened.is_closed

    import asyncio

    assert asyncio.run(run())


def test_a_backend_that_cannot_be_asked_to_remove_is_the_same_error_for_tokens_and_keys(engine):
    backend = chains.guest("HangBackend", limits={"call_timeout_ms": 300}, **{"in": "remove"})
    opened = engine({"bad": backend})
    with pytest.raises(kvtier.RemoveError):
        opened.remove(range(64))
    with pytest.raises(kvtier.RemoveError):
        opened.storage.remove(opened.prompt(range(64)).keys)
