"""kvtier beside LMCache 0.5.x, from Python, in one run.

The memory part compares kvtier's CPU tier (`Engine`) with LMCache's CPU backend, on the same 256 chunks. The files part
compares three backends inside one LMCache storage manager each: kvtier over the sandboxed `fs` component, LMCache's own
local disk backend, and LMCache's file connector (`fs://`). Both sides take turns in each round; a figure is the median
of the rounds, a ratio that of the medians. kvtier verifies every byte it serves; the two others verify none.

Real: LMCache's storage manager, its pool and its backends. Files are in the page cache of the operating system.

    python tests/python/bench/side_by_side.py [--quick] [--json FILE]

Environment: `KVTIER_GUESTS` is the folder of built guest components; `kvtier` and `lmcache` can be imported.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

RUNTIMES = Path(__file__).parent.parent / "runtimes"
sys.path.insert(0, str(RUNTIMES / "lmcache"))

import harness  # noqa: E402
import kvtier  # noqa: E402
import torch  # noqa: E402

N_CHUNKS = 256
KIB, MIB = 1 << 10, 1 << 20
# By size: layers, tokens, heads and head size of such a chunk in bfloat16. Its size is twice two times their product.
SHAPES = {64 * KIB: (4, 32, 2, 64), 2 * MIB: (16, 64, 8, 64), 32 * MIB: (32, 256, 8, 128)}
N_OF_SIZE = {64 * KIB: 256, 2 * MIB: 64, 32 * MIB: 8}


class Rounds:
    """The times of several subjects that take turns."""

    def __init__(self, n_rounds):
        self.n_rounds = n_rounds
        self.times = {}

    def measure(self, subjects):
        """Runs each subject once in each round. A subject returns seconds for one operation."""
        for number in range(self.n_rounds + 1):
            for name, subject in subjects.items():
                seconds = subject()
                # The first round warms up.
                if number:
                    self.times.setdefault(name, []).append(seconds)
        return {name: statistics.median(times) for name, times in self.times.items()}


def repeated(operation, n_times):
    """Returns a subject that runs an operation several times."""

    def run():
        started = time.perf_counter()
        for _ in range(n_times):
            operation()
        return (time.perf_counter() - started) / n_times

    return run


# --- Memory ---


def memory(n_rounds, folder):
    """Yields rows of the memory part: name, seconds of kvtier, seconds of LMCache."""
    layers, tokens, heads, head_size = SHAPES[64 * KIB]
    shape = (layers, 2, tokens, heads, head_size)
    pool_gb = 64 * KIB * N_CHUNKS * 2 / (1 << 30)
    engine = kvtier.Engine.from_dict(
        {"chunk_size": tokens, "max_local_cpu_size": pool_gb}, kvtier.EngineMetadata("bench", shape)
    )
    prompt = engine.prompt(range(tokens * N_CHUNKS))
    with engine.allocate(prompt) as allocation:
        engine.store(allocation)
    one = engine.prompt(range(tokens))

    path = harness.write_yaml(folder / "memory.yaml", {}, chunk_size=tokens, max_local_cpu_size=pool_gb)
    with harness.LMCache(path, kv_shape=shape, chunk_size=tokens) as lmcache, engine:
        cpu = lmcache.cpu
        keys = lmcache.keys(*range(N_CHUNKS))
        object_shape, dtype = torch.Size((2, layers, tokens, heads * head_size)), torch.bfloat16
        objects = [lmcache.manager.allocate(object_shape, dtype) for _ in keys]
        lmcache.manager.batched_put(keys, objects)
        assert cpu.batched_contains(keys) == engine.lookup(prompt).n_chunks == N_CHUNKS

        def rows(name, ours, theirs, n_times):
            medians = Rounds(n_rounds).measure(
                {"kvtier": repeated(ours, n_times), "lmcache": repeated(theirs, n_times)}
            )
            return name, medians["kvtier"], medians["lmcache"]

        yield rows("lookup of 256 chunks", lambda: engine.lookup(prompt), lambda: cpu.batched_contains(keys), 200)

        def get_one():
            cpu.get_blocking(keys[0]).ref_count_down()

        yield rows("get and release one chunk", lambda: engine.retrieve(one), get_one, 2000)

        def get_many():
            for found in cpu.batched_get_blocking(keys):
                found.ref_count_down()

        yield rows("get and release 256 chunks", lambda: engine.retrieve(prompt), get_many, 50)

        def view_of_ours():
            chunk = engine.retrieve(one).chunks[0]
            return torch.from_dlpack(chunk).view(torch.bfloat16).view(object_shape)

        def view_of_theirs():
            found = cpu.get_blocking(keys[0])
            view = found.tensor
            found.ref_count_down()
            return view

        yield rows("get, view as a tensor, release", view_of_ours, view_of_theirs, 2000)

        serial = iter(range(1 << 30))

        def store_ours():
            with engine.allocate(engine.prompt([next(serial)] * tokens)) as allocation:
                engine.store(allocation)

        def store_theirs():
            found = lmcache.manager.allocate(object_shape, dtype)
            lmcache.manager.batched_put(lmcache.keys(N_CHUNKS + next(serial)), [found])

        # Both pools are full by then, so that each store evicts.
        for _ in range(2 * N_CHUNKS):
            store_ours()
            store_theirs()
        yield rows("allocate and store 64 KiB, evicting", store_ours, store_theirs, 500)


# --- Files ---


class Subject:
    """A backend inside LMCache's storage manager."""

    def __init__(self, name, folder, size):
        self.name, self.size, self.folder = name, size, folder
        self.layers, self.tokens, self.heads, self.head_size = SHAPES[size]
        self.n_chunks = N_OF_SIZE[size]
        self.open()

    def open(self):
        plugins, settings = {}, {}
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        if self.name == "kvtier":
            # As much may wait as a round puts: the others have no bound.
            queue = {"kvtier.put_queue_bytes": self.size * self.n_chunks}
            plugins = {"kv": harness.kvtier_plugin({"disk": harness.fs(data)}, **queue)}
            self.location = "kv"
        elif self.name == "disk":
            settings = {"local_disk": f"file://{data}/", "max_local_disk_size": 8.0}
            self.location = "LocalDiskBackend"
        else:
            settings = {"remote_url": f"fs://localhost:0{data}/", "remote_serde": "naive"}
            self.location = "RemoteBackend"
        pool_gb = (self.size * self.n_chunks * 2 + 64 * MIB) / (1 << 30)
        path = harness.write_yaml(
            self.folder / "lmcache.yaml", plugins, chunk_size=self.tokens, max_local_cpu_size=pool_gb, **settings
        )
        shape = (self.layers, 2, self.tokens, self.heads, self.head_size)
        self.lmcache = harness.LMCache(path, kv_shape=shape, chunk_size=self.tokens)
        self.backend = self.lmcache.manager.storage_backends[self.location]
        self.keys = self.lmcache.keys(*range(self.n_chunks))
        self.shape = torch.Size((2, self.layers, self.tokens, self.heads * self.head_size))

    def empty_cpu(self):
        self.lmcache.manager.batched_remove(self.keys, ["LocalCPUBackend"])

    def settle(self):
        if self.name == "kvtier":
            self.lmcache.settle()
        else:
            while any(self.backend.exists_in_put_tasks(key) for key in self.keys):
                time.sleep(0.0002)

    def put(self):
        """Stores all chunks; returns the seconds until the backend has them."""
        self.lmcache.manager.batched_remove(self.keys)
        objects = [self.lmcache.manager.allocate(self.shape, torch.bfloat16) for _ in self.keys]
        for number, found in enumerate(objects):
            found.tensor.fill_(number + 1)
        started = time.perf_counter()
        self.lmcache.manager.batched_put(self.keys, objects)
        self.settle()
        seconds = time.perf_counter() - started
        self.empty_cpu()
        return seconds

    def get(self):
        """Gets all chunks from the backend; returns the seconds."""
        started = time.perf_counter()
        found = self.lmcache.manager.batched_get(self.keys, location=self.location)
        seconds = time.perf_counter() - started
        assert found is not None and all(one is not None for one in found), f"{self.name} has lost chunks"
        for number, one in enumerate(found):
            assert float(one.tensor[0, 0, 0, 0]) == number + 1, f"{self.name} served other bytes"
            one.ref_count_down()
        self.empty_cpu()
        return seconds

    def restart(self):
        """Closes LMCache, opens it again and gets a chunk; returns the seconds until its bytes are there, or `None`."""
        self.lmcache.close()
        started = time.perf_counter()
        self.open()
        if not self.lmcache.manager.contains(self.keys[0], [self.location]):
            return None
        found = self.lmcache.manager.batched_get(self.keys[:1], location=self.location)
        seconds = time.perf_counter() - started
        for one in found or []:
            one.ref_count_down()
        return seconds if found and found[0] is not None else None


