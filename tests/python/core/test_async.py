"""Futures and coroutines: the same operations without waiting."""

import asyncio
import concurrent.futures
import copy
import threading

import chains
import kvtier
import pytest
from chains import fill, store_prompt
from conftest import eventually


@pytest.fixture
def slow(storage):
    return storage({"slow": chains.guest("SlowMemory", ms=200)})


def test_every_waiting_operation_has_a_future(engine, tmp_path):
    chain = engine({"disk": chains.disk(tmp_path)})
    prompt = chain.prompt(range(64))
    allocation = chain.futures.allocate(prompt).result(60)
    fill(allocation)
    assert chain.futures.store(allocation, tiers=None).result(60).n_new == 4
    assert chain.futures.flush().result(60) is None and chain.futures.flush(5).result(60) is None
    assert chain.futures.lookup(prompt, pin="one").result(60).n_tokens == 64
    assert chain.futures.unpin("one").result(60) is None
    assert [bytes(chunk)[0] for chunk in chain.futures.retrieve(prompt).result(60).chunks] == [1, 2, 3, 4]
    on_keys = chain.storage.futures
    keys = prompt.keys
    assert on_keys.contains(keys).result(60) == 4 and on_keys.contains_each(keys).result(60) == [True] * 4
    assert len(on_keys.get(keys, chains.CHUNK_BYTES).result(60)) == 4
    target = bytearray(chains.CHUNK_BYTES)
    assert on_keys.fetch_into(keys[:16], [target]).result(60) == [chains.CHUNK_BYTES] and target[0] == 1
    name = chain.storage.keys(["a"])
    assert on_keys.put_lent(name, [b"x"]).result(60).stored() == [True]
    assert on_keys.recreate("disk").result(60) is None
    assert on_keys.remove(name).result(60) in (0, 1)
    assert chain.futures.remove(prompt).result(60) > 0


def test_futures_overlap(slow):
    keys = slow.keys(map(str, range(40)))
    futures = [slow.futures.contains(keys[at : at + 16]) for at in range(0, len(keys), 16)]
    assert not all(future.done() for future in futures)
    done, not_done = concurrent.futures.wait(futures, 60)
    assert not not_done and [future.result() for future in futures] == [0] * 40


def test_futures_complete_on_the_thread_of_events(slow):
    threads = []
    done = threading.Event()
    future = slow.futures.contains(slow.keys(["a"]))
    future.add_done_callback(lambda _: (threads.append(threading.current_thread()), done.set()))
    assert done.wait(60)
    assert [thread.name for thread in threads] == ["kvtier-events"] and threads[0].daemon


def test_errors_arrive_in_the_future_and_wrong_arguments_at_once(storage, tmp_path):
    hangs = chains.guest("HangBackend", in_="put", limits={"call_timeout_ms": 60000})
    chain = storage({"h": hangs}, close_timeout_ms=100)
    chain.put_lent(chain.keys(["a"]), [b"x"])
    with pytest.raises(kvtier.FlushError):
        chain.futures.flush(0.05).result(60)
    with pytest.raises((kvtier.RecreateError, kvtier.UnknownBackendError)):
        chain.futures.recreate("nobody").result(60)
    with pytest.raises(ValueError):
        chain.futures.contains(b"short")
    with pytest.raises(TypeError):
        chain.futures.contains()
    with pytest.raises(AttributeError):
        chain.futures.status
    with pytest.raises(AttributeError, match="waiting operation"):
        chain.futures.nothing
    with pytest.raises(AttributeError):
        chain.futures.lookup


def test_a_cancelled_future_does_not_stop_its_operation_and_is_seen_as_done(slow):
    keys = slow.keys(["a"])
    future = slow.futures.put_lent(keys, [b"x"])
    future.cancel()
    future = slow.futures.contains(keys)
    assert future.cancel() and future.cancelled()
    done, not_done = concurrent.futures.wait([future], 60)
    assert done == {future} and not not_done
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    slow.flush()
    assert slow.contains(keys) == 1


