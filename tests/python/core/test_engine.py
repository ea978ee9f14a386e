"""The engine on tokens, over a CPU tier and real components."""

import array
import json

import chains
import kvtier
import numpy as np
import pytest
from chains import CHUNK_BYTES, KV_SHAPE, store_prompt

METADATA = kvtier.EngineMetadata("model", KV_SHAPE)


def yaml(folder):
    return f"""
chunk_size: 16
max_local_cpu_size: 0.02
external_backends: disk
extra_config:
  kvtier.on_load_error: fail
  external_backend.disk:
    module_path: {json.dumps(str(chains.GUESTS / "fs.wasm"))}
    class_name: FsBackend
    config.root: /data
    allow.fs: ["{folder}:/data:rw"]
"""


# --- Building ------------------------------------------------------------------------------------------------------


def test_file_text_and_dict_build_the_same_engine(opened, tmp_path):
    folder, other = tmp_path / "data", tmp_path / "elsewhere"
    folder.mkdir()
    other.mkdir()
    file = tmp_path / "kvtier.yaml"
    file.write_text(yaml("data").replace("data:/data", f"{folder}:/data"))
    first = opened(kvtier.Engine.from_file(file, METADATA, env={}))
    store_prompt(first, range(48))
    first.close()
    second = opened(kvtier.Engine.from_text(yaml(folder), METADATA, env={}))
    assert second.lookup(range(48)).served == [(1, 0, 3)]
    assert [bytes(chunk)[0] for chunk in second.retrieve(range(48)).chunks] == [1, 2, 3]
    second.close()
    third = opened(chains.engine({"disk": chains.disk(folder)}))
    assert third.lookup(range(48)).n_tokens == 48
    assert (third.chunk_size, third.chunk_bytes) == (16, CHUNK_BYTES)


def test_relative_paths_start_at_the_base_directory(opened, tmp_path):
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "mine.wasm").write_bytes((chains.GUESTS / "misbehaving.wasm").read_bytes())
    section = {**chains.guest("GoodBackend"), "module_path": "backends/mine.wasm"}
    config = chains.settings({"mine": section}, {"chunk_size": 16, "max_local_cpu_size": 0.01})
    engine = opened(kvtier.Engine.from_dict(config, METADATA, base_dir=tmp_path, env={}))
    assert engine.status().backends[0].is_up
    with pytest.raises(kvtier.BuildError, match="mine"):
        kvtier.Engine.from_dict(config, METADATA, base_dir=tmp_path / "backends", env={})


def test_variables_override_keys_where_they_are_asked_to(opened, tmp_path, monkeypatch):
    file = tmp_path / "kvtier.yaml"
    file.write_text("chunk_size: 256\nmax_local_cpu_size: 0.01\n")
    monkeypatch.setenv("LMCACHE_CHUNK_SIZE", "16")
    assert opened(kvtier.Engine.from_file(file, METADATA)).chunk_size == 16
    with pytest.raises((kvtier.ConfigError, kvtier.BuildError), match="chunk"):
        kvtier.Engine.from_file(file, METADATA, env={})
    engine = opened(kvtier.Engine.from_file(file, METADATA, env={"LMCACHE_CHUNK_SIZE": "16"}))
    assert engine.chunk_size == 16
    with pytest.raises((kvtier.ConfigError, kvtier.BuildError), match="chunk"):
        kvtier.Engine.from_dict({"chunk_size": 256}, METADATA)


# --- Prompts -------------------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_documentation(opened):
    metadata = kvtier.EngineMetadata("llama-3-8b", (32, 2, 256, 8, 128))
    engine = opened(kvtier.Engine.from_dict({"max_local_cpu_size": 0.1, "save_unfull_chunk": True}, metadata, env={}))
    prompt = engine.prompt(range(600))
    assert prompt.n_tokens == 600
    assert prompt.keys[:32].hex() == "013b9b011c25f2c7bf0b65c1a50b887787a93822e991a9ba34b3830052423d48"
    assert engine.storage.namespace.hex() == "156de9a3fedf9e0eaef1f1d2a047eeb2"