def files(n_rounds, folder):
    """Yields rows of the files part: what, size, and seconds by subject."""
    for size in SHAPES:
        subjects = {}
        for name in ("kvtier", "disk", "connector"):
            place = folder / f"{name}-{size}"
            place.mkdir()
            subjects[name] = Subject(name, place, size)
        for what in ("put", "get"):
            medians = Rounds(n_rounds).measure({name: getattr(subject, what) for name, subject in subjects.items()})
            yield what, size, medians
        if size == 2 * MIB:
            yield "hit after a restart", size, {name: subject.restart() for name, subject in subjects.items()}
        for subject in subjects.values():
            subject.lmcache.close()


# --- Report ---


def table(header, rows):
    """Prints a table: text to the left, figures to the right."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        first, *others = zip(row, widths, strict=True)
        print("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]))
    print()


def shown(seconds):
    if seconds is None:
        return "no hit"
    return f"{seconds * 1e6:.2f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="three rounds instead of eleven")
    arguments.add_argument("--json", type=Path, help="also write the figures to this file")
    options = arguments.parse_args()
    n_rounds = 3 if options.quick else 11
    results = {"memory": [], "files": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = []
        for what, ours, theirs in memory(n_rounds, folder):
            results["memory"].append({"operation": what, "kvtier_s": ours, "lmcache_s": theirs})
            rows.append((what, shown(ours), shown(theirs), f"{theirs / ours:.1f} ×"))
        table(("in memory, 64 KiB chunks", "kvtier", "LMCache", "ratio"), rows)
        rows = []
        for what, size, medians in files(n_rounds, folder):
            results["files"].append({"operation": what, "chunk_bytes": size, "seconds": medians})
            title = f"{what}, {size // KIB} KiB" if size < MIB else f"{what}, {size // MIB} MiB"
            if what == "hit after a restart":
                rows.append((title, *(shown(medians[name]) for name in ("kvtier", "disk", "connector")), "", ""))
                continue
            n_bytes = size * N_OF_SIZE[size]
            speeds = {name: n_bytes / seconds / 1e9 for name, seconds in medians.items()}
            rows.append(
                (
                    title,
                    *(f"{speeds[name]:.2f} GB/s" for name in ("kvtier", "disk", "connector")),
                    f"{speeds['kvtier'] / speeds['disk']:.2f} ×",
                    f"{speeds['kvtier'] / speeds['connector']:.2f} ×",
                )
            )
        table(("through files", "kvtier fs", "LMCache disk", "LMCache fs://", "to disk", "to fs://"), rows)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        # LMCache's event loop threads are not daemons.
        sys.stdout.flush()
        os._exit(status)
