"""LMCache's engine over kvtier: whatever happens to stored bytes, what the engine says it has loaded is right.

Real: LMCache's engine (either generation) with its token database, lookup, pins, storage manager and pool; kvtier; the
`fs` backend and its files. `HostDevice` stands in for the copy between LMCache's pool and a GPU: a tensor of the host.
"""

import harness
import pytest
import torch
from harness import CHUNK_BYTES, N_LAYERS, N_TOKENS, WIDTH, fs, kvtier_plugin
from lmcache.v1.cache_engine import LMCacheEngine
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.token_database import ChunkedTokenDatabase

try:
    from lmcache.v1.gpu_connector.gpu_connectors import GPUConnectorInterface
except ImportError:
    from lmcache.v1.gpu_connector import GPUConnectorInterface

N_CHUNKS = 5
TOKENS = list(range(N_CHUNKS * N_TOKENS))
TRUTH = harness.tensor(7, len(TOKENS))


class HostDevice(GPUConnectorInterface):
    """The KV cache of a model, in the host's memory."""

    def __init__(self):
        # No KV of the tests is zero throughout.
        self.kv = torch.zeros_like(TRUTH)

    def from_gpu(self, memory_obj, start, end, **kwargs):
        memory_obj.tensor.copy_(self.kv[:, :, start:end])

    def to_gpu(self, memory_obj, start, end, **kwargs):
        self.kv[:, :, start:end] = memory_obj.tensor

    def batched_from_gpu(self, memory_objs, starts, ends, **kwargs):
        for obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.from_gpu(obj, start, end)

    def batched_to_gpu(self, memory_objs, starts, ends, **kwargs):
        for obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.to_gpu(obj, start, end)

    def get_shape(self, num_tokens):
        return torch.Size((2, N_LAYERS, num_tokens, WIDTH))


class Engine:
    """LMCache's engine, built from YAML. A lookup pins, as vLLM's scheduler has it."""

    def __init__(self, path):
        self.device = HostDevice()
        config, metadata = LMCacheEngineConfig.from_file(str(path)), harness.metadata()
        tokens = ChunkedTokenDatabase(config, metadata)
        self.engine = LMCacheEngine(config, metadata, tokens, self.device, lambda *_: None, lambda *_: None)
        self.engine.post_init()

    @property
    def kvtier(self):
        return self.engine.storage_manager.storage_backends["kv"]

    def store(self, n_tokens=len(TOKENS)):
        self.device.kv.copy_(TRUTH)
        self.engine.store(TOKENS[:n_tokens])
        self.kvtier.storage.flush(harness.LIMIT_S)

    def look_up(self):
        return self.engine.lookup(TOKENS, lookup_id="request", pin=True)

    def retrieve(self, n_tokens):
        """Loads what was looked up. Returns for how many tokens the engine says so, and for how many it is true."""
        self.device.kv.zero_()
        if n_tokens == 0:
            return 0, 0
        mask = self.engine.retrieve(TOKENS[:n_tokens], req_id="request")
        self.engine.lookup_unpin(["request"] if harness.IS_03 else "request")
        loaded = self.device.kv.view(torch.int16) == TRUTH.view(torch.int16)
        is_right = loaded.all(dim=0).all(dim=0).all(dim=1)[:n_tokens]
        n_claimed = int(mask.sum())
        assert mask[:n_claimed].all()
        return n_claimed, int(is_right[mask].sum())

    def close(self):
        self.engine.close()


@pytest.fixture
def engine(tmp_path):
    opened = []

    def start():
        for each in opened:
            each.close()
        opened.clear()
        plugins = {"kv": kvtier_plugin({"disk": fs(tmp_path / "kv")})}
        # LMCache's own cache is off, so that the file decides.
        path = harness.write_yaml(tmp_path / "lmcache.yaml", plugins, local_cpu=False)
        opened.append(Engine(path))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file() and path.stat().st_size >= CHUNK_BYTES}


def store_and_list(engine, folder):
    """Stores all chunks. Returns their files in the order of the prompt."""
    first, known, ordered = engine(), set(), []
    for n in range(1, N_CHUNKS + 1):
        first.store(n * N_TOKENS)
        (new,) = files(folder) - known
        known.add(new)
        ordered.append(new)
    return ordered


def flip(path):
    data = bytearray(path.read_bytes())
    data[CHUNK_BYTES // 3] ^= 4
    path.write_bytes(data)


def test_the_next_engine_loads_all_that_this_one_stored(engine, tmp_path):
    assert len(store_and_list(engine, tmp_path / "kv")) == N_CHUNKS
    second = engine()
    assert second.look_up() == len(TOKENS)
    assert second.retrieve(len(TOKENS)) == (len(TOKENS), len(TOKENS))
    assert second.kvtier._guard.n_failures == 0
    allocator = second.engine.storage_manager.storage_backends["LocalCPUBackend"].get_memory_allocator()
    assert allocator.pin_allocator.total_allocated_size == 0


@pytest.mark.parametrize("at", range(N_CHUNKS))
@pytest.mark.parametrize("when", ["before the lookup", "after the lookup"])
def test_a_flipped_bit_is_never_computed_with(engine, tmp_path, at, when):
    ordered = store_and_list(engine, tmp_path / "kv")
    second = engine()
    if when == "before the lookup":
        flip(ordered[at])
    n_found = second.look_up()
    if when == "after the lookup":
        flip(ordered[at])
    n_claimed, n_right = second.retrieve(n_found)
    assert n_claimed == n_right
    if harness.IS_03:
        # vLLM computes with what the lookup found, whatever is loaded afterwards.
        assert n_claimed == n_found == (at * N_TOKENS if when == "before the lookup" else len(TOKENS))
    else:
        # LMCache reports to vLLM what it has not loaded.
        assert n_found == len(TOKENS) and n_claimed == at * N_TOKENS
    assert second.kvtier._loans.wait_for_all(harness.LIMIT_S)
    allocator = second.engine.storage_manager.storage_backends["LocalCPUBackend"].get_memory_allocator()
    assert allocator.pin_allocator.total_allocated_size == 0


@pytest.mark.skipif(not harness.IS_03, reason="LMCache 0.5.x reports what it has not loaded")
def test_the_control_without_keeping_computes_with_memory_that_nobody_filled(engine, tmp_path, monkeypatch):
    ordered = store_and_list(engine, tmp_path / "kv")
    second = engine()
    monkeypatch.setattr(type(second.kvtier), "_must_keep", lambda self, key: False)
    flip(ordered[3])
    n_found = second.look_up()
    n_claimed, n_right = second.retrieve(n_found)
    assert n_right < n_claimed < n_found
