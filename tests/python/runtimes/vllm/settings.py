"""Settings of vLLM that the tests share."""

PROMPT = {"seed": 0, "n_tokens": 600}
OTHER_PROMPT = {"seed": 1, "n_tokens": 600}
BLOCK_TOKENS = 32
CHUNK_TOKENS = 64
# Of 600 tokens 9 chunks are full. vLLM computes the last token at least.
N_CHUNKS = 9
N_CACHED = N_CHUNKS * CHUNK_TOKENS
CPU_TIER_BYTES = 16 << 20
KEY = "literal-key-of-the-tests"


def offloading(*tiers, **extra):
    """Returns `kv_transfer_config` of vLLM's offloading connector, with the CPU stand-in for the device copy."""
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "CpuCopySpec",
            "spec_module_path": "cpu_copy",
            "cpu_bytes_to_use": CPU_TIER_BYTES,
            "block_size": CHUNK_TOKENS,
            "secondary_tiers": list(tiers),
            **extra,
        },
    }


def kvtier(**section):
    """Returns the section of a `KvtierTier`. Loading is awaited, so that the first lookup of a test means something."""
    return {
        "type": "KvtierTier",
        "module_path": "kvtier.vllm",
        "kvtier.on_load_error": "fail",
        **section,
    }


def disk(guests, folder, **section):
    """Returns the section of a `KvtierTier` whose only backend is the example `fs` over a folder of the host."""
    folder.mkdir(exist_ok=True)
    return kvtier(
        backends="disk",
        **{
            "disk.module_path": str(guests / "fs.wasm"),
            "disk.class_name": "FsBackend",
            "disk.config.root": "/data",
            "disk.allow.fs": [f"{folder}:/data:rw"],
        },
        **section,
    )


def hostile(guests, class_name, module="misbehaving.wasm", **section):
    """Returns the section of a `KvtierTier` over one misbehaving class; `config.in` and the like in `section`."""
    return kvtier(
        backends="bad",
        **{
            "bad.module_path": str(guests / module),
            "bad.class_name": class_name,
            "bad.limits.call_timeout_ms": 300,
            **{f"bad.{key}": value for key, value in section.items()},
        },
    )


def python_tier(**settings):
    """Returns the section of a `PythonTier`."""
    return {"type": "PythonTier", "module_path": "python_tier", **settings}
