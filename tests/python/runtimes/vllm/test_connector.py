"""vLLM serves with a KV connector over `kvtier.Storage`, in processes of its own. **Nothing stands in for anything.**

Proves: a second process starts from what the first one stored, with the same tokens; flipped bits on disk mean a
recomputation with the right tokens; misbehaving components leave the tokens as they are. The model is tiny and random.
"""

import shutil

import pytest
from settings import BLOCK_TOKENS, PROMPT
from vllm_process import Vllm

pytestmark = pytest.mark.long
GENERATE = {"generate": [PROMPT], "max_tokens": 24}
N_BLOCKS = PROMPT["n_tokens"] // BLOCK_TOKENS
ENGINE = {"disable_hybrid_kv_cache_manager": True}


def connector(backends, **keys):
    """Returns `kv_transfer_config` with the test's own connector."""
    extra = {"kvtier.on_load_error": "fail", **{f"external_backend.{key}": value for key, value in keys.items()}}
    return {
        "kv_connector": "BlockConnector",
        "kv_connector_module_path": "block_connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"external_backends": backends, "extra_config": extra},
    }


def disk(guests, folder):
    folder.mkdir(exist_ok=True)
    return connector(
        ["disk"],
        **{
            "disk.module_path": str(guests / "fs.wasm"),
            "disk.class_name": "FsBackend",
            "disk.config.root": "/data",
            "disk.allow.fs": [f"{folder}:/data:rw"],
        },
    )


@pytest.fixture(scope="session")
def expected(model, tmp_path_factory):
    settings = {"model": str(model), "steps": [GENERATE], "kv_transfer": None, "engine": ENGINE}
    return Vllm(settings, tmp_path_factory.mktemp("expected")).results()["steps"][0][0]["tokens"]


@pytest.fixture(scope="session")
def stored(model, guests, tmp_path_factory, expected):
    """A folder in which a process that has ended has stored the blocks of `PROMPT`."""
    folder = tmp_path_factory.mktemp("stored")
    transfer = disk(guests, folder / "disk")
    settings = {"model": str(model), "steps": [GENERATE], "kv_transfer": transfer, "engine": ENGINE}
    [[answer]] = Vllm(settings, folder).results()["steps"]
    assert (answer["cached"], answer["tokens"]) == (0, expected)
    assert len(files_of(folder / "disk")) == N_BLOCKS
    return folder / "disk"


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 16 * 1024)


def test_a_second_process_starts_from_what_the_first_one_stored(run_vllm, guests, tmp_path, stored, expected):
    shutil.copytree(stored, tmp_path / "disk")
    [[answer]] = run_vllm([GENERATE], disk(guests, tmp_path / "disk"), engine=ENGINE)["steps"]
    assert answer["cached"] == N_BLOCKS * BLOCK_TOKENS
    assert answer["tokens"] == expected


def test_flipped_bits_mean_a_recomputation(run_vllm, guests, tmp_path, stored, expected):
    shutil.copytree(stored, tmp_path / "disk")
    for number, path in enumerate(files_of(tmp_path / "disk")):
        data = bytearray(path.read_bytes())
        data[number * 1000] ^= 1
        path.write_bytes(data)
    [[answer]] = run_vllm([GENERATE], disk(guests, tmp_path / "disk"), engine=ENGINE)["steps"]
    assert answer["tokens"] == expected


@pytest.mark.parametrize("class_name", ["WrongBytesBackend", "HalfBackend", "TrapBackend"])
def test_misbehaving_components_leave_the_tokens_as_they_are(run_vllm, guests, expected, class_name):
    bad = {"bad.module_path": str(guests / "misbehaving.wasm"), "bad.class_name": class_name}
    # Without vLLM's own cache of prefixes, so that the second request asks the backend.
    steps, transfer = [GENERATE, {"reset": True}, GENERATE], connector(["bad"], **bad)
    first, _, second = run_vllm(steps, transfer, engine=ENGINE)["steps"]
    assert first[0]["tokens"] == second[0]["tokens"] == expected
