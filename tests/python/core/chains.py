"""Chains over real components, for the tests and for the programs that they start."""

from __future__ import annotations

import os
from pathlib import Path

import kvtier

ROOT = Path(__file__).resolve().parents[3]
GUESTS = Path(os.environ.get("KVTIER_GUESTS") or ROOT / "target" / "kvtier-guests")

# Two layers of 16 tokens, two heads of eight elements in bfloat16.
KV_SHAPE = (2, 2, 16, 2, 8)
CHUNK_TOKENS = 16
CHUNK_BYTES = 2 * 2 * 16 * 2 * 8 * 2


# A loaded machine takes its time. What a test wants to see expire it limits itself.
PATIENT = {"call_timeout_ms": 60_000}


def disk(folder, **keys):
    """Returns the section of a backend that keeps chunks in a folder."""
    section = {"module_path": str(GUESTS / "fs.wasm"), "class_name": "FsBackend", "config.root": "/data"}
    section |= {f"limits.{key}": value for key, value in PATIENT.items()}
    return {**section, "allow.fs": [f"{folder}:/data:rw"], **keys}


def guest(class_name, *, limits=None, wasm="misbehaving", **config):
    """Returns the section of a class of the test components; `in` names the method that it spoils."""
    section = {"module_path": str(GUESTS / f"{wasm}.wasm"), "class_name": class_name}
    section |= {f"config.{key.rstrip('_')}": value for key, value in config.items()}
    return section | {f"limits.{key}": value for key, value in {**PATIENT, **(limits or {})}.items()}


def settings(backends=None, top=None, **kvtier_keys):
    """Returns a configuration with these backends. The constructor waits for their components."""
    backends = backends or {}
    extra = {f"external_backend.{name}.{key}": value for name, keys in backends.items() for key, value in keys.items()}
    extra["kvtier.on_load_error"] = "fail"
    extra |= {f"kvtier.{key}": value for key, value in kvtier_keys.items()}
    times = {"lookup_timeout_ms": 60_000, "blocking_timeout_secs": 60}
    return {"external_backends": list(backends), "extra_config": extra, **times, **(top or {})}


def storage(backends=None, *, cpu_tier=False, chunk_bytes_max=1 << 20, layout="test v1", top=None, **kvtier_keys):
    """Opens a chain on keys, without a CPU tier by default."""
    if cpu_tier:
        top = {"max_local_cpu_size": 0.02, **(top or {})}
    metadata = kvtier.StorageMetadata("model", layout, chunk_bytes_max)
    config = settings(backends, top, **kvtier_keys)
    return kvtier.Storage.from_dict(config, metadata, cpu_tier=cpu_tier, env={})


def engine(backends=None, *, top=None, model="model", **kvtier_keys):
    """Opens an engine on tokens, with a small pool."""
    top = {"chunk_size": CHUNK_TOKENS, "max_local_cpu_size": 0.02, **(top or {})}
    return kvtier.Engine.from_dict(
        settings(backends, top, **kvtier_keys), kvtier.EngineMetadata(model, KV_SHAPE), env={}
    )


def fill(allocation, first=1):
    """Fills the chunks of an allocation, each with one byte value, and leaves no view behind."""
    for missing in allocation.missing:
        with memoryview(missing) as view:
            view[:] = bytes([first + missing.position]) * len(view)


def store_prompt(engine, tokens, **more):
    """Stores a prompt whose chunk i consists of the byte i + 1."""
    with engine.allocate(tokens) as allocation:
        fill(allocation)
        return engine.store(allocation, **more)
