"""All tests of this folder once more, with LMCache 0.3.7: in a process whose `PYTHONPATH` has it in front.

`KVTIER_LMCACHE_037` names the folder into which it was installed (`pip install --target`).
"""

import os
import subprocess
import sys
from pathlib import Path

import harness
import pytest


@pytest.mark.skipif(harness.IS_03, reason="this is the older LMCache")
@pytest.mark.skipif("KVTIER_LMCACHE_037" not in os.environ, reason="KVTIER_LMCACHE_037 does not name LMCache 0.3.7")
def test_the_older_lmcache(request):
    is_quick = request.config.getoption("markexpr") == "not long"
    tests = Path(__file__).with_name("test_storage.py") if is_quick else Path(__file__).parent
    paths = [os.environ["KVTIER_LMCACHE_037"], *sys.path]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tests)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3000,
    )
    print(done.stdout[-20_000:])
    assert done.returncode == 0 and "LMCache 0.3.7" in done.stdout
