"""Wrong configuration, and an LMCache that kvtier does not know: LMCache says why, and runs without the tier."""

import logging

import harness
import kvtier
import kvtier.lmcache
import pytest
from harness import LIST, PREFIX, fs, has, kvtier_plugin, memory
from kvtier import _lmcache_setup as setup
from kvtier._adapter import RuntimeMismatch


def refusal(it):
    """Returns the message with which kvtier refuses LMCache's configuration."""
    with pytest.raises(kvtier.KvtierError) as caught:
        kvtier.lmcache.KvtierBackend(
            dst_device="cpu", config=it.config, metadata=it.metadata, local_cpu_backend=it.cpu, loop=it.manager.loop
        )
    return str(caught.value)


def without(section, key):
    return {name: value for name, value in section.items() if name != key}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda section: without(section, "backends"), f"{PREFIX}.kv.backends is missing"),
        (lambda section: section | {"tear.class_name": "X"}, f"did you mean {PREFIX}.kv.tier.class_name?"),
        (lambda section: section | {"tier.limits.memry": 1}, f"{PREFIX}.kv.tier.limits.memry"),
        (lambda section: section | {"tier.limits.memory": "much"}, f"{PREFIX}.kv.tier.limits.memory"),
        (lambda section: section | {"tier.module_path": "kvtier.lmcache"}, f"{PREFIX}.kv.tier.module_path"),
        (lambda section: section | {"kvtier.on_ful": "wait"}, "kvtier.on_ful"),
        (lambda section: section | {"config": "kvtier.yaml"}, f"{PREFIX}.kv.config names a file"),
        (lambda section: section | {"tier.module_path": "/nowhere/at/all.wasm"}, "/nowhere/at/all.wasm"),
        (lambda section: section | {"tier.class_name": "NoSuchBackend"}, "NoSuchBackend"),
    ],
)
def test_lmcache_runs_without_a_tier_that_is_configured_wrongly(lmcache, caplog, change, expected):
    it = lmcache({"kv": change(kvtier_plugin({"tier": memory()}))})
    assert list(it.manager.storage_backends) == ["LocalCPUBackend"]
    assert expected in caplog.text
    assert expected in refusal(it)
    objs = it.put(it.keys(1), [1])
    assert has(objs[0], 1) and it.manager.contains(it.keys(1)[0]) == "LocalCPUBackend"


def test_a_component_that_is_not_there_may_come_later(lmcache):
    section = kvtier_plugin({"tier": memory() | {"module_path": "/nowhere/at/all.wasm"}})
    it = lmcache({"kv": section}, {"kvtier.on_load_error": "continue"})
    (status,) = it.kvtier.storage.status().backends
    assert not status.is_up and "/nowhere/at/all.wasm" in status.down
    it.put(it.keys(1), [1])
    assert it.kvtier._loans.wait_for_all(harness.LIMIT_S)
    assert it.get(it.keys(1)) == [None]


def test_settings_of_kvtier_stand_beside_the_plugin_or_in_it(lmcache):
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})}, {"kvtier.put_queue_bytes": "1MiB"})
    assert it.kvtier.contains(it.keys(1)[0]) is False
    both = lmcache(
        {"kv": kvtier_plugin({"tier": memory()}, **{"kvtier.put_queue_bytes": "2MiB"})},
        {"kvtier.put_queue_bytes": "1MiB"},
    )
    assert "kvtier.put_queue_bytes is given twice" in refusal(both)


def test_a_configuration_file_of_kvtier_takes_the_place_of_the_keys(lmcache, tmp_path, monkeypatch):
    backend = fs(tmp_path / "kv")
    keys = "\n".join(f"  external_backend.disk.{key}: {value!r}" for key, value in backend.items())
    (tmp_path / "kvtier.yaml").write_text(
        f"external_backends: disk\nextra_config:\n  kvtier.on_load_error: fail\n{keys}\n"
    )
    monkeypatch.setenv("LMCACHE_CONFIG_FILE", str(tmp_path / "lmcache-0.yaml"))
    section = {"module_path": "kvtier.lmcache", "class_name": "KvtierBackend", "config": "kvtier.yaml"}
    path = harness.write_yaml(tmp_path / "lmcache-0.yaml", {"kv": section})
    path.write_text(path.read_text().replace("  kvtier.on_load_error: fail\n", ""))
    with harness.LMCache(path) as it:
        # Variables of LMCache do not reach kvtier's file.
        monkeypatch.setenv("LMCACHE_EXTERNAL_BACKENDS", "another")
        it.stored(it.keys(1), [1])
        (obj,) = it.get(it.keys(1))
        assert has(obj, 1)
        it.release([obj])


