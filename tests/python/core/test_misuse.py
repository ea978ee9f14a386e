"""Everything that Python programs do to objects: copies, subclasses, weak references, cycles, deep recursion."""

import copy
import gc
import pickle
import sys
import threading
import weakref

import chains
import kvtier
import numpy as np
import pytest
from chains import store_prompt
from conftest import eventually


def objects(cpu, disk):
    """One object of each class of the extension."""
    store_prompt(cpu, range(64))
    found = cpu.lookup(range(64))
    retrieved = cpu.retrieve(range(64), plan=found)
    allocation = cpu.allocate(range(100, 164))
    (miss,) = disk.fetch_into(disk.keys(["nothing"]), [bytearray(1)])
    stored = cpu.store(cpu.allocate(range(200, 264)))
    receipt = disk.put_lent(disk.keys(["a"]), [b"x"])
    return [
        cpu,
        cpu.storage,
        cpu.prompt(range(16)),
        found,
        retrieved,
        retrieved.chunks[0],
        allocation,
        allocation.missing[0],
        miss,
        stored,
        receipt,
        kvtier.Memory(4096, 1),
    ]


def test_objects_are_not_copied_pickled_or_compared_by_accident(cpu, disk):
    for one in objects(cpu, disk):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(one)
        with pytest.raises(TypeError, match="pickle"):
            copy.copy(one)
        with pytest.raises(TypeError):
            copy.deepcopy(one)
        assert one == one and hash(one) == hash(one) and one != 5
        assert type(one).__name__ in repr(one) and isinstance(str(one), str)
        assert type(one).__module__ == "kvtier" and getattr(kvtier, type(one).__name__) is type(one)
        with pytest.raises((AttributeError, TypeError)):
            one.surprise = 1
        with pytest.raises(TypeError):
            one < one  # noqa: B015


def test_classes_are_final(cpu, disk):
    for one in objects(cpu, disk):
        with pytest.raises(TypeError):
            type("Sub", (type(one),), {})
        with pytest.raises((TypeError, AttributeError)):
            one.__class__ = dict
        with pytest.raises(TypeError):
            object.__new__(type(one))


def test_fields_cannot_be_set(cpu, disk):
    for one in objects(cpu, disk):
        for name in dir(type(one)):
            if not name.startswith("__") and not callable(getattr(type(one), name)):
                with pytest.raises((AttributeError, TypeError)):
                    setattr(one, name, 1)
                with pytest.raises((AttributeError, TypeError)):
                    delattr(one, name)


def test_plain_values_are_copied_and_pickled(cpu, disk):
    receipt = disk.put_lent(disk.keys(["a"]), [b"x"])
    for value in (cpu.status(), cpu.counts(), receipt.outcomes(), disk.status()):
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value
    for error in (kvtier.ConfigError("text"), kvtier.ClosedError("text"), kvtier.FlushError("text")):
        assert str(pickle.loads(pickle.dumps(error))) == "text"


def test_chains_have_weak_references(engine):
    chain = engine()
    reference = weakref.ref(chain)
    storage = weakref.ref(chain.storage)
    assert reference() is chain
    del storage
    values = weakref.WeakValueDictionary(one=chain)
    assert values["one"] is chain


def test_a_chain_that_nobody_has_is_collected(storage):
    chain = chains.storage({"good": chains.guest("GoodBackend")})
    holder = {"chain": chain, "futures": chain.futures, "aio": chain.aio}
    holder["self"] = holder
    holder["futures"].contains, holder["aio"].contains
    reference = weakref.ref(chain)
    n_threads = len(threading.enumerate())
    del chain, holder
    assert eventually(lambda: reference() is None)
    assert len(threading.enumerate()) == n_threads


def test_memory_in_a_cycle_is_collected():
    class Page:
        pass

    page = Page()
    page.memory = kvtier.Memory(4096, 1, page)
    reference = weakref.ref(page)
    del page
    gc.collect()
    assert eventually(lambda: reference() is None)


def test_on_release_in_a_cycle_is_never_called_after_the_collector_has_cleared_it(disk):
    # Only finalizers may bring objects back. What the collector has cleared has no globals any more.
    called = []
    for _ in range(20):
        cycle = [kvtier.Memory(4096, 1, None, lambda _: called.append(len(str(gc))))]
        cycle.append(cycle)
        del cycle
        owner = {"memory": None}
        owner["memory"] = kvtier.Memory(4096, 1, owner, lambda owner: called.append(owner["memory"]))
        del owner
        gc.collect()
    assert disk.futures.contains(b"k" * 16).result(60) == 0


