"""Nothing is left behind by many cycles: memory of the process, Python objects, references.

KVTIER_LEAK_CYCLES is the number of cycles of each kind (default 3000).
"""

import os

import pytest

N_CYCLES = int(os.environ.get("KVTIER_LEAK_CYCLES", "3000"))

PROGRAM = """
import gc, resource
import numpy as np
# What is left behind shows by its size.
SIZE = 8192
n_cycles, kind = int(sys.argv[1]), sys.argv[2]
full = chains.storage({"good": chains.guest("GoodBackend")})
e = chains.engine(top={"max_local_cpu_size": 0.001})
keys = full.keys(["a", "b"])
array = np.zeros((2, SIZE), np.uint8)
addresses = [row.ctypes.data for row in array]
released = [0]
def on_release(_):
    released[0] += 1
buffer = bytearray(SIZE)
prompt = e.prompt(range(64))
loop = None

def put():
    full.put_lent(keys, [buffer, bytes(SIZE)]).stored()
def fetch():
    full.fetch_into(keys, [buffer, bytearray(SIZE)])
def memory():
    full.put_lent(keys, kvtier.Memory.batch(addresses, SIZE, array, on_release)).stored()
    full.fetch_into(keys, [kvtier.Memory(address, SIZE, array, on_release) for address in addresses])
    kvtier.Memory(addresses[0], SIZE, array, on_release)
def refused():
    m = kvtier.Memory(addresses[0], SIZE, array, on_release)
    for wrong in ([m, m], [buffer, 5], [buffer], [buffer, b""]):
        try:
            full.put_lent(keys, wrong)
        except (ValueError, TypeError, BufferError):
            pass
    try:
        e.prompt([1, -1])
    except ValueError:
        pass
def lookup():
    e.lookup(prompt)
    e.lookup(range(64), pin="id")
    e.unpin("id")
def store():
    tokens = np.arange(64) + store.n
    store.n += 1
    with e.allocate(tokens) as allocation:
        chains.fill(allocation)
        e.store(allocation)
    found = e.retrieve(tokens)
    views = [memoryview(chunk) for chunk in found.chunks], [np.from_dlpack(chunk) for chunk in found.chunks]
    [chunk.__dlpack__(max_version=(1, 0)) for chunk in found.chunks]
store.n = 0
def futures():
    done = threading.Event()
    full.futures.fetch_into(keys, [bytearray(SIZE), bytearray(SIZE)]).result()
    receipt = full.futures.put_lent(keys, [b"x", b"y"]).result()
    receipt.add_done_callback(lambda _: done.set())
    done.wait()
    future = full.futures.contains(keys)
    future.cancel()
def reports():
    e.status(), e.counts(), e.metrics(), full.status()
    full.futures, full.aio.contains
    repr(full.fetch_into(full.keys(["nothing"]), [bytearray(1)]))
def opens():
    with chains.storage({"good": chains.guest("GoodBackend")}) as chain:
        chain.put_lent(keys, [b"x", b"y"]).stored()
    chains.engine()

kept = []
def control():
    kept.append(bytearray(SIZE))

cycle = {f.__name__: f for f in (put, fetch, memory, refused, lookup, store, futures, reports, opens, control)}[kind]
if kind == "opens":
    n_cycles = max(n_cycles // 100, 20)
def rss_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
def settle():
    if kind == "opens":
        # The allocator returns the memory of a closed chain a second later.
        time.sleep(2.5)
    full.futures.contains(keys).result()
    for _ in range(3):
        gc.collect()
def measure():
    settle()
    references = sys.getrefcount(array) + sys.getrefcount(buffer), sys.getrefcount(on_release)
    return len(gc.get_objects()), *references, len(threading.enumerate()), rss_bytes()
for _ in range(max(n_cycles // 4, 10)):
    cycle()
before = measure()
for _ in range(n_cycles):
    cycle()
after = measure()
buffer.append(1)
left = [one - other for one, other in zip(after, before)]
print(*left[:4], left[4] / n_cycles)
"""


KINDS = ["put", "fetch", "memory", "refused", "lookup", "store", "futures", "reports", "opens"]


def leaks(program, kind):
    """Returns what is left of each cycle: `(objects, references, threads, bytes a cycle)`."""
    (line,) = program(PROGRAM, N_CYCLES, kind).ended_well()
    print(kind, line)
    n_objects, of_buffers, of_function, n_threads, bytes_a_cycle = (float(word) for word in line.split())
    return n_objects, abs(of_buffers) + abs(of_function), n_threads, bytes_a_cycle


@pytest.mark.parametrize("kind", KINDS)
def test_cycles_leave_nothing_behind(program, kind):
    n_objects, n_references, n_threads, bytes_a_cycle = leaks(program, kind)
    # The interpreter's own caches make a few objects.
    assert abs(n_objects) < 100 and n_references <= 2 and n_threads <= 0
    # Allocators keep some pages; a chain has more to keep.
    n, spare_bytes = (N_CYCLES, 4 << 20) if kind != "opens" else (max(N_CYCLES // 100, 20), 96 << 20)
    assert bytes_a_cycle < 16 + spare_bytes / n


def test_a_buffer_left_behind_in_each_cycle_would_show(program):
    assert leaks(program, "control")[3] > 16 + (4 << 20) / N_CYCLES
