"""Fixtures over real components. The environment variable KVTIER_GUESTS names the folder of built components."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import chains
import kvtier
import pytest

HERE = Path(__file__).resolve().parent

# A shell that runs the tests in the background has told them, and the programs that they start, to ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# End a hang: of a condition in this process, and of a program. No test that passes comes near them.
HANG_S = 20
PROGRAM_HANG_S = int(os.environ.get("KVTIER_TEST_HANG_S", "120"))


@pytest.fixture
def opened():
    """Returns a function that notes a chain to be closed after the test."""
    chains_open = []

    def note(chain):
        chains_open.append(chain)
        return chain

    yield note
    for chain in chains_open:
        try:
            chain.close()
        except kvtier.CloseError:
            # A component that hangs also does so when it is closed.
            pass


@pytest.fixture
def storage(opened):
    """Opens chains on keys: `storage({"disk": chains.disk(folder)})`."""
    return lambda *args, **more: opened(chains.storage(*args, **more))


@pytest.fixture
def engine(opened):
    """Opens engines on tokens."""
    return lambda *args, **more: opened(chains.engine(*args, **more))


@pytest.fixture
def disk(storage, tmp_path):
    """A chain on keys over a folder."""
    return storage({"disk": chains.disk(tmp_path)})


@pytest.fixture
def cpu(engine):
    """An engine with a CPU tier only."""
    return engine()


class Releases:
    """Counts the calls of `on_release`, and waits for them."""

    def __init__(self):
        self.owners = []
        self.threads = []
        self.changed = threading.Condition()

    def __call__(self, owner):
        with self.changed:
            self.owners.append(owner)
            self.threads.append(threading.current_thread().name)
            self.changed.notify_all()

    def wait(self, n=1):
        """Waits until there are `n`, and returns how many there are."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.owners) >= n, HANG_S)
            return len(self.owners)


@pytest.fixture
def releases():
    return Releases()


def eventually(holds):
    """Waits until `holds()` is true, and returns its value."""
    end = time.monotonic() + HANG_S
    while not (value := holds()) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.005)
    return value


class Program:
    """A program that has ended."""

    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.lines = done.stdout.splitlines()

    def ended_well(self):
        """Asserts that it has ended with 0, and returns the lines of its output."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err[-4000:]}"
        return self.lines


def run_python(*arguments, env=None, cwd=None):
    """Runs this interpreter with the package and this folder on its path."""
    path = os.pathsep.join([str(Path(kvtier.__file__).absolute().parent.parent), str(HERE)])
    variables = {**os.environ, "PYTHONPATH": path, "KVTIER_GUESTS": str(chains.GUESTS), **(env or {})}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PROGRAM_HANG_S,
        stdin=subprocess.DEVNULL,
    )
    return Program(done)


@pytest.fixture
def program():
    """Runs a program of its own: `program(source, *arguments)`. `chains` and `kvtier` are imported."""

    def run(source, *arguments, options=(), env=None):
        prelude = "import os, sys, threading, time\nimport chains, kvtier\n"
        return run_python(*options, "-c", prelude + source, *arguments, env=env)

    return run
