"""Threads that race for one object, with the interpreter switching between them as often as it can."""

import sys
import threading

import chains
import kvtier
import numpy as np
import pytest
from chains import CHUNK_BYTES, fill, store_prompt


@pytest.fixture(autouse=True)
def switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def race(n_threads, work):
    """Runs `work(number)` in several threads at once, and returns what each returned or raised."""
    outcomes = [None] * n_threads
    start = threading.Barrier(n_threads)

    def run(number):
        start.wait()
        try:
            outcomes[number] = work(number)
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=[number], daemon=True) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return outcomes


def test_memory_is_lent_to_one_of_those_who_race_for_it(disk, releases):
    array = np.zeros(100, np.uint8)
    for turn in range(100):
        memory = kvtier.Memory(array.ctypes.data, 100, turn, releases)
        keys = disk.keys([str(turn)])
        outcomes = race(4, lambda _: disk.put_lent(keys, [memory]).stored())
        assert outcomes.count([True]) == 1
        assert sum(isinstance(outcome, ValueError) for outcome in outcomes) == 3
    assert releases.wait(100) == 100 and releases.owners == list(range(100))


def test_an_allocation_is_stored_by_one_of_those_who_race_for_it(cpu):
    for turn in range(100):
        tokens = [turn * 1000 + token for token in range(32)]
        allocation = cpu.allocate(tokens)
        fill(allocation)

        def work(number):
            if number == 0:
                return allocation.release()
            return cpu.store(allocation).n_new

        outcomes = race(4, work)
        assert outcomes.count(2) <= 1
        assert cpu.lookup(tokens).n_chunks == 2 * outcomes.count(2)
        assert all(outcome in (None, 2) or isinstance(outcome, ValueError) for outcome in outcomes)


def test_nobody_writes_what_is_stored(cpu):
    # A view is taken, or the allocation is stored, and never both.
    for turn in range(200):
        tokens = [turn * 1000 + token for token in range(16)]
        allocation = cpu.allocate(tokens)
        fill(allocation)
        (missing,) = allocation.missing

        def work(number):
            if number == 0:
                return cpu.store(allocation)
            with memoryview(missing) as view:
                view[:] = bytes([1]) * CHUNK_BYTES
                before = cpu.lookup(tokens).n_chunks
                view[0] = 1
                return before

        outcomes = race(3, work)
        for outcome in outcomes[1:]:
            # Whoever had a view saw nothing stored.
            assert outcome == 0 or isinstance(outcome, BufferError)
        if isinstance(outcomes[0], BufferError):
            cpu.store(allocation)
        assert bytes(cpu.retrieve(tokens).chunks[0]) == bytes([1]) * CHUNK_BYTES


def test_chunks_are_whole_while_others_evict_remove_and_store_them(engine):
    chain = engine(top={"max_local_cpu_size": 0.0003})

    def work(number):
        for turn in range(150):
            tokens = [turn % 5 * 1000 + token for token in range(64)]
            if number == 0:
                chain.remove(tokens)
            elif number == 1:
                chain.lookup(tokens, pin=str(turn))
                chain.unpin(str(turn))
            else:
                store_prompt(chain, tokens)
                for position, chunk in enumerate(chain.retrieve(tokens).chunks):
                    assert bytes(chunk) == bytes([position + 1]) * CHUNK_BYTES
        return "done"

    assert race(5, work) == ["done"] * 5


def test_a_chain_is_closed_by_those_who_race_for_it(storage, tmp_path):
    for turn in range(10):
        chain = storage({"disk": chains.disk(tmp_path)})
        keys = chain.keys([str(turn)])
        chain.put_lent(keys, [b"x" * 10_000])
        assert race(4, lambda _: chain.close()) == [None] * 4
        again = storage({"disk": chains.disk(tmp_path)})
        assert again.contains(keys) == 1
        again.close()


def test_chains_are_opened_and_dropped_by_several_threads(storage):
    def work(number):
        for _ in range(5):
            chain = chains.storage({"good": chains.guest("GoodBackend")})
            keys = chain.keys([str(number)])
            assert chain.put_lent(keys, [b"x"]).stored() == [True]
            assert chain.futures.contains(keys).result(60) == 1
            if number % 2:
                chain.close()
        return "done"

    assert race(4, work) == ["done"] * 4
