"""A vLLM process of the tests."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Only to end a process that hangs; nothing here takes a tenth of it.
LIMIT_S = 600


class Vllm:
    """A vLLM process that runs the steps of `serve.py`."""

    def __init__(self, settings, folder):
        self.output = folder / f"results-{len(list(folder.glob('results-*.json')))}.json"
        self.log = self.output.with_suffix(".log")
        self.output.touch()
        # The seed is for LMCache's hashes of chunks.
        env = {**os.environ, "PYTHONHASHSEED": "0", **settings.pop("env", {})}
        env["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [env.get("PYTHONPATH")])])
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", str(HERE / "serve.py")],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                text=True,
            )
        self.engine_id = f"kvtier-test-{self.process.pid}"
        if settings["kv_transfer"]:
            settings["kv_transfer"] = {"engine_id": self.engine_id, **settings["kv_transfer"]}
        json.dump({"output": str(self.output), **settings}, self.process.stdin)
        self.process.stdin.close()

    def results(self):
        """Waits until the process has ended, and returns its results."""
        try:
            self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"vLLM still runs after {LIMIT_S} s:\n{self.tail()}")
        results = self.so_far()
        if self.process.returncode != 0 or not results.get("done"):
            pytest.fail(f"vLLM ended with {self.process.returncode}:\n{self.tail()}")
        return results

    def so_far(self):
        """Returns the results that are there already; `{}` before the start."""
        text = self.output.read_text()
        return json.loads(text) if text else {}

    def wait_for_step(self, n_steps):
        """Waits until the process has done this many steps."""
        tick = threading.Event()
        for _ in range(LIMIT_S * 20):
            if len(self.so_far().get("steps", ())) >= n_steps:
                return
            if self.process.poll() is not None:
                break
            tick.wait(0.05)
        self.kill()
        pytest.fail(f"vLLM did not get to step {n_steps}:\n{self.tail()}")

    def kill(self):
        """Ends the process with SIGKILL."""
        self.process.kill()
        self.process.wait()
        # vLLM's CPU tier, which a killed process cannot remove.
        for region in Path("/dev/shm").glob(f"vllm_offload_{self.engine_id}*.mmap"):
            region.unlink()

    def tail(self):
        return self.log.read_text()[-6000:]