def test_tokens_of_every_kind_give_the_same_keys(cpu):
    tokens = list(range(100, 164))
    expected = cpu.prompt(tokens).keys
    assert len(expected) == 4 * 16
    kinds = [
        tuple(tokens),
        range(100, 164),
        [np.int64(token) for token in tokens],
        array.array("i", tokens),
        array.array("Q", tokens),
        memoryview(array.array("I", tokens)),
        *(np.array(tokens, dtype) for dtype in (np.int32, np.uint32, np.int64, np.uint64)),
        np.arange(0, 300, dtype=np.int32)[100:164],
    ]
    for kind in kinds:
        assert cpu.prompt(kind).keys == expected, kind


def test_the_largest_token_is_told_from_its_neighbour(cpu):
    one, other = np.full(16, 2**32 - 1, np.uint32), np.full(16, 2**32 - 2, np.int64)
    assert cpu.prompt(one).keys == cpu.prompt([2**32 - 1] * 16).keys
    assert cpu.prompt(other).keys == cpu.prompt([2**32 - 2] * 16).keys != cpu.prompt(one).keys


def test_an_appended_prompt_is_the_whole_prompt(cpu):
    prompt = cpu.prompt(range(20))
    assert len(prompt.keys) == 16
    prompt.append(range(20, 45))
    prompt.append(np.arange(45, 64, dtype=np.int32))
    prompt.append([])
    assert prompt.n_tokens == 64 and prompt.keys == cpu.prompt(range(64)).keys
    with pytest.raises(ValueError):
        prompt.append([-1])
    assert prompt.n_tokens == 64 and "64" in repr(prompt)


def test_tags_separate_prompts(cpu):
    plain, tagged = cpu.prompt(range(32)), cpu.prompt(range(32), tags={"tenant": "a"})
    assert tagged.keys != plain.keys
    assert tagged.keys == cpu.prompt(range(32), {"tenant": "a"}).keys != cpu.prompt(range(32), {"tenant": "b"}).keys
    assert cpu.prompt(range(32), {}).keys == plain.keys
    store_prompt(cpu, tagged)
    assert (cpu.lookup(tagged).n_tokens, cpu.lookup(plain).n_tokens) == (32, 0)


def test_a_prompt_of_another_engine_is_refused(cpu, engine):
    prompt = cpu.prompt(range(32))
    other = engine(model="another")
    for call in (other.lookup, other.retrieve, other.allocate, other.remove):
        with pytest.raises(kvtier.RequestError, match="other metadata"):
            call(prompt)


# --- Operations ----------------------------------------------------------------------------------------------------


def test_what_is_stored_is_found_and_retrieved(cpu):
    prompt = cpu.prompt(range(70))
    assert cpu.lookup(prompt).n_tokens == 0 and cpu.retrieve(prompt).chunks == []
    stored = store_prompt(cpu, prompt)
    assert (stored.n_new, stored.backends) == (4, [])
    found = cpu.lookup(prompt)
    assert (found.n_tokens, found.n_chunks, found.served) == (64, 4, [(0, 0, 4)])
    for retrieved in (cpu.retrieve(prompt), cpu.retrieve(range(70)), cpu.retrieve(prompt, plan=found)):
        assert retrieved.n_tokens == 64 and retrieved.misses == []
        assert [bytes(chunk) for chunk in retrieved.chunks] == [bytes([i + 1]) * CHUNK_BYTES for i in range(4)]
        assert b"".join(chunk.key for chunk in retrieved.chunks) == prompt.keys
    longer = list(range(48)) + [9] * 32
    assert cpu.lookup(longer).n_tokens == 48
    assert "n_tokens=64" in repr(found) and "4 chunks" in repr(retrieved)


def test_a_prompt_comes_back_from_a_backend(engine, tmp_path):
    chain = engine({"disk": chains.disk(tmp_path)})
    stored = store_prompt(chain, range(64))
    assert [(offer.backend, offer.n_queued, offer.n_dropped) for offer in stored.backends] == [("disk", 4, 0)]
    chain.flush()
    assert chain.remove(range(64), tiers="cpu") == 4
    assert chain.lookup(range(64), tiers="cpu").n_tokens == 0
    assert chain.lookup(range(64)).served == [(1, 0, 4)]
    assert [bytes(chunk)[0] for chunk in chain.retrieve(range(64)).chunks] == [1, 2, 3, 4]
    assert chain.lookup(range(64), tiers=["cpu"]).n_tokens == 64
    counts = {tier.name: tier for tier in chain.counts()}
    assert (counts["disk"].puts, counts["disk"].hits, counts["disk"].bytes_read) == (4, 4, 4 * CHUNK_BYTES)
    # Counted in each tier.
    assert chain.remove(range(64)) == 8 and chain.lookup(range(64)).n_tokens == 0


