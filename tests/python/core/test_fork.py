"""fork: a child gets errors and misses, never a hang; it may open chains of its own; the parent works on."""

import multiprocessing
import os
import sys

import chains
import pytest

ASK = """
def ask(name, call):
    try:
        value = call()
    except (kvtier.KvtierError, TimeoutError) as error:
        value = type(error).__name__
    print(name, value, flush=True)
def in_child(work):
    pid = os.fork()
    if pid == 0:
        # Ends a hang, visibly.
        import signal
        signal.alarm(60)
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_child_gets_errors_and_the_parent_works_on(program):
    lines = program(
        ASK
        + """
e = chains.engine({"good": chains.guest("GoodBackend")})
chains.store_prompt(e, range(64))
e.flush()
s = e.storage
prompt, keys, chunks = e.prompt(range(64)), e.prompt(range(64)).keys, e.retrieve(range(64)).chunks
view = memoryview(chunks[0])
allocation = e.allocate(range(500, 532))
def child():
    ask("closed", lambda: (e.is_closed, s.is_closed))
    ask("lookup", lambda: e.lookup(prompt))
    ask("lookup of tokens", lambda: e.lookup(range(64)))
    ask("retrieve", lambda: e.retrieve(prompt))
    ask("allocate", lambda: e.allocate(prompt))
    ask("store", lambda: e.store(allocation))
    ask("contains", lambda: s.contains(keys))
    ask("fetch", lambda: s.fetch_into(keys[:16], [bytearray(3000)]))
    ask("put", lambda: s.put_lent(keys[:16], [b"x"]))
    ask("future", lambda: e.futures.lookup(prompt).result(30))
    ask("flush", e.flush)
    ask("status", e.status)
    ask("metrics", e.metrics)
    ask("close", e.close)
    ask("view", lambda: (view[0], bytes(chunks[1])[0], len(view)))
in_child(child)
print("parent", e.lookup(prompt).n_tokens, s.contains(keys, tiers="good"), e.store(allocation).n_new)
"""
    ).ended_well()
    closed = ["lookup", "lookup of tokens", "retrieve", "allocate", "store", "contains", "fetch", "put", "future"]
    assert lines == [
        "closed (True, True)",
        *(f"{name} ClosedError" for name in [*closed, "flush", "status", "metrics"]),
        "close None",
        "view (1, 2, 2048)",
        "parent 64 4 2",
    ]


def test_a_child_is_told_where_only_the_storage_of_an_engine_is_kept(program):
    lines = program(
        ASK
        + """
s = chains.engine({"good": chains.guest("GoodBackend")}).storage
import gc; gc.collect()
keys = s.keys(["a"])
def child():
    ask("closed", lambda: s.is_closed)
    ask("contains", lambda: s.contains(keys))
    ask("future", lambda: s.futures.contains(keys).result(30))
in_child(child)
print(s.contains(keys))
"""
    ).ended_well()
    assert lines == ["closed True", "contains ClosedError", "future ClosedError", "0"]


def test_receipts_of_the_parent_do_not_hang_a_child(program):
    lines = program(
        ASK
        + """
s = chains.storage({"slow": chains.guest("SlowMemory", ms=500)})
done = s.put_lent(s.keys(["a"]), [b"x"])
done.stored()
open_ = s.put_lent(s.keys(["b"]), [b"x"])
def child():
    ask("done", done.stored)
    ask("limited", lambda: type(open_.stored(1)).__name__)
    ask("unlimited", lambda: type(open_.stored()).__name__)
    open_.add_done_callback(print)
in_child(child)
print(open_.stored())
"""
    ).ended_well()
    assert lines[0] == "done [True]" and lines[-1] == "[True]"
    assert [line.split()[0] for line in lines] == ["done", "limited", "unlimited", "[True]"]


def test_a_child_opens_a_chain_of_its_own(program, tmp_path):
    lines = program(
        ASK
        + """
