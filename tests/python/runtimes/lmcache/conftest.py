"""Settings of LMCache for all tests here. Which LMCache runs is decided by PYTHONPATH."""

import importlib.metadata
import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")

import pytest

if "KVTIER_GUESTS" not in os.environ:
    pytest.skip("KVTIER_GUESTS does not name the folder of built guests", allow_module_level=True)
pytest.importorskip("lmcache")

import harness


def pytest_report_header():
    return f"LMCache {importlib.metadata.version('lmcache')}"


@pytest.fixture
def lmcache(tmp_path):
    """Builds LMCache over a file with these plugins; whatever a test leaves open is closed after it."""
    opened = []

    def build(plugins, extra=None, *, async_lookups=None, fields=None, **settings):
        path = harness.write_yaml(tmp_path / f"lmcache-{len(opened)}.yaml", plugins, extra, **settings)
        opened.append(harness.LMCache(path, async_lookups=async_lookups, **(fields or {})))
        return opened[-1]

    yield build
    for each in opened:
        each.close()