def test_methods_refuse_what_is_not_theirs(cpu, disk):
    with pytest.raises(TypeError):
        kvtier.Storage.contains(cpu, b"k" * 16)
    with pytest.raises(TypeError):
        kvtier.Chunk.__len__(disk)
    with pytest.raises(TypeError):
        kvtier.Engine.lookup(None, range(3))
    with pytest.raises(TypeError):
        kvtier.Receipt.stored(5)
    for arguments in ((), (1, 2, 3, 4)):
        with pytest.raises(TypeError):
            disk.contains(*arguments)
    with pytest.raises(TypeError):
        disk.contains(b"k" * 16, nonsense=1)
    with pytest.raises(TypeError):
        disk.contains(b"k" * 16, None)


@pytest.mark.parametrize("future", [5, None, object(), "future"])
def test_a_private_argument_that_is_wrong_does_no_harm(disk, future):
    # `_future` is for `kvtier._views`. What is not a future is reported, and the thread of events goes on.
    disk.contains(b"k" * 16, _future=future)
    assert disk.futures.contains(b"k" * 16).result(60) == 0


def test_deep_recursion_ends_with_an_exception(disk, cpu):
    keys = disk.keys(["a"])
    prompt = cpu.prompt(range(16))

    def dive(depth):
        disk.contains(keys)
        cpu.lookup(prompt)
        cpu.counts()
        return dive(depth + 1)

    with pytest.raises(RecursionError):
        dive(0)

    class Deep:
        """Its index calls kvtier again."""

        def __index__(self):
            return cpu.prompt([Deep()]).n_tokens

    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(300)
        with pytest.raises((RecursionError, TypeError, ValueError)):
            cpu.prompt([Deep()])
    finally:
        sys.setrecursionlimit(limit)
    assert disk.contains(keys) == 0


class Reenters:
    """A sequence that uses, and closes, the chain while the chain reads it."""

    def __init__(self, work):
        self.work = work

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index >= 2:
            raise IndexError
        return self.work(index)


def test_arguments_that_call_the_chain_while_it_reads_them(storage, engine):
    import collections.abc

    collections.abc.Sequence.register(Reenters)
    chain, tokens = storage({"good": chains.guest("GoodBackend")}), engine()
    keys = chain.keys(["a", "b"])
    prompt = tokens.prompt(range(16))

    def close_and_lend(index):
        chain.close()
        gc.collect()
        return b"x"

    prompt.append(Reenters(lambda index: prompt.append([1]) or index))
    assert prompt.n_tokens == 20
    assert tokens.prompt(Reenters(lambda index: tokens.lookup(range(16)).n_tokens)).n_tokens == 2
    assert chain.put_lent(keys, Reenters(lambda index: bytes(1 + chain.contains(keys)))).stored() == [True, True]
    try:
        chain.put_lent(keys, Reenters(close_and_lend)).stored()
    except kvtier.ClosedError:
        pass
    assert chain.is_closed
    tokens_closed = Reenters(lambda index: tokens.close() or 1)
    try:
        tokens.lookup(tokens_closed)
    except kvtier.ClosedError:
        pass
    assert tokens.is_closed


def test_a_list_that_shrinks_while_it_is_read(disk):
    items = [bytearray(4) for _ in range(8)]

    class Shrinks:
        def __len__(self):
            return 8

        def __getitem__(self, index):
            item = items[index]
            items.pop()
            return item

    import collections.abc

    collections.abc.Sequence.register(Shrinks)
    with pytest.raises(IndexError):
        disk.put_lent(disk.keys(map(str, range(8))), Shrinks())
    for item in items:
        item.append(1)


def test_on_release_that_takes_a_lock_which_others_hold(disk):
    lock = threading.Lock()
    released = threading.Event()

    def on_release(_):
        with lock:
            released.set()

    array = np.zeros(10, np.uint8)
    with lock:
        disk.put_lent(disk.keys(["a"]), [kvtier.Memory(array.ctypes.data, 10, array, on_release)]).stored()
        # What needs no event goes on meanwhile.
        assert disk.contains(disk.keys(["a"])) == 1 and not released.is_set()
    assert released.wait(60)


def test_on_release_that_calls_the_chain(disk, releases):
    keys = disk.keys(["a"])
    disk.put_lent(keys, [b"x" * 10]).stored()
    array = np.zeros(10, np.uint8)
    found = []

    def on_release(owner):
        found.append(disk.contains(keys))
        releases(owner)

    def memory():
        return kvtier.Memory(array.ctypes.data, 10, array, on_release)

    assert disk.fetch_into(keys, [memory()]) == [10] and found == [1]
    assert disk.futures.fetch_into(keys, [memory()]).result(60) == [10]
    assert releases.wait(2) == 2 and found == [1, 1]