import logging
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(threadName)s %(process)d %(message)s")
s = chains.storage({"good": chains.guest("GoodBackend")})
keys = s.keys(["a"])
s.put_lent(keys, [b"x"]).stored()
def child():
    own = chains.storage({"disk": chains.disk(sys.argv[1])})
    released = threading.Event()
    import ctypes
    buffer = ctypes.create_string_buffer(b"child", 5)
    memory = kvtier.Memory(ctypes.addressof(buffer), 5, buffer, lambda _: released.set())
    ask("own put", lambda: own.put_lent(keys, [memory]).stored())
    assert released.wait(30)
    ask("own future", lambda: own.futures.contains(keys).result(30))
    target = bytearray(5)
    ask("own fetch", lambda: (own.fetch_into(keys, [target]), bytes(target)))
    ask("parent's", lambda: s.contains(keys))
    own.close()
    logging.shutdown()
in_child(child)
print(s.futures.contains(keys).result(30))
""",
        tmp_path,
    ).ended_well()
    own = [line for line in lines if not line.startswith("kvtier-events")]
    assert own == ["own put [True]", "own future 1", "own fetch ([5], b'child')", "parent's ClosedError", "1"]
    # The child's lines are logged, too.
    assert len({line.split()[1] for line in lines if "backend ready" in line}) == 2


def test_a_child_that_ends_as_programs_do(program):
    # With the exit handlers of Python, unlike os._exit.
    lines = program(
        """
s = chains.storage({"good": chains.guest("GoodBackend")})
keys = s.keys(["a"])
s.put_lent(keys, [b"x"]).stored()
memory = kvtier.Memory(4096, 1, None, print)
pid = os.fork()
if pid == 0:
    import signal
    signal.alarm(60)
    del memory
    sys.exit(5)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), s.contains(keys))
"""
    ).ended_well()
    # Memory that is left at exit is not released: nobody could be told any more.
    assert lines == ["5 1"]


def test_forks_while_other_threads_wait_and_work(program):
    lines = program(
        ASK
        + """
limits = {"call_timeout_ms": 3600000, "close_timeout_ms": 100}
top = {"lookup_timeout_ms": 3600000, "blocking_timeout_secs": 3600}
hang = chains.storage({"h": chains.guest("HangBackend", in_="contains", limits=limits)}, top=top, close_timeout_ms=100)
good = chains.storage({"good": chains.guest("GoodBackend")})
keys = good.keys(["a"])
stops = False
def wait():
    hang.contains(keys)
def work():
    while not stops:
        good.put_lent(keys, [b"x" * 1000]).stored()
        good.futures.contains(keys).result()
        good.fetch_into(keys, [bytearray(1000)])
        good.counts()
threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in [threading.Thread(target=wait, daemon=True), *threads]:
    thread.start()
def child():
    assert hang.is_closed and good.is_closed
    own = chains.storage({"good": chains.guest("GoodBackend")})
    assert own.put_lent(keys, [b"x"]).stored() == [True]
    assert own.futures.contains(keys).result(30) == 1
    own.close()
for _ in range(20):
    in_child(child)
stops = True
for thread in threads:
    thread.join()
print(good.contains(keys))
"""
    ).ended_well()
    assert lines == ["1"]


def test_forks_while_kvtier_has_much_to_tell(program):
    # Its threads queue events all the time, so that some fork happens while one of them does.
    program(
        ASK
        + """
import logging
logger = logging.getLogger("kvtier")
logger.setLevel(logging.DEBUG)
logger.propagate = False
logger.addHandler(logging.NullHandler())
s = chains.storage({"good": chains.guest("GoodBackend")})
keys = s.keys(map(str, range(200)))
stops = False
def work():
    while not stops:
        s.put_lent(keys, [b"x"] * 200)
        for _ in range(50):
            s.futures.contains(keys[:16])
        time.sleep(0.001)
threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
def child():
    own = chains.storage({"good": chains.guest("GoodBackend")})
    assert own.futures.contains(keys[:16]).result(30) == 0