def test_callbacks_that_fail_leave_the_thread_of_events_alive(slow):
    keys = slow.keys(["a"])

    def fails(_):
        raise RuntimeError("on purpose")

    def exits(_):
        raise SystemExit(4)

    def interrupts(_):
        raise KeyboardInterrupt

    for callback in (fails, exits, interrupts):
        future = slow.futures.contains(slow.keys(["nothing"]))
        future.add_done_callback(callback)
        assert future.result(60) == 0
        slow.put_lent(keys, [b"x"]).add_done_callback(callback)
    slow.flush()
    assert slow.futures.contains(keys).result(60) == 1


def test_a_callback_may_call_what_does_not_wait_for_its_thread(slow):
    keys = slow.keys(["a"])
    slow.put_lent(keys, [b"x"]).stored()
    found = concurrent.futures.Future()
    # It waits in Rust for kvtier's threads. That is not advised, and it works.
    slow.futures.contains(keys).add_done_callback(lambda _: found.set_result(slow.contains(keys)))
    assert found.result(60) == 1
    chained = concurrent.futures.Future()

    def go_on(first):
        slow.futures.fetch_into(keys, [bytearray(1)]).add_done_callback(
            lambda second: chained.set_result(second.result())
        )

    slow.futures.contains(keys).add_done_callback(go_on)
    assert chained.result(60) == [1]


def test_coroutines(engine, tmp_path):
    chain = engine({"disk": chains.disk(tmp_path), "slow": chains.guest("SlowMemory", ms=100)})
    store_prompt(chain, range(64))

    async def main():
        await chain.aio.flush()
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.005)

        ticking = asyncio.ensure_future(tick())
        keys = chain.storage.keys(["x"])
        found, present, receipt = await asyncio.gather(
            chain.aio.retrieve(range(64)),
            chain.storage.aio.contains(keys),
            chain.storage.aio.put_lent(keys, [b"x"]),
        )
        ticking.cancel()
        with pytest.raises(ValueError):
            await chain.storage.aio.contains(b"short")
        assert ticks > 3
        return found.n_tokens, present, receipt

    n_tokens, present, receipt = asyncio.run(main())
    # The put may be under way before the question is asked.
    assert n_tokens == 64 and present in (0, 1) and receipt.stored() == [True]


def test_a_cancelled_coroutine_leaves_the_loop_in_order(slow):
    keys = slow.keys(["a"])

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow.aio.contains(keys), 0.01)
        task = asyncio.ensure_future(slow.aio.put_lent(keys, [b"x"]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await slow.aio.contains(keys)

    assert asyncio.run(main()) in (0, 1)
    # Its loop is gone when it completes.
    abandoned = slow.aio.contains(keys)

    async def start():
        asyncio.ensure_future(abandoned)
        await asyncio.sleep(0.01)

    asyncio.run(start())
    assert slow.futures.contains(keys).result(60) == 1


def test_views_are_plain_objects(slow):
    for view in (slow.futures, slow.aio):
        assert "contains" in dir(view) and "lookup" not in dir(view)
        assert view.contains is view.contains and view.contains.__name__ == "contains"
        assert "first gap" in view.contains.__doc__
        again = copy.copy(view)
        assert type(again) is type(view) and callable(again.contains)
        with pytest.raises(AttributeError):
            view.__wrapped__
    assert copy.copy(slow.futures).contains(slow.keys(["a"])).result(60) == 0


def test_the_thread_of_events_keeps_nothing_while_it_waits(engine):
    chain = engine()
    store_prompt(chain, range(64))
    done = threading.Event()
    future = chain.futures.retrieve(range(64))
    future.add_done_callback(lambda _: done.set())
    assert len(future.result(60).chunks) == 4 and done.wait(60)
    chain.remove(range(64))
    del future
    # No other event comes.
    assert eventually(lambda: chain.status().cpu.allocated_bytes == 0)
