"""Stores the KV cache of a prompt and finds it again. Run it twice: the second run starts from what the first stored.

    python quickstart.py [FOLDER]

Without a folder it uses a new one, and shows only one run. Needs nothing but kvtier.
"""

import sys
import tempfile

import kvtier
from kvtier import components


def main(folder):
    config = {
        "chunk_size": 16,  # tokens
        "max_local_cpu_size": 0.01,  # GiB of the CPU tier
        "external_backends": ["disk"],
        "extra_config": {
            **components.settings("fs", "disk", folder),
            "kvtier.on_load_error": "fail",  # the first start waits until the component is compiled
        },
    }
    metadata = kvtier.EngineMetadata("my-model", kv_shape=(2, 2, 16, 2, 8))
    with kvtier.Engine.from_dict(config, metadata) as engine:
        prompt = engine.prompt(range(64))
        found = engine.lookup(prompt)
        names = ["cpu", *(backend.name for backend in engine.status().backends)]
        print(f"before: {found.n_tokens} of {prompt.n_tokens} tokens are stored, in", tiers(found, names))
        with engine.allocate(prompt) as allocation:
            for missing in allocation.missing:
                # The KV cache of 16 tokens goes here.
                memoryview(missing)[:] = bytes([missing.position]) * len(missing)
            stored = engine.store(allocation)
        print(f"stored: {stored.n_new} chunks of {engine.chunk_bytes} bytes, queued for", stored.backends)
        engine.flush()
        chunks = engine.retrieve(prompt).chunks
        print("after:", [f"{len(chunk)} bytes, first {memoryview(chunk)[0]}" for chunk in chunks])


def tiers(found, names):
    return [names[tier] for tier, _, _ in found.served] or "no tier"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="kvtier-quickstart-"))