def test_a_store_can_leave_tiers_out(engine, tmp_path):
    chain = engine({"disk": chains.disk(tmp_path), "other": chains.guest("GoodBackend")})
    stored = store_prompt(chain, range(32), tiers=["disk"])
    assert [offer.backend for offer in stored.backends] == ["disk"]
    chain.flush()
    assert chain.lookup(range(32), tiers="other").n_tokens == 0
    assert chain.lookup(range(32), tiers=("disk",)).n_tokens == 32


def test_pins_protect_from_eviction_until_they_are_released(engine):
    small = engine(top={"max_local_cpu_size": 0.0002})
    store_prompt(small, range(64))
    assert small.lookup(range(64), pin="request 1").n_tokens == 64
    assert small.status().cpu.pinned_entries == 4 and small.status().lookups_pinned == 1

    def store_others():
        for turn in range(1, 60):
            store_prompt(small, [turn * 1000 + token for token in range(64)])

    store_others()
    assert small.lookup(range(64)).n_tokens == 64
    small.unpin("request 1")
    small.unpin("request 1")
    small.unpin("never pinned")
    assert small.status().cpu.pinned_entries == 0
    store_others()
    store_prompt(small, range(5000, 5064))
    assert small.lookup(range(64)).n_tokens == 0


def test_status_counts_and_metrics_agree(engine, tmp_path):
    chain = engine({"disk": chains.disk(tmp_path)})
    store_prompt(chain, range(64))
    chain.flush()
    chain.retrieve(range(64))
    status = chain.status()
    assert status.hot_cache and status.cpu.entries == 4 and status.cpu.entry_bytes == 4 * CHUNK_BYTES
    assert status.cpu.allocated_bytes <= status.cpu.capacity_bytes
    (disk,) = status.backends
    assert (disk.name, disk.is_up, disk.down, disk.bypassed, disk.puts_pending) == ("disk", True, None, False, 0)
    assert disk.reading.state == disk.writing.state == "closed" and disk.guest_memory_bytes > 0
    cpu, backend = chain.counts()
    assert (cpu.name, cpu.hits, backend.name, backend.puts, backend.bytes_written) == ("cpu", 4, "disk", 4, 8192)
    assert backend.is_up and backend.latency["put"].n > 0
    assert sum(n for _, n in backend.latency["put"].buckets) == backend.latency["put"].n
    assert backend.latency["put"].total_s > 0
    text = chain.metrics()
    hits = [
        line for line in text.splitlines() if line.startswith("kvtier_") and "hits" in line and 'tier="cpu"' in line
    ]
    assert hits and hits[0].rsplit(" ", 1)[1] == "4"
    with pytest.raises(AttributeError):
        status.hot_cache = False


def test_the_storage_of_an_engine_is_the_same_chain(cpu):
    store_prompt(cpu, range(48))
    keys = cpu.prompt(range(48)).keys
    assert cpu.storage.contains(keys) == 3
    assert [chunk.address for chunk in cpu.storage.get(keys, CHUNK_BYTES)] == [
        chunk.address for chunk in cpu.retrieve(range(48)).chunks
    ]
    cpu.close()
    assert cpu.storage.is_closed


def test_an_engine_is_a_context_manager(engine, tmp_path):
    with engine({"disk": chains.disk(tmp_path)}) as chain:
        store_prompt(chain, range(32))
    assert chain.is_closed
    with engine({"disk": chains.disk(tmp_path)}) as chain:
        assert chain.lookup(range(32)).served == [(1, 0, 2)]
    with pytest.raises(RuntimeError, match="on purpose"), engine() as chain:
        raise RuntimeError("on purpose")
    assert chain.is_closed
    chain.close()


def test_a_partial_chunk_is_stored_where_the_configuration_says_so(engine):
    partial = engine(top={"save_unfull_chunk": True})
    with partial.allocate(range(20)) as allocation:
        assert [len(missing) for missing in allocation.missing] == [CHUNK_BYTES, CHUNK_BYTES // 4]
        chains.fill(allocation)
        partial.store(allocation)
    assert partial.lookup(range(20)).n_tokens == 20
    assert [len(chunk) for chunk in partial.retrieve(range(20)).chunks] == [CHUNK_BYTES, CHUNK_BYTES // 4]
