"""Controls: what LMCache does with a plugin in Python that goes wrong, and what a component behind kvtier cannot do."""

import time

import pytest
from harness import has

PLUGIN = {"kv": {"module_path": "python_plugin", "class_name": "PythonPlugin"}}


@pytest.fixture
def stored(lmcache):
    """LMCache with two chunks that only the plugin has, their keys, and the plugin."""
    it = lmcache(PLUGIN)
    keys = it.keys(1, 2)
    it.put(keys, [1, 2])
    it.manager.batched_remove(keys, ["LocalCPUBackend"])
    return it, keys, it.manager.storage_backends["kv"]


def test_a_sound_plugin_returns_what_was_stored(stored):
    it, keys, _ = stored
    assert [has(obj, seed) for obj, seed in zip(it.get(keys), [1, 2], strict=True)] == [True, True]


def test_flipped_bits_reach_the_engine(stored):
    it, keys, plugin = stored
    plugin.wrong = "flip"
    got = it.get(keys)
    assert None not in got
    assert [has(obj, seed) for obj, seed in zip(got, [1, 2], strict=True)] == [False, False]


def test_an_exception_reaches_the_engine(stored):
    it, keys, plugin = stored
    plugin.wrong = "raise"
    with pytest.raises(OSError, match="the store does not answer"):
        it.get(keys)
    with pytest.raises(OSError, match="the store does not answer"):
        it.manager.contains(keys[0], ["kv"])


def test_the_engine_waits_as_long_as_the_plugin(stored):
    it, keys, plugin = stored
    plugin.wrong, plugin.seconds = "sleep", 0.5
    began = time.monotonic()
    it.get(keys)
    assert time.monotonic() - began >= 1.0
