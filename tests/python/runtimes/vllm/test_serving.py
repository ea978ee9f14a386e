"""vLLM serves with `kvtier.vllm.KvtierTier`, in processes of its own.

Proves: a second process starts from what the first one stored, with the same tokens; flipped bits on disk mean a
recomputation with the right tokens and a fresh store; misbehaving components leave decoding and tokens as they are; a
serving process that is killed leaves nothing torn. Controls: without kvtier there is no hit, and zeroed pages change
the tokens.

Real: vLLM (scheduler, engine core, model runner, sampling, offloading connector, CPU tier), kvtier and its components.
Stands in: the device copy (`cpu_copy.py`); the model is tiny and random.
"""

import shutil
import threading

import pytest
from settings import (
    BLOCK_TOKENS,
    CHUNK_TOKENS,
    N_CACHED,
    N_CHUNKS,
    OTHER_PROMPT,
    PROMPT,
    disk,
    hostile,
    offloading,
    python_tier,
)
from vllm_process import Vllm

GENERATE = {"generate": [PROMPT], "max_tokens": 24}
RESET = {"reset": True}
METRICS = {"metrics": "vllm:kv_offload_tiering_kvtier"}


PROMPTS = [{"seed": seed, "n_tokens": 600} for seed in range(8)]
DECODE = {"decode": PROMPT, "max_tokens": 160}


@pytest.fixture(scope="session")
def expected(model, tmp_path_factory):
    """The tokens without kvtier: by seed for the prompts of 600 tokens, and `decoded`."""
    steps = [{"generate": PROMPTS, "max_tokens": 24}, DECODE]
    settings = {"model": str(model), "steps": steps, "kv_transfer": None, "engine": {"enable_prefix_caching": False}}
    generated, decoded = Vllm(settings, tmp_path_factory.mktemp("expected")).results()["steps"]
    assert len({tuple(one["tokens"]) for one in generated}) == len(PROMPTS)
    return {"decoded": decoded["tokens"], **{seed: one["tokens"] for seed, one in enumerate(generated)}}


@pytest.fixture(scope="session")
def stored(model, guests, tmp_path_factory):
    """A folder in which a vLLM process that has ended has stored the chunks of `PROMPT`."""
    folder = tmp_path_factory.mktemp("stored")
    settings = {
        "model": str(model),
        "steps": [GENERATE, RESET],
        "kv_transfer": offloading(disk(guests, folder / "disk")),
    }
    assert Vllm(settings, folder).results()["steps"][0][0]["cached"] == 0
    assert len(files_of(folder / "disk")) == N_CHUNKS
    return folder / "disk"


@pytest.fixture
def found(stored, guests, tmp_path):
    """The section of a `KvtierTier` over a copy of what was stored."""
    shutil.copytree(stored, tmp_path / "disk")
    return disk(guests, tmp_path / "disk")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > BLOCK_TOKENS * 1024)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def values(metrics, name):
    """Returns the values of a metric by its labels but for vLLM's own."""
    return {
        tuple(value for label, value in sorted(labels.items()) if label not in ("engine", "model_name")): number
        for found, labels, number in metrics
        if found == "vllm:kv_offload_tiering_kvtier_" + name
    }


def test_a_second_process_starts_from_what_the_first_one_stored(run_vllm, found, expected):
    [[answer]] = run_vllm([GENERATE], offloading(found))["steps"]
    assert answer["cached"] == N_CACHED
    assert answer["tokens"] == expected[0]


@pytest.mark.long
def test_the_engine_core_may_be_a_process_of_its_own(run_vllm, found, expected):
    steps = [{"generate": [PROMPT, OTHER_PROMPT], "max_tokens": 24}, RESET] * 2
    first, _, second, _ = run_vllm(steps, offloading(found), core_process=True)["steps"]
    assert [one["cached"] for one in first] == [N_CACHED, 0]
    assert [one["cached"] for one in second] == [N_CACHED, N_CACHED]
    assert [one["tokens"] for one in first] == [one["tokens"] for one in second] == [expected[0], expected[1]]


def test_control_without_kvtier_there_is_no_hit(run_vllm, expected):
    first, _, second = run_vllm([GENERATE, RESET, GENERATE], offloading())["steps"]
    assert [first[0]["cached"], second[0]["cached"]] == [0, 0]
    assert first[0]["tokens"] == second[0]["tokens"] == expected[0]


