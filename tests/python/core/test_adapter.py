"""What the adapters share: reading their section, judging interfaces, guarding methods, counting pins.

Pure Python: no serving runtime and no component. `Storage` is the real one where configuration is handed over.
"""

import asyncio
import logging
from abc import ABC, abstractmethod

import kvtier
import pytest
from kvtier._adapter import (
    Guard,
    LookupPins,
    RuntimeMismatch,
    check_interface,
    guarded,
    interface,
    open_storage,
    read_section,
)

WHERE = "storage_plugin.kv"


def read(section, **more):
    return read_section(section, where=WHERE, **more)


def refusal(section, **more):
    with pytest.raises(kvtier.ConfigError) as caught:
        read(section, **more)
    return str(caught.value)


# --- Configuration -------------------------------------------------------------------------------------------------


def test_dotted_and_nested_keys_are_the_same():
    dotted = {
        "backends": "disk, far",
        "disk.module_path": "fs.wasm",
        "disk.config.root": "/data",
        "disk.allow.fs": ["/kv:/data:rw"],
        "far.module_path": "s3.wasm",
        "kvtier.on_full": "wait",
    }
    nested = {
        "backends": ["disk", "far"],
        "disk": {"module_path": "fs.wasm", "config": {"root": "/data"}, "allow.fs": ["/kv:/data:rw"]},
        "far": {"module_path": "s3.wasm"},
        "kvtier": {"on_full": "wait"},
    }
    expected = {
        "external_backends": ["disk", "far"],
        "extra_config": {
            "external_backend.disk.module_path": "fs.wasm",
            "external_backend.disk.config.root": "/data",
            "external_backend.disk.allow.fs": ["/kv:/data:rw"],
            "external_backend.far.module_path": "s3.wasm",
            "kvtier.on_full": "wait",
        },
    }
    assert read(dotted) == (None, expected)
    assert read(nested) == (None, expected)


def test_backends_keep_their_order():
    section = {"backends": "c,a , b", "a.module_path": "a", "b.module_path": "b", "c.module_path": "c"}
    assert read(section)[1]["external_backends"] == ["c", "a", "b"]


def test_a_configuration_file_takes_the_place_of_all_keys():
    assert read({"config": "/etc/kvtier.yaml"}) == ("/etc/kvtier.yaml", None)
    assert read({"config": "/etc/kvtier.yaml"}, defaults={"kvtier.on_full": "wait"}) == ("/etc/kvtier.yaml", None)
    text = refusal({"config": "/etc/kvtier.yaml", "backends": "disk"})
    assert "storage_plugin.kv.config names a file" in text and "storage_plugin.kv.backends" in text
    assert "expected the path" in refusal({"config": ""})
    assert "expected the path" in refusal({"config": 3})


def test_defaults_fill_what_the_section_does_not_have():
    defaults = {"kvtier.on_full": "wait", "kvtier.close_timeout_ms": 100}
    section = {"backends": "disk", "disk.module_path": "fs.wasm", "kvtier.on_full": "drop"}
    extra = read(section, defaults=defaults)[1]["extra_config"]
    assert extra["kvtier.on_full"] == "drop" and extra["kvtier.close_timeout_ms"] == 100
    assert defaults == {"kvtier.on_full": "wait", "kvtier.close_timeout_ms": 100}


