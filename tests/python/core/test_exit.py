"""The exit of the interpreter: chains are closed, nothing hangs, and no thread is ended in the middle of Rust code.

Each program is a process of its own, and each exit code is 0.
"""

import chains
import pytest

# More than what is stored while the interpreter exits without waiting.
N_PUTS = 400


def test_queued_puts_are_stored_at_exit(program, storage, tmp_path):
    program(
        f"""
s = chains.storage({{"disk": chains.disk(sys.argv[1])}})
for i in range({N_PUTS}):
    s.put_lent(s.keys([str(i)]), [os.urandom(200_000)])
assert s.status().backends[0].puts_pending > 0
""",
        tmp_path,
    ).ended_well()
    after = storage({"disk": chains.disk(tmp_path)})
    assert after.contains(after.keys(map(str, range(N_PUTS)))) == N_PUTS


def test_queued_puts_are_stored_where_only_the_storage_of_an_engine_is_kept(program, engine, tmp_path):
    program(
        f"""
s = chains.engine({{"disk": chains.disk(sys.argv[1])}}, model="kept").storage
import gc; gc.collect()
for i in range({N_PUTS}):
    s.put_lent(s.keys([str(i)]), [os.urandom(2000)])
""",
        tmp_path,
    ).ended_well()
    after = engine({"disk": chains.disk(tmp_path)}, model="kept").storage
    assert after.contains(after.keys(map(str, range(N_PUTS)))) == N_PUTS


def test_puts_are_stored_where_the_last_name_of_a_chain_is_deleted(program, storage, tmp_path):
    program(
        f"""
s = chains.storage({{"disk": chains.disk(sys.argv[1])}})
receipts = [s.put_lent(s.keys([str(i)]), [os.urandom(2000)]) for i in range({N_PUTS})]
del s
print(all(r.stored() == [True] for r in receipts))
""",
        tmp_path,
    ).ended_well()
    after = storage({"disk": chains.disk(tmp_path)})
    assert after.contains(after.keys(map(str, range(N_PUTS)))) == N_PUTS


def test_sys_exit_and_an_exception_close_chains_too(program, storage, tmp_path):
    for ending, code in (("sys.exit(7)", 7), ("raise RuntimeError('on purpose')", 1)):
        done = program(
            f"""
s = chains.storage({{"disk": chains.disk(sys.argv[1])}})
s.put_lent(s.keys([sys.argv[2]]), [b"x" * 500_000])
{ending}
""",
            tmp_path,
            ending,
        )
        assert done.code == code, done.err
        after = storage({"disk": chains.disk(tmp_path)})
        assert after.contains(after.keys([ending])) == 1
        after.close()


def test_os_exit_ends_at_once(program):
    done = program("s = chains.storage({'good': chains.guest('GoodBackend')}); s.contains(s.keys(['a'])); os._exit(3)")
    assert done.code == 3, done.err


@pytest.mark.parametrize("hangs_in", ["contains", "get", "put"])
def test_a_daemon_thread_in_a_hanging_call(program, hangs_in):
    program(
        """
method = sys.argv[1]
limits = {"call_timeout_ms": 3600000, "close_timeout_ms": 100}
top = {"lookup_timeout_ms": 3600000, "blocking_timeout_secs": 3600}
s = chains.storage({"h": chains.guest("HangBackend", in_=method, limits=limits)}, top=top, close_timeout_ms=100)
keys = s.keys(["a"])
calls = {
    "contains": lambda: s.contains(keys),
    "get": lambda: s.fetch_into(keys, [bytearray(10)]),
    "put": lambda: s.put_lent(keys, [b"x"]).outcomes(),
}
for _ in range(3):
    threading.Thread(target=calls[method], daemon=True).start()
s.futures.contains(keys)
time.sleep(0.2)
print("ends")
""",
        hangs_in,
    ).ended_well()


def test_views_over_chunks_at_exit(program):
    program(
        """
import numpy as np
e = chains.engine()
chains.store_prompt(e, range(64))
chunks = e.retrieve(range(64)).chunks
view, array, tensor = memoryview(chunks[0]), np.frombuffer(chunks[1], np.uint8), np.from_dlpack(chunks[2])
capsule = chunks[3].__dlpack__(max_version=(1, 0))
allocation = e.allocate(range(1000, 1064))
writable = memoryview(allocation.missing[0])
memory = kvtier.Memory(array.ctypes.data, 10, array, print)
chunks[0].__class__
sys.modules["kept"] = [view, array, tensor, capsule, writable, memory]
"""
    ).ended_well()