def test_two_kvtier_plugins_need_names_in_their_classes(lmcache, tmp_path, caplog):
    near, far = kvtier_plugin({"tier": memory()}), kvtier_plugin({"disk": fs(tmp_path / "kv")})
    it = lmcache({"near": near, "far": far})
    assert list(it.manager.storage_backends) == ["LocalCPUBackend"]
    assert f"{LIST} has the kvtier plugins" in caplog.text and "class_name: KvtierBackend:" in refusal(it)

    named = lmcache(
        {"near": near | {"class_name": "KvtierBackend:near"}, "far": far | {"class_name": "KvtierBackend:far"}}
    )
    assert set(named.manager.storage_backends) == {"LocalCPUBackend", "near", "far"}
    names = {
        name: [status.name for status in named.manager.storage_backends[name].storage.status().backends]
        for name in ("near", "far")
    }
    assert names == {"near": ["tier"], "far": ["disk"]}


def test_the_plugin_of_another_program_is_left_alone(lmcache):
    other = {"module_path": "no.such.module", "class_name": "Other", "backends": "what it likes"}
    it = lmcache({"other": other, "kv": kvtier_plugin({"tier": memory()})})
    assert list(it.manager.storage_backends) == ["LocalCPUBackend", "kv"]


def test_no_plugin_of_the_list_is_kvtiers(lmcache):
    it = lmcache({})
    assert f"no plugin of {LIST} has {PREFIX}.<name>.module_path: kvtier.lmcache" in refusal(it)


@pytest.mark.skipif(not harness.IS_03, reason="LMCache 0.5.x counts what each tier has loaded")
def test_lmcache_03_loads_asynchronously_from_one_plugin_only(lmcache):
    it = lmcache(
        {"kv": kvtier_plugin({"tier": memory()}), "other": {"module_path": "no.such", "class_name": "X"}},
        enable_async_loading=True,
    )
    assert "mixes up chunks" in refusal(it) and list(it.manager.storage_backends) == ["LocalCPUBackend"]


def test_an_lmcache_of_another_shape_is_refused(lmcache, monkeypatch, caplog):
    def unpin(self, key, lookup_id):
        raise NotImplementedError

    monkeypatch.setattr(setup.BASE, "unpin", unpin)
    it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
    assert list(it.manager.storage_backends) == ["LocalCPUBackend"]
    text = refusal(it)
    assert "written for LMCache 0.3.7 and 0.5.6, and LMCache" in text
    assert "unpin has the parameters (key, lookup_id) in place of (key)" in text


def test_an_lmcache_between_the_generations_is_refused(lmcache, monkeypatch):
    def batched_contains(self, keys, pin=False) -> list[bool]:
        raise NotImplementedError

    monkeypatch.setattr(setup.BASE, "batched_contains", batched_contains, raising=False)
    with pytest.raises(RuntimeMismatch, match="batched_contains returns"):
        setup.check_lmcache()


def test_a_newer_lmcache_of_the_known_shape_warns_once(lmcache, monkeypatch, caplog):
    monkeypatch.setattr(setup, "VERSION", "0.9.1")
    for _ in range(2):
        it = lmcache({"kv": kvtier_plugin({"tier": memory()})})
        assert "kv" in it.manager.storage_backends
        it.close()
    warnings = [record for record in caplog.records if "kvtier was tested with" in record.getMessage()]
    assert len(warnings) == 1 and "LMCache 0.9.1" in warnings[0].getMessage()


@pytest.mark.parametrize("seed", ["0", "random"])
def test_keys_that_change_from_process_to_process_are_pointed_out(lmcache, monkeypatch, caplog, seed):
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    caplog.set_level(logging.WARNING)
    lmcache({"kv": kvtier_plugin({"tier": memory()})})
    is_warned = "LMCache's keys differ from process to process" in caplog.text
    assert is_warned == (seed == "random" or harness.IS_03)