def test_the_adapters_own_keys_are_left_out():
    section = {"module_path": "kvtier.x", "interface_v1": 1, "backends": "disk", "disk.module_path": "fs.wasm"}
    config = read(section, own=("module_path", "interface_v1"))[1]
    assert config["extra_config"] == {"external_backend.disk.module_path": "fs.wasm"}
    assert "unknown key storage_plugin.kv.interface_v1" in refusal(section, own=("module_path",))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, 'storage_plugin.kv.backends is missing: it lists the backends in search order, for example "disk"'),
        ({"disk.module_path": "x", "far.module_path": "y"}, 'for example "disk, far"'),
        ({"backends": " , "}, "storage_plugin.kv.backends lists no backend"),
        ({"backends": 7}, "expected names, as a list or as text with commas, found 7"),
        ({"backends": "a b"}, "'a b' cannot name a backend"),
        ({"backends": "a.b"}, "'a.b' cannot name a backend"),
        ({"backends": "ä"}, "'ä' cannot name a backend"),
        ({"backends": "d" * 65}, "cannot name a backend"),
        ({"backends": "disk, disk"}, "storage_plugin.kv.backends lists 'disk' twice"),
        ({"backends": "config"}, "'config' is the name of a setting"),
        ({"backends": "disk", "disc.module_path": "x"}, "did you mean storage_plugin.kv.disk.module_path?"),
        ({"backends": "disk", "kvtir.on_full": "wait"}, "did you mean storage_plugin.kv.kvtier.on_full?"),
        ({"backends": "disk", "far.module_path": "x"}, "list it in storage_plugin.kv.backends"),
        ({"backends": "disk", "zzz": 1}, "known are disk, kvtier, backends, config"),
        ({"backends": "disk", "disk": "fs.wasm"}, "expected settings such as storage_plugin.kv.disk.module_path"),
        ({"backends": "disk", "kvtier": 1}, "expected settings such as storage_plugin.kv.kvtier.on_full"),
        ({"backends": "disk", "disk.a": 1, "disk": {"a": 2}}, "storage_plugin.kv.disk.a is given twice"),
        ({"backends": "disk", 5: 1}, "a key must be text, found 5"),
        ("backends", "expected a mapping of keys to values"),
    ],
)
def test_refusals_name_the_key_and_what_to_do(section, expected):
    assert expected in refusal(section)


def test_messages_of_storage_have_the_names_of_the_runtimes_file():
    metadata = kvtier.StorageMetadata(model_name="m", world_size=1, worker_id=0, layout="test v1", chunk_bytes_max=4096)
    section = {"backends": "disk", "disk.module_path": "fs.wasm", "disk.class_name": "F", "disk.limits.memry": 1}
    with pytest.raises(kvtier.ConfigError) as caught:
        open_storage(section, where=WHERE, metadata=metadata)
    text = str(caught.value)
    assert text.startswith("storage_plugin.kv: ") and "storage_plugin.kv.disk.limits.memry" in text
    assert "external_backend" not in text


# --- The interface of the runtime ----------------------------------------------------------------------------------


class Base(ABC):
    def __init__(self, device="cpu"):
        pass

    @abstractmethod
    def get(self, key): ...

    @abstractmethod
    def put(self, key, value, spec=None): ...

    def close(self): ...


SHAPE = {"__init__": ("device",), "get": ("key",), "put": ("key", "value", "spec"), "close": ()}


def mismatch(base, shape):
    with pytest.raises(RuntimeMismatch) as caught:
        check_interface("Runtime", "2.0", ("1.0", "1.1"), base, shape)
    return str(caught.value)


def test_the_known_shape_in_a_tested_version_is_silent(caplog):
    check_interface("Runtime", "1.1", ("1.0", "1.1"), Base, SHAPE)
    check_interface("Runtime", "1.4.2", ("1.4.*",), Base, SHAPE)
    assert not caplog.records


def test_an_untested_version_of_the_known_shape_warns_once(caplog, monkeypatch):
    monkeypatch.setattr(interface, "_warned_of", set())
    for _ in range(3):
        check_interface("Runtime", "1.2", ("1.0", "1.1"), Base, SHAPE)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "Runtime 1.2" in record.getMessage() and "tested with 1.0 and 1.1" in record.getMessage()


def test_another_shape_is_refused_with_both_versions():
    text = mismatch(Base, SHAPE | {"put": ("key", "value")})
    assert "written for Runtime 1.0 and 1.1, and Runtime 2.0 is installed" in text
    assert "Base.put has the parameters (key, value, spec) in place of (key, value)" in text
    assert "Base.evict does not exist" in mismatch(Base, SHAPE | {"evict": ()})
    assert "Base.put is a new abstract method" in mismatch(Base, {"get": ("key",)})