for _ in range(60):
    in_child(child)
stops = True
for thread in threads:
    thread.join()
"""
    ).ended_well()


def test_a_fork_in_a_thread_other_than_the_main_one(program):
    lines = program(
        ASK
        + """
s = chains.storage({"good": chains.guest("GoodBackend")})
keys = s.keys(["a"])
def child():
    ask("contains", lambda: s.contains(keys))
    own = chains.storage({"good": chains.guest("GoodBackend")})
    ask("own", lambda: own.futures.contains(keys).result(30))
thread = threading.Thread(target=in_child, args=[child])
thread.start()
thread.join()
print(s.contains(keys))
"""
    ).ended_well()
    assert lines == ["contains ClosedError", "own 0", "0"]


def test_a_grandchild(program):
    lines = program(
        ASK
        + """
s = chains.storage({"good": chains.guest("GoodBackend")})
keys = s.keys(["a"])
def grandchild():
    ask("parent's", lambda: own.contains(keys))
    ask("grandparent's", lambda: s.contains(keys))
    mine = chains.storage({"good": chains.guest("GoodBackend")})
    ask("mine", lambda: mine.futures.contains(keys).result(30))
    mine.close()
def child():
    global own
    own = chains.storage({"good": chains.guest("GoodBackend")})
    own.put_lent(keys, [b"x"]).stored()
    in_child(grandchild)
    ask("own", lambda: own.futures.contains(keys).result(30))
    own.close()
in_child(child)
"""
    ).ended_well()
    assert lines == ["parent's ClosedError", "grandparent's ClosedError", "mine 0", "own 1"]


def work_in_child(chain, keys, connection):
    """Run by multiprocessing in a forked child."""
    import kvtier

    try:
        chain.contains(keys)
        inherited = "open"
    except kvtier.ClosedError:
        inherited = "closed"
    with chains.storage({"good": chains.guest("GoodBackend")}) as own:
        stored = own.put_lent(keys, [b"x"]).stored()
        connection.send((inherited, stored, own.futures.contains(keys).result(30)))
    connection.close()


@pytest.mark.skipif(sys.platform == "darwin", reason="fork is not safe there")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_multiprocessing_with_fork_and_spawn(storage):
    chain = storage({"good": chains.guest("GoodBackend")})
    keys = chain.keys(["a"])
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work_in_child, args=(chain, keys, sender))
        process.start()
        assert receiver.poll(60)
        assert receiver.recv() == ("closed", [True], 1)
        process.join(60)
        assert process.exitcode == 0
    # A chain cannot be sent to a process that starts afresh.
    with pytest.raises(TypeError, match="pickle"):
        multiprocessing.get_context("spawn").Process(target=print, args=(chain,)).start()
    assert chain.put_lent(keys, [b"y"]).stored() == [True]


def leave_open(folder, n_puts):
    """Run by multiprocessing: leaves a chain open, with puts that are queued."""
    global left_open
    left_open = chains.storage({"disk": chains.disk(folder)})
    for i in range(n_puts):
        left_open.put_lent(left_open.keys([str(i)]), [os.urandom(200_000)])


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_queued_puts_are_stored_when_a_child_of_multiprocessing_ends(storage, tmp_path, method):
    storage({"good": chains.guest("GoodBackend")})
    process = multiprocessing.get_context(method).Process(target=leave_open, args=(tmp_path, 100))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    after = storage({"disk": chains.disk(tmp_path)})
    assert after.contains(after.keys(map(str, range(100)))) == 100


def test_subprocesses_with_code_between_fork_and_exec(program):
    lines = program(
        """
import subprocess
s = chains.storage({"good": chains.guest("GoodBackend")})
for _ in range(5):
    subprocess.run(["true"], preexec_fn=lambda: s.is_closed, check=True)
print(os.system("true"), s.futures.contains(s.keys(["a"])).result(30))
"""
    ).ended_well()
    assert lines == ["0 0"]