def test_objects_in_cycles_and_with_finalizers_at_exit(program):
    program(
        """
class Holder:
    def __init__(self, **held):
        self.__dict__.update(held)
        self.self = self
    def __del__(self):
        try:
            self.storage.contains(self.keys)
        except kvtier.ClosedError:
            pass
        self.storage.close()
s = chains.storage({"good": chains.guest("GoodBackend")})
keys = s.keys(["a"])
receipt = s.put_lent(keys, [b"x"])
holder = Holder(storage=s, keys=keys, receipt=receipt, futures=s.futures, aio=s.aio)
holder.future = s.futures.contains(keys)
import builtins
builtins.kept = holder
"""
    ).ended_well()


def test_work_after_kvtiers_own_exit_handler_does_not_hang(program):
    # Handlers run in the reverse order of their registration, and this one was there before kvtier.
    done = program_without_prelude(
        program,
        """
import atexit
def late():
    import kvtier
    print(receipt.is_complete)
    try:
        print(receipt.stored(1))
    except (kvtier.KvtierError, TimeoutError) as error:
        print(type(error).__name__)
    print(memory is not None, view[0])
    try:
        s.contains(keys)
    except kvtier.ClosedError:
        print("closed")
    try:
        again = chains.storage({"good": chains.guest("GoodBackend")})
    except kvtier.KvtierError as error:
        print("refused", error)
    else:
        print("opened", again.contains(again.keys(["a"])), again.put_lent(keys, [b"x"]).stored(5))
        again.close()
atexit.register(late)
import chains, kvtier
s = chains.storage({"good": chains.guest("GoodBackend")})
keys = s.keys(["a"])
receipt = s.put_lent(keys, [b"x"])
memory = kvtier.Memory(4096, 1, None, print)
e = chains.engine()
chains.store_prompt(e, range(16))
view = memoryview(e.retrieve(range(16)).chunks[0])
""",
    )
    lines = done.ended_well()
    assert lines[0] == "True" and "closed" in lines, lines


def program_without_prelude(program, source):
    from conftest import run_python

    return run_python("-c", source)


@pytest.mark.parametrize("seconds", [0.5, 7])
def test_a_callback_that_is_still_running(program, seconds):
    done = program(
        """
s = chains.storage({"good": chains.guest("GoodBackend")})
def compute(_):
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        sum(range(1000))
    print("computed", flush=True)
s.futures.contains(s.keys(["a"])).add_done_callback(compute)
time.sleep(0.2)
""",
        seconds,
    )
    lines = done.ended_well()
    assert seconds > 5 or lines == ["computed"]


@pytest.mark.parametrize("blocks", ["future", "lock", "sleep"])
def test_a_callback_that_never_ends(program, blocks):
    # Exit gives it up after some seconds.
    program(
        """
s = chains.storage({"good": chains.guest("GoodBackend")})
keys = s.keys(["a"])
lock = threading.Lock()
lock.acquire()
def block(_):
    if sys.argv[1] == "future":
        s.futures.contains(keys).result()
    if sys.argv[1] == "lock":
        lock.acquire()
    while True:
        time.sleep(0.01)
s.futures.contains(keys).add_done_callback(block)
time.sleep(0.2)
""",
        blocks,
    ).ended_well()


def test_events_that_are_queued_at_exit_are_handled(program):
    lines = program(
        """
import numpy as np
s = chains.storage({"slow": chains.guest("SlowMemory", ms=300)})
array = np.zeros(100, np.uint8)
def tell(what):
    # Still busy when the chain has been closed.
    time.sleep(0.5)
    print(what, flush=True)
s.put_lent(s.keys(["a"]), [kvtier.Memory(array.ctypes.data, 100, array, lambda _: tell("released"))])
s.put_lent(s.keys(["b"]), [b"x"]).add_done_callback(lambda receipt: tell(receipt.stored()))
s.futures.put_lent(s.keys(["c"]), [b"x"]).add_done_callback(lambda future: tell("future"))
"""
    ).ended_well()
    assert sorted(lines) == ["[True]", "future", "released"]


def test_sys_exit_in_callbacks_ends_nothing(program):
    lines = program(
        """
import numpy as np
s = chains.storage({"good": chains.guest("GoodBackend")})
keys = s.keys(["a"])
array = np.zeros(100, np.uint8)
memory = lambda: kvtier.Memory(array.ctypes.data, 100, array, lambda _: sys.exit(5))
s.put_lent(keys, [memory()]).stored()
print(s.fetch_into(keys, [memory()]))
s.futures.contains(keys).add_done_callback(lambda _: sys.exit(6))
s.put_lent(keys, [memory()]).add_done_callback(lambda _: sys.exit(7))
s.flush()
print(s.futures.contains(keys).result(60))
"""
    ).ended_well()
    assert lines == ["[100]", "1"]