# --- Failures ------------------------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Guarded:
    def __init__(self, clock=None):
        self._guard = Guard(logging.getLogger("kvtier.test"), clock=clock or Clock())

    @guarded(False)
    def contains(self, key):
        raise key

    @guarded(make=lambda keys, pin=False: [None] * len(keys))
    def get(self, keys, pin=False):
        return 1 / 0

    @guarded(0)
    async def find(self, error):
        raise error


def test_exceptions_become_the_answer_and_are_counted():
    object = Guarded()
    assert object.contains(ValueError("x")) is False
    assert object.get([1, 2, 3], pin=True) == [None, None, None]
    assert asyncio.run(object.find(OSError())) == 0
    assert object._guard.n_failures == 3


def test_interrupts_exits_and_cancellation_pass():
    object = Guarded()
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            object.contains(error())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(object.find(asyncio.CancelledError()))
    assert object._guard.n_failures == 0


def test_failures_are_logged_once_a_second_with_the_traceback_at_debug(caplog):
    clock = Clock()
    object = Guarded(clock)
    caplog.set_level(logging.DEBUG, "kvtier.test")
    for _ in range(5):
        object.contains(ValueError("first"))
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "Guarded.contains failed and counts as a miss: ValueError: first" in errors[0].getMessage()
    debug = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert len(debug) == 1 and "Traceback" in debug[0].getMessage()
    clock.now += 1.5
    object.contains(ValueError("second"))
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2 and "(4 more failures since the last message)" in errors[1].getMessage()
    assert object._guard.n_failures == 6


# --- Pins ----------------------------------------------------------------------------------------------------------


def pins(**more):
    unpinned = []
    return LookupPins(unpinned.append, **more), unpinned


def test_a_lookup_is_given_back_with_its_last_key():
    held, unpinned = pins()
    one = held.new_id()
    held.hold(one, ["a", "b"])
    assert held.release("a") and not unpinned
    assert held.release("b") and unpinned == [one]
    assert not held.release("b") and not held.release("never") and len(held) == 0


def test_keys_of_several_lookups_are_counted():
    held, unpinned = pins()
    one, two = held.new_id(), held.new_id()
    assert one != two
    held.hold(one, ["a", "b", "a"])
    held.hold(two, ["a"])
    for _ in range(3):
        assert held.release("a")
    assert unpinned == [two] and len(held) == 1
    assert held.release("b") and unpinned == [two, one] and not held.release("a")


def test_a_lookup_without_keys_holds_nothing():
    held, unpinned = pins()
    held.hold(held.new_id(), [])
    assert len(held) == 0 and not unpinned


def test_keys_that_are_added_to_a_lookup_are_given_back_with_it():
    held, unpinned = pins()
    held.hold("one", ["a"])
    held.hold("one", ["a", "b"])
    assert len(held) == 1 and held.release("a") and held.release("b") and not unpinned
    assert held.release("a") and unpinned == ["one"]


def test_lookups_expire_and_are_bounded():
    clock = Clock()
    held, unpinned = pins(expiry_s=10, lookups_max=3, clock=clock)
    held.hold("one", ["a"])
    clock.now += 9
    held.hold("two", ["a"])
    assert not unpinned
    clock.now += 1
    held.hold("three", ["b"])
    assert unpinned == ["one"] and held.release("a") and unpinned == ["one", "two"]
    for name in ("four", "five", "six"):
        held.hold(name, ["c"])
    assert unpinned == ["one", "two", "three"] and len(held) == 3


def test_everything_is_given_back_at_once():
    held, unpinned = pins()
    held.hold("one", ["a", "b"])
    held.hold("two", ["a"])
    assert held.release_lookup("one") and not held.release_lookup("one")
    held.release_all()
    assert unpinned == ["one", "two"] and len(held) == 0 and not held.release("a")
