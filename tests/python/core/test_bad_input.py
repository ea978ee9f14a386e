"""Bad input: each is a clear exception, and the chain works on."""

import array
import collections.abc
import ctypes

import chains
import kvtier
import numpy as np
import pytest
from chains import CHUNK_BYTES, KV_SHAPE


@pytest.fixture(autouse=True)
def works_on(cpu, disk):
    """After each test both chains still answer."""
    yield
    assert cpu.lookup(range(16)).n_tokens in (0, 16)
    keys = disk.keys(["afterwards"])
    assert disk.put_lent(keys, [b"x"]).stored() == [True] and disk.contains(keys) == 1


class Raises:
    """A sequence that raises."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise self.error


collections.abc.Sequence.register(Raises)


# --- Tokens --------------------------------------------------------------------------------------------------------

TOKEN_RANGE = "integers from 0 to 4294967295"

NOT_TOKENS = {
    "negative": ([-1], ValueError, TOKEN_RANGE),
    "too large": ([2**32], ValueError, TOKEN_RANGE),
    "huge": ([2**200], ValueError, TOKEN_RANGE),
    "negative array": (np.array([1, -1]), ValueError, TOKEN_RANGE),
    "large array": (np.array([2**32]), ValueError, TOKEN_RANGE),
    "huge array": (np.array([2**63], np.uint64), ValueError, TOKEN_RANGE),
    "floats": ([1.0], TypeError, "integers"),
    "text": ("abc", TypeError, "integers"),
    "bytes": (b"abcd", TypeError, "format `B`"),
    "array of floats": (np.zeros(4), TypeError, "format `d`"),
    "array of bytes": (np.zeros(4, np.uint8), TypeError, "format `B`"),
    "array of 16 bits": (array.array("h", [1]), TypeError, "format `h`"),
    "array of booleans": (np.zeros(4, bool), TypeError, "format"),
    "array of objects": (np.array([1], object), TypeError, "format `O`"),
    "array of records": (np.zeros(4, [("a", "i4"), ("b", "i4")]), TypeError, "format"),
    "other byte order": (np.arange(4, dtype=">i4"), TypeError, "format"),
    "every second one": (np.arange(64)[::2], (ValueError, BufferError), "contiguous"),
    "backwards": (np.arange(64)[::-1], (ValueError, BufferError), "contiguous"),
    "columns": (np.zeros((4, 4), np.int32, order="F")[:, :2], (ValueError, BufferError, TypeError), None),
    "two dimensions": (np.zeros((2, 16), np.int32), (ValueError, TypeError), "dimension"),
    "no dimensions": (np.array(5), (ValueError, TypeError), "dimension"),
    "generator": ((token for token in [1]), TypeError, "integers"),
    "set": ({1}, TypeError, "integers"),
    "dict": ({1: 2}, TypeError, "integers"),
    "none": (None, TypeError, "integers"),
    "integer": (5, TypeError, "integers"),
    "strings": (["1"], TypeError, "integers"),
    "released view": (None, None, None),
}


@pytest.mark.parametrize("name", NOT_TOKENS)
def test_what_are_not_tokens_is_refused(cpu, name):
    tokens, error, message = NOT_TOKENS[name]
    if name == "released view":
        tokens, error = memoryview(array.array("i", [1])), (ValueError, TypeError)
        tokens.release()
    prompt = cpu.prompt(range(16))
    for call in (cpu.prompt, cpu.lookup, cpu.retrieve, cpu.allocate, cpu.remove, prompt.append, cpu.futures.lookup):
        with pytest.raises(error, match=message):
            call(tokens)
    assert prompt.n_tokens == 16


def test_nothing_is_a_prompt_without_chunks(cpu):
    for nothing in ([], (), range(0), np.array([], np.int32), array.array("q")):
        assert cpu.prompt(nothing).keys == b"" and cpu.lookup(nothing).n_tokens == 0
        assert cpu.retrieve(nothing).chunks == [] and cpu.remove(nothing) == 0
        with cpu.allocate(nothing) as allocation:
            assert allocation.missing == [] and cpu.store(allocation).n_new == 0


@pytest.mark.parametrize("error", [RuntimeError("on purpose"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_what_a_sequence_raises_is_passed_on(cpu, disk, error):
    calls = [
        lambda: cpu.prompt(Raises(error)),
        lambda: kvtier.Memory.batch(Raises(error), 10),
        lambda: disk.put_lent(disk.keys(["a", "b", "c"]), Raises(error)),
        lambda: disk.fetch_into(disk.keys(["a", "b", "c"]), Raises(error)),
    ]
    for call in calls:
        with pytest.raises(type(error)):
            call()


# --- Keys and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 15, 17, 31])
def test_keys_of_a_wrong_length_are_refused(cpu, disk, length):
    keys = b"k" * length
    calls = [
        lambda: disk.contains(keys),
        lambda: disk.contains_each(keys),
        lambda: disk.put_lent(keys, [b"x"]),
        lambda: disk.fetch_into(keys, [bytearray(1)]),
        lambda: disk.remove(keys),
        lambda: disk.get(keys, 10),
        lambda: cpu.storage.allocate(keys, 10),
        lambda: disk.futures.contains(keys),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"{length} bytes .* 16 bytes"):
            call()


@pytest.mark.parametrize("keys", ["k" * 16, bytearray(16), [b"k" * 16], None, 5, memoryview(bytes(16))], ids=repr)
def test_keys_are_bytes(disk, keys):
    with pytest.raises(TypeError):
        disk.contains(keys)


def test_what_are_not_names_is_refused(disk):
    for names in (
        "a",
        b"a",
        5,
        None,
        [5],
        [None],
        [["a"]],
        [bytearray(b"a")],
        b"\x00\x01",
        bytearray(b"ab"),
        [memoryview(b"a")],
    ):
        with pytest.raises(TypeError):
            disk.keys(names)
    with pytest.raises(ValueError, match="surrogates|UTF-8|text"):
        disk.keys(["\ud800"])

    def names():
        yield "a"
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        disk.keys(names())


def test_a_name_of_100_mb_has_a_key(disk):
    large = b"x" * 100_000_000
    keys = disk.keys([large, "x" * 100_000_000, large[1:]])
    assert keys[:16] == keys[16:32] != keys[32:]


def test_a_million_keys(disk):
    keys = disk.keys(["a"]) * 1_000_000
    assert disk.contains(keys) == 0
    with pytest.raises(ValueError):
        disk.fetch_into(keys, [])


@pytest.mark.parametrize("tiers", [5, ["disk", 5], b"disk", {"disk": 1}.items(), object()], ids=repr)
def test_tiers_are_names(disk, tiers):
    for call in (disk.contains, disk.contains_each, disk.remove):
        with pytest.raises(TypeError, match="tiers"):
            call(b"k" * 16, tiers=tiers)


@pytest.mark.parametrize("tiers", ["dsk", ["disk", "dsk"], "", "Disk"])
def test_a_tier_that_does_not_exist_is_said_to_be(disk, cpu, tiers):
    keys = b"k" * 16
    calls = [
        lambda: disk.contains(keys, tiers=tiers),
        lambda: disk.contains_each(keys, tiers=tiers),
        lambda: disk.put_lent(keys, [b"x"], tiers=tiers),
        lambda: disk.fetch_into(keys, [bytearray(1)], tiers=tiers),
        lambda: disk.remove(keys, tiers=tiers),
        lambda: disk.futures.contains(keys, tiers=tiers),
        lambda: cpu.lookup(range(16), tiers=tiers),
        lambda: cpu.retrieve(range(16), tiers=tiers),
    ]
    for call in calls:
        with pytest.raises(kvtier.UnknownBackendError, match="there is no tier .*; the tiers are cpu"):
            call()


# --- Memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "size"), [(0, 1), (1, 0), (-1, 1), (1, -1), (2**64 - 1, 1), (2**63 - 1, 2), (2**200, 1), (1, 2**200)]
)
def test_what_is_no_memory_is_refused(address, size, releases):
    with pytest.raises((ValueError, OverflowError)):
        kvtier.Memory(address, size, "owner", releases)
    with pytest.raises((ValueError, OverflowError, TypeError)):
        kvtier.Memory.batch([4096, address], [1, size], "owner", releases)


def test_arguments_of_memory_have_types():
    for arguments in ((), (4096,), ("4096", 1), (4096, "1"), (4096.0, 1), (None, 1)):
        with pytest.raises(TypeError):
            kvtier.Memory(*arguments)
    for addresses in (5, None, "12345678", b"12345678", np.array([5.0]), np.array([5], np.int16), {5}, [5.5]):
        with pytest.raises(TypeError):
            kvtier.Memory.batch(addresses, 1)
    for addresses in (np.array([-5]), [-5], np.array([2**63], np.uint64)):
        with pytest.raises((ValueError, OverflowError, TypeError)):
            kvtier.Memory.batch(addresses, 1)
    for sizes in ([1], [1, 1, 1], "11", 1.5, [1.5, 1], None, [0, 1], [-1, 1]):
        with pytest.raises((TypeError, ValueError)):
            kvtier.Memory.batch([4096, 8192], sizes)
    assert kvtier.Memory.batch([], 1) == [] and kvtier.Memory.batch(np.array([], np.int64), []) == []


def test_counts_of_keys_and_memory_must_be_the_same(disk):
    keys = disk.keys(["a", "b"])
    for memory in ([], [b"x"], [b"x"] * 3):
        for call in (disk.put_lent, disk.fetch_into):
            with pytest.raises(ValueError, match=f"2 keys, but memory for {len(memory)}"):
                call(keys, memory)
    with pytest.raises(ValueError, match="3 chunks|2 chunks"):
        disk.get(keys, [1, 2, 3])


def test_memory_is_a_sequence(disk):
    keys = disk.keys(["a"])
    for memory in (None, 5, {b"x"}, (part for part in [b"x"]), kvtier.Memory(4096, 1), {0: b"x"}):
        for call in (disk.put_lent, disk.fetch_into):
            with pytest.raises(TypeError):
                call(keys, memory)
    for item in (None, 5, "text", ["x"], object()):
        with pytest.raises(TypeError):
            disk.put_lent(keys, [item])


def test_buffers_that_cannot_be_lent(disk):
    keys = disk.keys(["a"])
    released = memoryview(bytearray(4))
    released.release()
    for buffer in (np.arange(64)[::2], np.zeros((4, 4), order="F"), memoryview(b"abcdef")[::2], released):
        for call in (disk.put_lent, disk.fetch_into):
            with pytest.raises((BufferError, ValueError)):
                call(keys, [buffer])
    for empty in (b"", bytearray(), np.zeros(0), np.zeros((3, 0))):
        with pytest.raises((BufferError, ValueError), match="empty|writable"):
            disk.put_lent(keys, [empty])
    read_only = np.zeros(4)
    read_only.flags.writeable = False
    for buffer in (b"abcd", memoryview(b"abcd"), read_only, (ctypes.c_char * 4).from_buffer_copy(b"abcd")[:]):
        with pytest.raises((BufferError, ValueError)):
            disk.fetch_into(keys, [buffer])


# --- Sizes, limits, ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 2**63, 2**64, 2**200, 1.5, "1", None, [1], [1, "x"]], ids=repr)
def test_sizes_of_chunks(cpu, size):
    keys = b"k" * 32
    for call in (cpu.storage.get, cpu.storage.allocate):
        with pytest.raises((ValueError, TypeError, OverflowError, kvtier.RequestError)):
            call(keys, size)
            # A size beyond any chunk is a miss when it is asked for.
            if call == cpu.storage.get and isinstance(size, int) and size > 1:
                raise ValueError


@pytest.mark.parametrize("size", [2**40, 2**62, 2**63 - 1])
def test_sizes_beyond_the_pool(cpu, size):
    for sizes in (size, [size, size], [10, size]):
        with pytest.raises(kvtier.RequestError, match="cannot allocate"):
            cpu.storage.allocate(b"k" * 32, sizes)
        assert cpu.storage.get(b"k" * 32, sizes) == []
    assert cpu.status().cpu.allocated_bytes == 0


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("inf"), float("-inf"), 1e300, -(2**200)], ids=repr)
def test_timeouts_that_are_none(disk, timeout):
    receipt = disk.put_lent(disk.keys(["a"]), [b"x"])
    for call in (disk.flush, receipt.outcomes, receipt.stored, disk.futures.flush):
        with pytest.raises((ValueError, OverflowError)) as caught:
            call(timeout)
        assert len(str(caught.value)) < 200


def test_timeouts_that_are_some(disk):
    receipt = disk.put_lent(disk.keys(["a"]), [b"x"])
    for timeout in (None, 1e9, 10**6, np.float32(5), True):
        disk.flush(timeout)
        assert receipt.stored(timeout) == [True]
    for timeout in ("1", [1], b"1"):
        with pytest.raises(TypeError):
            disk.flush(timeout)


def test_ids_of_lookups_are_text(disk):
    for wrong in (5, b"id", ["id"]):
        with pytest.raises(TypeError):
            disk.contains(b"k" * 16, pin=wrong)
        with pytest.raises(TypeError):
            disk.unpin(wrong)
    for odd in ("", "x" * 1_000_000, "\0", "ä\n"):
        assert disk.contains(b"k" * 16, pin=odd) == 0
        disk.unpin(odd)


def test_tags_are_text(cpu):
    for tags in ({"a": 1}, {1: "a"}, {"a": None}, [("a", "b")], "ab", {"a": b"b"}):
        with pytest.raises(TypeError):
            cpu.prompt(range(16), tags)


# --- Configuration -------------------------------------------------------------------------------------------------

METADATA = kvtier.EngineMetadata("model", KV_SHAPE)


def build(config, metadata=METADATA, **more):
    return kvtier.Engine.from_dict(config, metadata, env={}, **more)


RECURSIVE = {"extra_config": {}}
RECURSIVE["extra_config"]["kvtier.x"] = RECURSIVE

DEEP = {}
for _ in range(100_000):
    DEEP = {"a": DEEP}

CONFIG_ERRORS = {
    "wrong type": ({"chunk_size": "many"}, "chunk_size"),
    "out of range": ({"chunk_size": 0}, "chunk_size"),
    "unknown key of kvtier's": ({"extra_config": {"kvtier.on_ful": "wait"}}, "kvtier.on_ful"),
    "nested in a value": ({"chunk_size": {"a": [1, {"b": 2}]}}, "chunk_size"),
    "list for a section": ({"extra_config": [1, 2]}, "extra_config"),
    "misspelt": ({"chunk_sizes": 16}, "chunk_size"),
    "no class": (
        {"external_backends": ["x"], "extra_config": {"external_backend.x.module_path": "./x.wasm"}},
        "x.class_name",
    ),
    "no such section": ({"external_backends": ["x"]}, "x.module_path"),
    "name of a tier": ({"external_backends": ["cpu"]}, "cpu"),
    "a name twice": ({"external_backends": ["x", "x"]}, "x"),
    "not a number": ({"max_local_cpu_size": float("nan")}, "NaN|not JSON compliant|Out of range"),
    "infinite": ({"max_local_cpu_size": float("inf")}, "not JSON compliant|Out of range"),
    "object": ({"chunk_size": object()}, "object"),
    "bytes": ({"chunk_size": b"16"}, "bytes"),
    "set": ({"external_backends": {"x"}}, "set"),
    "tuple as key": ({("a", "b"): 1}, "tuple|keys"),
    "itself": (RECURSIVE, "[Cc]ircular"),
    "deep": (DEEP, "recursion|deep|nested"),
    "surrogate": ({"chunk_size": "\ud800"}, "chunk_size|surrogate|JSON|json|text"),
    "large": ({"extra_config": {"x": "y" * 10_000_000}}, "MiB|large|bytes"),
    "tier nobody knows": ({"extra_config": {"kvtier.on_load_error": "explode"}}, "kvtier.on_load_error"),
    "number as section": ({"external_backends": ["x"], "extra_config": {"external_backend.x": 5}}, "x"),
}


@pytest.mark.parametrize("name", CONFIG_ERRORS)
def test_a_wrong_configuration_is_refused_and_named(name):
    config, message = CONFIG_ERRORS[name]
    with pytest.raises(kvtier.ConfigError, match=message) as caught:
        build(config)
    assert isinstance(caught.value, (kvtier.KvtierError, ValueError)) and len(str(caught.value)) < 4000


def test_a_configuration_is_a_mapping():
    for config in (None, 5, "chunk_size: 16", [("chunk_size", 16)], b"", {"a"}):
        with pytest.raises(TypeError, match="mapping"):
            build(config)
    from types import MappingProxyType

    build(MappingProxyType({"chunk_size": 16, "max_local_cpu_size": 0.01})).close()


def test_a_wrong_file_is_named(tmp_path):
    file = tmp_path / "kvtier.yaml"
    cases = {
        "chunk_size: [": "kvtier.yaml",
        "chunk_size: 16\nchunk_size: 32\n": "chunk_size",
        "- a\n- b\n": "kvtier.yaml|mapping",
        "\0\1\2": "kvtier.yaml",
        "extra_config: {kvtier.on_full: never}": "kvtier.on_full",
    }
    for text, message in cases.items():
        file.write_text(text)
        with pytest.raises(kvtier.ConfigError, match=message):
            kvtier.Engine.from_file(file, METADATA, env={})
        with pytest.raises(kvtier.ConfigError):
            kvtier.Engine.from_text(text, METADATA, env={})
    for path in (tmp_path / "missing.yaml", tmp_path, "/dev/zero", "a\0b", "\udcff"):
        with pytest.raises((kvtier.ConfigError, ValueError)):
            kvtier.Engine.from_file(path, METADATA, env={})
    for path in (None, 5, b"kvtier.yaml\0"):
        with pytest.raises((TypeError, kvtier.ConfigError)):
            kvtier.Engine.from_file(path, METADATA, env={})
    for env in ({"A": 5}, {5: "A"}, "A=B", 5):
        with pytest.raises((TypeError, ValueError)):
            kvtier.Engine.from_text("chunk_size: 16", METADATA, env=env)


def test_a_missing_or_wrong_component_is_named(tmp_path):
    wrong = tmp_path / "wrong.wasm"
    wrong.write_bytes(b"\0asm\1\0\0\0")
    good = chains.guest("GoodBackend")
    for section, message in (
        ({**good, "module_path": str(tmp_path / "missing.wasm")}, "missing.wasm"),
        ({**good, "module_path": str(wrong)}, "wrong.wasm"),
        ({**good, "module_path": str(tmp_path)}, tmp_path.name),
        ({**good, "class_name": "NoSuchClass"}, "NoSuchClass"),
        ({**good, "config.nonsense": "1"}, "nonsense"),
        ({**good, "digest": "sha256:" + "0" * 64}, "digest"),
        (chains.guest("TrapBackend", in_="constructor"), "mine"),
        (chains.guest("TrapBackend", in_="open"), "mine"),
    ):
        with pytest.raises(kvtier.BuildError, match=message):
            build(chains.settings({"mine": section}, {"chunk_size": 16, "max_local_cpu_size": 0.01}))
        # By default the chain runs without it.
        config = chains.settings(
            {"mine": section}, {"chunk_size": 16, "max_local_cpu_size": 0.01}, on_load_error="continue"
        )
        with build(config) as engine:
            chains.store_prompt(engine, range(32))
            assert engine.lookup(range(32)).n_tokens == 32


@pytest.mark.parametrize(
    "metadata", [None, 5, {}, "model", kvtier.StorageMetadata("m", "l", 10), kvtier.EngineMetadata]
)
def test_metadata_of_another_class_is_refused(metadata):
    with pytest.raises(TypeError, match="kvtier.EngineMetadata"):
        build({}, metadata)
    if isinstance(metadata, kvtier.StorageMetadata):
        metadata = METADATA
    with pytest.raises(TypeError, match="kvtier.StorageMetadata"):
        kvtier.Storage.from_dict({}, metadata, env={})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_name", 5),
        ("model_name", None),
        ("model_name", "\ud800"),
        ("kv_shape", (1, 2, 3)),
        ("kv_shape", (0, 2, 16, 2, 8)),
        ("kv_shape", (2, 3, 16, 2, 8)),
        ("kv_shape", (2**31,) * 5),
        ("kv_shape", (2**40, 2, 16, 2, 8)),
        ("kv_shape", (-2, 2, 16, 2, 8)),
        ("kv_shape", (1.5, 2, 16, 2, 8)),
        ("kv_shape", "22168"),
        ("kv_shape", None),
        ("kv_dtype", "float99"),
        ("kv_dtype", 5),
        ("world_size", 0),
        ("world_size", -1),
        ("world_size", 2**70),
        ("worker_id", 1),
        ("worker_id", -1),
        ("worker_id", "0"),
    ],
)
def test_wrong_metadata_is_refused_and_named(field, value):
    fields = {"model_name": "model", "kv_shape": KV_SHAPE, field: value}
    with pytest.raises(
        (ValueError, TypeError, OverflowError), match=f"{field.removeprefix('kv_')}|KV shape|surrogates"
    ):
        build({"chunk_size": 16, "max_local_cpu_size": 0.01}, kvtier.EngineMetadata(**fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layout", ""),
        ("layout", 5),
        ("layout", "x" * 257),
        ("layout", "a\nb"),
        ("chunk_bytes_max", 0),
        ("chunk_bytes_max", -1),
        ("chunk_bytes_max", 2**63),
        ("chunk_bytes_max", 2**70),
        ("chunk_bytes_max", 1.5),
        ("world_size", 0),
        ("worker_id", 1),
    ],
)
def test_wrong_metadata_of_a_storage_is_refused_and_named(field, value):
    fields = {"model_name": "model", "layout": "l", "chunk_bytes_max": 10, field: value}
    for cpu_tier in (True, False):
        with pytest.raises((ValueError, TypeError, OverflowError), match=field):
            kvtier.Storage.from_dict({}, kvtier.StorageMetadata(**fields), cpu_tier=cpu_tier, env={})


def test_chains_are_not_made_without_a_configuration():
    for name in ("Engine", "Storage", "Chunk", "Allocation", "Missing", "Prompt", "Receipt", "Miss", "Prefix"):
        with pytest.raises(TypeError):
            getattr(kvtier, name)()


# --- Things of other chains ----------------------------------------------------------------------------------------


def test_allocations_of_another_engine(cpu, engine):
    other = engine(model="another")
    allocation = other.allocate(range(32))
    chains.fill(allocation)
    try:
        cpu.store(allocation)
    except (kvtier.RequestError, ValueError):
        pass
    # Whatever it says, nothing is confused: the keys are those of the engine that made it.
    assert cpu.lookup(range(32)).n_tokens == 0
    other.close()
    del other, allocation


def test_plans_of_another_prompt(cpu):
    chains.store_prompt(cpu, range(64))
    plan = cpu.lookup(range(64))
    assert cpu.retrieve(range(1000, 1064), plan=plan).chunks == []
    assert len(cpu.retrieve(range(16), plan=plan).chunks) == 1
    cpu.remove(range(64))
    assert cpu.retrieve(range(64), plan=plan).chunks == []
    with pytest.raises(TypeError):
        cpu.retrieve(range(64), plan=5)


def test_allocations_are_not_anything_else(cpu):
    for wrong in (None, 5, [bytearray(CHUNK_BYTES)], cpu):
        with pytest.raises(TypeError):
            cpu.store(wrong)


def test_a_storage_without_memory_says_what_it_lacks(disk):
    keys = disk.keys(["a"])
    disk.put_lent(keys, [b"x"]).stored()
    with pytest.raises(kvtier.RequestError, match="no CPU tier"):
        disk.allocate(keys, 10)
    assert disk.get(keys, 10) == []
