"""The example for LMCache runs, and says what it is there to say."""

import subprocess
import sys
from pathlib import Path

import harness
import pytest

EXAMPLE = Path(__file__).resolve().parents[4] / "host" / "python" / "examples" / "lmcache_storage.py"


@pytest.mark.skipif(harness.IS_03, reason="the example is for LMCache 0.5.x")
def test_the_example_finds_after_a_restart_what_it_stored():
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=600, check=True)
    assert "after a restart: found 8 chunks in kv, 8 of them right" in done.stdout
