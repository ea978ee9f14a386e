"""The example for SGLang runs, and says what it is there to say."""

import json
import os
import subprocess
import sys
from pathlib import Path

from controller import LIMIT_S

EXAMPLE = Path(__file__).resolve().parents[4] / "host" / "python" / "examples" / "sglang_hicache.py"


def run(*words):
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), os.environ.get("KVTIER_SGLANG")]))
    command = [sys.executable, str(EXAMPLE), *words]
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True, env=env).stdout


def test_the_second_run_finds_what_the_first_one_stored(tmp_path):
    folder = str(tmp_path / "kv")
    assert "stored 128 tokens" in run("--folder", folder)
    assert "of 128 tokens 128 were in storage; 8 pages were fetched" in run("--folder", folder)


def test_it_prints_the_configuration_for_a_server():
    configuration = json.loads(run("--folder", "/var/cache/kv", "--print"))
    assert configuration["class_name"] == "KvtierHiCache"
    assert configuration["disk.allow.fs"] == ["/var/cache/kv:/data:rw"]