@pytest.mark.parametrize("turn", range(2))
def test_busy_daemon_threads_ten_times(program, turn):
    # Each thread may be anywhere in a call when the interpreter is finalized.
    for again in range(10):
        program(
            """
import random
s = chains.storage({"good": chains.guest("GoodBackend"), "late": chains.guest("LateBackend", ms=20)})
keys = s.keys(["a"])
receipt = s.put_lent(keys, [b"x"])
receipt.stored()
def work(number):
    while True:
        try:
            if number % 5 == 0:
                s.contains(keys), s.counts(), s.status()
            elif number % 5 == 1:
                s.put_lent(keys, [b"x" * 1000]).outcomes()
            elif number % 5 == 2:
                s.futures.contains(keys).add_done_callback(lambda _: sum(range(1000)))
            elif number % 5 == 3:
                s.fetch_into(keys, [bytearray(1000)])
            else:
                # Needs no open chain, and makes Python objects in the middle of Rust code.
                receipt.outcomes()
        except kvtier.ClosedError:
            time.sleep(0.0001)
for number in range(10):
    threading.Thread(target=work, args=[number], daemon=True).start()
time.sleep(random.Random(sys.argv[1]).random() * 0.2)
""",
            f"{turn} {again}",
        ).ended_well()


def test_ctrl_c_while_the_exit_waits_for_a_backend(program):
    # Others are in kvtier meanwhile.
    done = program(
        """
import subprocess
slow = {"close_timeout_ms": 60000}
hangs = chains.storage({"h": chains.guest("HangBackend", in_="close", limits=slow)}, close_timeout_ms=60000)
good = chains.storage({"good": chains.guest("GoodBackend")})
keys = good.keys(["a"])
def work():
    while True:
        try:
            good.futures.contains(keys).result(), good.counts()
        except kvtier.ClosedError:
            pass
threading.Thread(target=work, daemon=True).start()
subprocess.Popen(["sh", "-c", f"sleep 1; kill -INT {os.getpid()}"])
"""
    )
    done.ended_well()
    assert "KeyboardInterrupt" in done.err


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.5])
def test_a_chain_that_is_being_opened_by_a_daemon_thread(program, tmp_path, after_s):
    # Its component is being compiled by another process.
    program(
        """
bad = chains.guest("GoodBackend")
opens = lambda: chains.storage({"bad": bad}, compile_cache=sys.argv[1])
threading.Thread(target=opens, daemon=True).start()
time.sleep(float(sys.argv[2]))
""",
        tmp_path / "cache",
        after_s,
    ).ended_well()


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_FSIZE"])
def test_limits_of_the_system_are_exceptions(program, limit):
    lines = program(
        """
import resource
limits = {"RLIMIT_NOFILE": 9, "RLIMIT_AS": 1500000000, "RLIMIT_FSIZE": 0}
limit = getattr(resource, sys.argv[1])
resource.setrlimit(limit, (limits[sys.argv[1]], resource.getrlimit(limit)[1]))
try:
    chains.storage({"good": chains.guest("GoodBackend")}).close()
    print("opened")
except kvtier.BuildError as error:
    print("refused", error)
resource.setrlimit(limit, (resource.getrlimit(limit)[1], resource.getrlimit(limit)[1]))
print(chains.storage({"good": chains.guest("GoodBackend")}).contains(b"k" * 16))
""",
        limit,
    ).ended_well()
    assert lines[0].split()[0] in ("opened", "refused") and lines[1:] == ["0"]


def test_a_program_that_only_imports_the_package(program):
    lines = program("print(sorted(name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy', 'vllm')))")
    assert lines.ended_well() == ["[]"]


def test_memory_without_any_chain_is_released(program):
    lines = program(
        """
done = threading.Event()
memory = kvtier.Memory(4096, 10, "owner", lambda owner: (print(owner, flush=True), done.set()))
del memory
assert done.wait(20)
"""
    ).ended_well()
    assert lines == ["owner"]


def test_a_subinterpreter_is_refused_and_the_main_one_goes_on(program):
    lines = program(
        """
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
s = chains.storage({"good": chains.guest("GoodBackend")})
other = interpreters.create()
source = f'''
import sys
sys.path[:] = {sys.path!r}
try:
    import kvtier
except ImportError as error:
    print("refused", flush=True)
else:
    print("imported", flush=True)
'''
interpreters.run_string(other, source)
interpreters.destroy(other)
print(s.futures.contains(s.keys(["a"])).result(30))
"""
    ).ended_well()
    assert lines == ["refused", "0"]


def test_the_extension_is_not_made_twice(program):
    program(
        """
import importlib
s = chains.storage({"good": chains.guest("GoodBackend")})
for name in [name for name in sys.modules if name.startswith("kvtier")]:
    del sys.modules[name]
try:
    import kvtier as again
except ImportError:
    pass
import gc; gc.collect()
print(s.contains(s.keys(["a"])))
"""
    ).ended_well()
