"""vLLM serves with LMCache, and LMCache stores with `kvtier.lmcache.KvtierBackend`: the whole stack, in processes.

Proves: a second process starts from what the first one stored, with the same tokens; flipped bits on disk mean a
recomputation with the right tokens; misbehaving components leave the tokens as they are. Control: without the plugin a
second process starts from nothing.

Real: vLLM, LMCache 0.5 with its vLLM connector, kvtier and its components.
Stands in: LMCache's device copy (`lmcache_cpu_copy.py`); the model is tiny and random.
"""

import json
import shutil

import pytest
from settings import PROMPT
from vllm_process import Vllm

pytest.importorskip("lmcache")

CHUNK_TOKENS = 64
N_CHUNKS = PROMPT["n_tokens"] // CHUNK_TOKENS
GENERATE = {"generate": [PROMPT], "max_tokens": 24}
CONNECTOR = {
    "kv_connector": "LMCacheOnCpu",
    "kv_connector_module_path": "lmcache_cpu_copy",
    "kv_role": "kv_both",
    # By default vLLM fails a request whose KV was promised and does not arrive.
    "kv_load_failure_policy": "recompute",
}
ENGINE = {"enable_prefix_caching": False, "disable_hybrid_kv_cache_manager": True}


def disk(guests, folder):
    folder.mkdir(exist_ok=True)
    return {
        "backends": "disk",
        "disk.module_path": str(guests / "fs.wasm"),
        "disk.class_name": "FsBackend",
        "disk.config.root": "/data",
        "disk.allow.fs": [f"{folder}:/data:rw"],
    }


def hostile(guests, class_name, **keys):
    return {
        "backends": "bad",
        "bad.module_path": str(guests / "misbehaving.wasm"),
        "bad.class_name": class_name,
        "bad.limits.call_timeout_ms": 300,
        **{f"bad.{key}": value for key, value in keys.items()},
    }


def serve(start, folder, section, steps, hot=False):
    """Runs vLLM over an LMCache file with the section as plugin `kv`; `hot`: whether LMCache keeps chunks itself."""
    plugin = {"module_path": "kvtier.lmcache", "class_name": "KvtierBackend", **section} if section else {}
    extra = {f"storage_plugin.kv.{key}": value for key, value in plugin.items()}
    settings = {
        "chunk_size": CHUNK_TOKENS,
        "local_cpu": hot,
        "max_local_cpu_size": 0.1,
        "storage_plugins": ["kv"] if section else [],
        "extra_config": extra | ({"kvtier.on_load_error": "fail"} if section else {}),
    }
    path = folder / "lmcache.yaml"
    path.write_text(json.dumps(settings))
    env = {"LMCACHE_CONFIG_FILE": str(path), "LMCACHE_TRACK_USAGE": "false"}
    return start(steps, dict(CONNECTOR), engine=ENGINE, env=env)


@pytest.fixture(scope="session")
def expected(model, tmp_path_factory):
    settings = {"model": str(model), "steps": [GENERATE], "kv_transfer": None, "engine": ENGINE}
    return Vllm(settings, tmp_path_factory.mktemp("expected")).results()["steps"][0][0]["tokens"]


@pytest.fixture(scope="session")
def stored(model, guests, tmp_path_factory, expected):
    """A folder in which a process that has ended has stored the chunks of `PROMPT`."""
    folder = tmp_path_factory.mktemp("stored")

    def start(steps, kv_transfer, **settings):
        return Vllm({"model": str(model), "steps": steps, "kv_transfer": kv_transfer, **settings}, folder)

    [[answer]] = serve(start, folder, disk(guests, folder / "disk"), [GENERATE]).results()["steps"]
    assert (answer["cached"], answer["tokens"]) == (0, expected)
    assert len(files_of(folder / "disk")) == N_CHUNKS
    return folder / "disk"


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 32 * 1024)


def test_a_second_process_starts_from_what_the_first_one_stored(start_vllm, guests, tmp_path, stored, expected):
    shutil.copytree(stored, tmp_path / "disk")
    [[answer]] = serve(start_vllm, tmp_path, disk(guests, tmp_path / "disk"), [GENERATE]).results()["steps"]
    assert answer["cached"] == N_CHUNKS * CHUNK_TOKENS
    assert answer["tokens"] == expected


@pytest.mark.long
def test_control_without_kvtier_there_is_no_hit(start_vllm, tmp_path, expected):
    [[first], [second]] = serve(start_vllm, tmp_path, None, [GENERATE, GENERATE]).results()["steps"]
    assert (first["cached"], second["cached"]) == (0, 0)
    assert first["tokens"] == second["tokens"] == expected


def test_flipped_bits_mean_a_recomputation(start_vllm, guests, tmp_path, stored, expected):
    shutil.copytree(stored, tmp_path / "disk")
    flipped = {}
    for number, path in enumerate(files_of(tmp_path / "disk")):
        flipped[path] = bytearray(path.read_bytes())
        flipped[path][number * 1000] ^= 1
        path.write_bytes(flipped[path])
    steps = [GENERATE, GENERATE]
    [[first], [second]] = serve(start_vllm, tmp_path, disk(guests, tmp_path / "disk"), steps).results()["steps"]
    assert first["tokens"] == second["tokens"] == expected
    # The chunks were read, found damaged, and stored anew.
    first_chunks = [path for path, data in flipped.items() if path.exists() and path.read_bytes() != data]
    assert first_chunks, "no damaged chunk was replaced: was any read?"


@pytest.mark.long
@pytest.mark.parametrize(
    ("class_name", "keys"),
    [
        ("HangBackend", {"config.in": "contains"}),
        ("HangBackend", {"config.in": "put"}),
        ("TrapBackend", {}),
        ("ForgeBackend", {}),
    ],
    ids=["hang-contains", "hang-put", "trap-get", "forge"],
)
def test_misbehaving_components_leave_the_tokens_as_they_are(start_vllm, guests, tmp_path, expected, class_name, keys):
    (tmp_path / "key").write_text("a key that backends do not know")
    section = hostile(guests, class_name, **keys) | {"kvtier.integrity_key": f"file:{tmp_path / 'key'}"}
    [[first], [second]] = serve(start_vllm, tmp_path, section, [GENERATE, GENERATE]).results()["steps"]
    assert first["tokens"] == second["tokens"] == expected