def test_control_zeroed_pages_change_the_tokens(run_vllm, found, expected):
    [[answer]] = run_vllm([GENERATE], offloading(found, zero_loads=True))["steps"]
    assert answer["cached"] == N_CACHED
    assert answer["tokens"] != expected[0]


def test_flipped_bits_mean_a_recomputation_and_a_fresh_store(run_vllm, found, tmp_path, expected):
    for number, path in enumerate(files_of(tmp_path / "disk")):
        flip(path, number * 1000)
    first, _, second = run_vllm([GENERATE, RESET, GENERATE], offloading(found))["steps"]
    assert (first[0]["cached"], first[0]["tokens"]) == (0, expected[0])
    assert (second[0]["cached"], second[0]["tokens"]) == (N_CACHED, expected[0])


@pytest.mark.long
def test_one_flipped_bit_costs_the_chunks_from_there_on(run_vllm, found, tmp_path, expected):
    flip(files_of(tmp_path / "disk")[N_CHUNKS // 2], 4321)
    [[answer]] = run_vllm([GENERATE], offloading(found))["steps"]
    assert answer["cached"] in range(0, N_CACHED, CHUNK_TOKENS)
    assert answer["tokens"] == expected[0]


# Class and its configuration.
HOSTILE = {
    "hang-contains": ("HangBackend", {"config.in": "contains"}),
    "hang-put": ("HangBackend", {"config.in": "put"}),
    "hang-get": ("HangBackend", {}),
    "block-put": ("BlockBackend", {"config.in": "put"}),
    "spin-get": ("SpinBackend", {}),
    "trap-get": ("TrapBackend", {}),
    "trap-put": ("TrapBackend", {"config.in": "put"}),
    "exit-contains": ("ExitBackend", {"config.in": "contains"}),
    "overflow-get": ("OverflowBackend", {}),
    "stderr-flood-put": ("StderrFloodBackend", {"config.in": "put"}),
    "result-flood": ("WrongCountBackend", {"config.results": "flood"}),
    "greedy-put": ("GreedyBackend", {}),
    "overclaim": ("OverclaimBackend", {}),
    "phantom": ("PhantomBackend", {}),
    "wrong-bytes": ("WrongBytesBackend", {}),
    "garbage": ("GarbageBackend", {}),
    "forge": ("ForgeBackend", {}),
    "half": ("HalfBackend", {}),
    "swapped": ("SwappedBackend", {}),
    "past-end": ("PastEndBackend", {}),
    "fail-put": ("FailBackend", {"config.in": "put"}),
}
# So many tiers in one vLLM at a time: each has its own engine of kvtier.
PER_PROCESS = 6


def _groups():
    names = list(HOSTILE)
    return [names[at : at + PER_PROCESS] for at in range(0, len(names), PER_PROCESS)]


@pytest.mark.parametrize("names", _groups(), ids="+".join)
def test_decoding_goes_on_with_the_right_tokens(run_vllm, guests, tmp_path, expected, names):
    (tmp_path / "key").write_text("a key that backends do not know")
    sealed = {"kvtier.integrity_key": f"file:{tmp_path / 'key'}"}
    tiers = [hostile(guests, class_name, **keys) | sealed for class_name, keys in map(HOSTILE.get, names)]
    steps = [GENERATE, RESET, GENERATE, RESET, DECODE | {"beside": [PROMPT, OTHER_PROMPT]}]
    first, _, second, _, decoded = run_vllm(steps, offloading(*tiers))["steps"]
    assert first[0]["tokens"] == second[0]["tokens"] == expected[0]
    assert (first[0]["cached"], second[0]["cached"]) == (0, 0)
    assert decoded["tokens"] == expected["decoded"]
    assert [one["tokens"] for one in decoded["beside"]] == [expected[0][:1], expected[1][:1]]


@pytest.mark.long
@pytest.mark.parametrize("method", ["contains", "get"])
def test_decoding_goes_on_while_a_backend_hangs(run_vllm, guests, expected, method):
    """Another request waits for the backend, for seconds, and no step of decoding does."""
    lookup_timeout_s = 3  # kvtier's default, and lower than the call's
    keys = {"config.in": method, "limits.call_timeout_ms": 10_000, "breaker.failures": 0}
    stored = {"generate": [OTHER_PROMPT], "max_tokens": 24}
    # The tier's counts reach vLLM with a step, at most once a second.
    steps = [stored, RESET, DECODE | {"beside": [OTHER_PROMPT]}, {"sleep": 1.5}, GENERATE, METRICS]
    first, _, decoded, _, _, metrics = run_vllm(steps, offloading(hostile(guests, "HangBackend", **keys)))["steps"]
    assert first[0]["tokens"] == expected[1]
    assert ("bad", "timeout", method) in values(metrics, "errors")
    assert max(decoded["steps_s"]) < lookup_timeout_s
    assert decoded["tokens"] == expected["decoded"]
    assert [one["tokens"] for one in decoded["beside"]] == [expected[1][:1]]


@pytest.mark.long
def test_a_flood_of_log_lines_leaves_decoding_as_it_is(run_vllm, guests, expected):
    flood = hostile(guests, "LogFloodBackend")
    first, _, second, decoded = run_vllm([GENERATE, RESET, GENERATE, DECODE], offloading(flood))["steps"]
    assert first[0]["tokens"] == second[0]["tokens"] == expected[0]
    assert decoded["tokens"] == expected["decoded"]


def test_control_a_python_tier_that_raises_ends_the_engine(start_vllm):
    vllm = start_vllm([GENERATE], offloading(python_tier(wrong="raise")))
    assert vllm.process.wait(600) != 0
    assert "the store does not answer" in vllm.log.read_text()


@pytest.mark.long
def test_control_a_python_tier_that_flips_bits_changes_the_tokens(run_vllm, expected):
    first, _, second = run_vllm([GENERATE, RESET, GENERATE], offloading(python_tier(wrong="flip")))["steps"]
    assert first[0]["tokens"] == expected[0]
    assert second[0]["cached"] == N_CACHED
    assert second[0]["tokens"] != expected[0]


@pytest.mark.long
def test_control_a_python_tier_that_sleeps_stops_decoding(run_vllm):
    beside = [{"seed": 2, "n_tokens": 600}]
    steps = [{"decode": PROMPT, "max_tokens": 64, "beside": beside}]
    [decoded] = run_vllm(steps, offloading(python_tier(wrong="sleep", seconds=0.5)))["steps"]
    assert max(decoded["steps_s"]) > 0.5


@pytest.mark.long
def test_a_sound_backend_behind_a_bad_one_still_hits(run_vllm, guests, tmp_path, expected):
    good = disk(guests, tmp_path / "disk")
    bad = hostile(guests, "WrongBytesBackend")
    both = {**good, **bad, "backends": "bad, disk"}
    results = run_vllm([GENERATE, RESET, GENERATE], offloading(both))["steps"]
    assert results[2][0]["cached"] == N_CACHED
    assert results[2][0]["tokens"] == expected[0]


@pytest.mark.long
def test_a_killed_process_leaves_nothing_torn(start_vllm, run_vllm, guests, tmp_path, expected):
    tier = disk(guests, tmp_path / "disk")
    generate = {"generate": PROMPTS, "max_tokens": 24}
    tick = threading.Event()
    for n_files in (2, 3 * N_CHUNKS):
        victim = start_vllm([generate] * 50, offloading(tier))
        while len(files_of(tmp_path / "disk")) < n_files:
            assert victim.process.poll() is None, victim.tail()
            tick.wait(0.001)
        victim.kill()
    answers, metrics = run_vllm([generate, METRICS], offloading(tier))["steps"]
    assert [one["tokens"] for one in answers] == [expected[seed] for seed in range(8)]
    assert sum(one["cached"] for one in answers) > 0
    # What is found at all is whole: nothing was delivered and then rejected.
    assert {reason for _, reason in values(metrics, "misses")} <= {"not_found"}


@pytest.mark.long
def test_a_wrong_section_stops_vllm_with_a_sentence(start_vllm, guests, tmp_path):
    tier = disk(guests, tmp_path / "disk", **{"disc.class_name": "FsBackend"})
    vllm = start_vllm([GENERATE], offloading(tier))
    assert vllm.process.wait(600) != 0
    assert "did you mean secondary_tiers.KvtierTier.disk.class_name?" in vllm.log.read_text()
