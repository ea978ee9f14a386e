"""A serving process that is killed while it stores leaves whole chunks or none.

Real: LMCache in a process of its own, which is killed by a signal; kvtier; the `fs` backend and its files.
"""

import signal
import subprocess
import sys
from pathlib import Path

import harness
import pytest
from harness import fs, has, kvtier_plugin
from stores_for_ever import BATCH


@pytest.mark.long
@pytest.mark.parametrize("n_batches", [3, 10])
def test_what_a_killed_process_has_stored_is_whole(lmcache, tmp_path, n_batches):
    plugins = {"kv": kvtier_plugin({"disk": fs(tmp_path / "kv")})}
    path = harness.write_yaml(tmp_path / "killed.yaml", plugins)
    program = Path(__file__).with_name("stores_for_ever.py")
    with subprocess.Popen([sys.executable, program, path], stdout=subprocess.PIPE, text=True) as process:
        numbers = [int(line) for line, _ in zip(process.stdout, range(n_batches), strict=False)]
        process.kill()
    assert process.returncode == -signal.SIGKILL and numbers == list(range(n_batches))
    it = lmcache(plugins)
    found = 0
    for number in range((n_batches + 5) * BATCH):
        (obj,) = it.get(it.keys(number))
        if obj is not None:
            assert has(obj, number)
            found += 1
            it.release([obj])
    # The first batch was waited for.
    assert found >= BATCH and it.used_bytes == 0
