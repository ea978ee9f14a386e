"""Fixtures of the vLLM tests: the tiny model, and vLLM processes.

Environment: `KVTIER_GUESTS` is the folder of built guest components, and the package `kvtier` is on `PYTHONPATH`.
`KVTIER_MODELS` may name a folder that keeps the tiny model between runs.
"""

import os
from pathlib import Path

import pytest

if "KVTIER_GUESTS" not in os.environ:
    pytest.skip("KVTIER_GUESTS does not name the folder of built guests", allow_module_level=True)
pytest.importorskip("vllm")

from model import tiny_llama  # noqa: E402
from vllm_process import Vllm  # noqa: E402


@pytest.fixture(scope="session")
def guests():
    return Path(os.environ["KVTIER_GUESTS"])


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    kept = os.environ.get("KVTIER_MODELS")
    return tiny_llama(Path(kept) if kept else tmp_path_factory.mktemp("models"))


@pytest.fixture
def start_vllm(model, tmp_path):
    """Starts a vLLM process: `start(steps, kv_transfer=None, **settings)`."""
    started = []

    def start(steps, kv_transfer=None, **settings):
        vllm = Vllm({"model": str(model), "steps": steps, "kv_transfer": kv_transfer, **settings}, tmp_path)
        started.append(vllm)
        return vllm

    yield start
    for vllm in started:
        if vllm.process.poll() is None:
            vllm.kill()


@pytest.fixture
def run_vllm(start_vllm):
    """Runs a vLLM process to its end, and returns its results."""
    return lambda *args, **settings: start_vllm(*args, **settings).results()