def test_on_release_that_lends_again(disk, releases):
    keys = disk.keys(["a"])
    array = np.zeros(10, np.uint8)
    done = threading.Event()

    def again(owner, left=5):
        if left == 0:
            done.set()
            return
        disk.futures.put_lent(keys, [kvtier.Memory(array.ctypes.data, 10, array, lambda owner: again(owner, left - 1))])

    again(array)
    assert done.wait(60)


def test_the_collector_runs_in_callbacks_and_calls(storage):
    chain = storage({"late": chains.guest("LateBackend", ms=1)})
    keys = chain.keys(["a"])
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(10):
            cycle = [kvtier.Memory(4096, 1, None, lambda _: gc.collect())]
            cycle.append(cycle)
            del cycle
            chain.futures.contains(keys).add_done_callback(lambda _: gc.collect())
            chain.put_lent(keys, [bytearray(10)]).add_done_callback(lambda _: gc.collect())
            chain.fetch_into(keys, [bytearray(10)])
            chain.counts(), chain.status()
    finally:
        gc.set_threshold(*before)
    chain.flush()
    assert chain.futures.contains(keys).result(60) == 1


def test_receipts_outlive_their_chain(storage, releases):
    chain = chains.storage({"slow": chains.guest("SlowMemory", ms=100)})
    receipt = chain.put_lent(chain.keys(["a"]), [b"x"])
    done = threading.Event()
    receipt.add_done_callback(lambda _: done.set())
    chain.close()
    del chain
    gc.collect()
    assert receipt.stored(60) == [True] and done.wait(60)
    late = threading.Event()
    receipt.add_done_callback(lambda _: late.set())
    assert late.wait(60)


def test_a_callback_must_be_callable(storage):
    chain = storage({"good": chains.guest("GoodBackend")})
    receipt = chain.put_lent(chain.keys(["a"]), [b"x"])
    receipt.stored()
    for wrong in (5, "print"):
        try:
            receipt.add_done_callback(wrong)
        except TypeError:
            pass
    for wrong in (5, "print"):
        try:
            del_me = kvtier.Memory(4096, 1, None, wrong)
            del del_me
        except TypeError:
            pass
    assert chain.futures.contains(chain.keys(["a"])).result(60) == 1


def test_many_chains_at_once(storage):
    many = [storage({"good": chains.guest("GoodBackend")}) for _ in range(20)]
    keys = many[0].keys(["a"])
    for number, chain in enumerate(many):
        chain.put_lent(keys, [bytes([number])]).stored()
    for number, chain in enumerate(many):
        target = bytearray(1)
        assert chain.fetch_into(keys, [target]) == [1] and target[0] == number


@pytest.mark.parametrize("work", ["close", "open", "drop"])
def test_chains_are_closed_opened_and_dropped_in_callbacks(storage, work):
    chain = [
        storage({"good": chains.guest("GoodBackend")})
        if work != "drop"
        else chains.storage({"good": chains.guest("GoodBackend")})
    ]
    keys = chain[0].keys(["a"])
    reference, done, found = weakref.ref(chain[0]), threading.Event(), []

    def callback(_):
        if work == "close":
            chain[0].close()
            found.append(chain[0].is_closed)
        elif work == "open":
            with chains.storage({"good": chains.guest("GoodBackend")}) as another:
                found.append(another.contains(keys) == 0)
        else:
            chain.clear()
            gc.collect()
            found.append(True)
        done.set()

    future = chain[0].futures.contains(keys)
    future.add_done_callback(callback)
    assert done.wait(60) and found == [True]
    if work == "drop":
        del future
        assert eventually(lambda: reference() is None)


def test_a_profiler_that_uses_the_chain(disk):
    keys, n = disk.keys(["a"]), 0

    def profile(*_):
        nonlocal n
        n += disk.contains(keys) + 1

    sys.setprofile(profile)
    try:
        disk.counts(), disk.status(), disk.futures.contains(keys).result(60)
    finally:
        sys.setprofile(None)
    assert n > 0


def test_variables_of_the_process_change_while_chains_are_opened(storage, monkeypatch):
    stops = threading.Event()

    def change():
        turn = 0
        while not stops.is_set():
            monkeypatch.setenv(f"KVTIER_TEST_{turn % 500}", "x" * (turn % 300))
            turn += 1

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    try:
        for _ in range(10):
            storage({"good": {**chains.guest("GoodBackend"), "allow.env": ["HOME", "PATH"]}}).close()
    finally:
        stops.set()
        thread.join()
