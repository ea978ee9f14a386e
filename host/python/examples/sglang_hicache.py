"""SGLang's HiCache keeps pages across restarts: run this twice, and the second run finds what the first one stored.

    python sglang_hicache.py --folder /var/cache/kv

Needs SGLang 0.5.23, and no GPU: SGLang's server does not run on a CPU from its wheels, but its cache controller does.
This drives the controller as the server does, with pages of made-up values. With a server, the same configuration is:

    python -m sglang.launch_server --model-path NAME --enable-hierarchical-cache --hicache-mem-layout page_first \\
      --hicache-storage-backend dynamic --hicache-storage-backend-extra-config "$(python sglang_hicache.py --print)"
"""

import argparse
import json
import sys
from pathlib import Path

import kvtier.components

# Where the controller is driven, in kvtier's repository.
TESTS = Path(__file__).resolve().parents[3] / "tests" / "python" / "runtimes" / "sglang"
PROMPT = list(range(8 * 16))


def configuration(folder):
    return {
        "backend_name": "kvtier",
        "module_path": "kvtier.sglang",
        "class_name": "KvtierHiCache",
        "interface_v1": 1,
        "backends": "disk",
        "disk.module_path": str(kvtier.components.path("fs")),
        "disk.class_name": "FsBackend",
        "disk.config.root": "/data",
        "disk.allow.fs": [f"{folder}:/data:rw"],
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--folder", type=Path, default=Path("/var/cache/kv"), help="where pages are stored")
    arguments.add_argument("--print", action="store_true", help="print the configuration for a server, and end")
    arguments = arguments.parse_args()
    extra = configuration(arguments.folder.resolve())
    if arguments.print:
        print(json.dumps(extra))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)

    sys.path.insert(0, str(TESTS))
    from controller import Controller, start_sglang

    start_sglang()
    # A server need not wait for the component to be loaded: until then, pages are misses.
    controller = Controller(extra | {"kvtier.on_load_error": "fail"})
    n_found, pages = controller.prefetch(PROMPT)
    print(f"of {len(PROMPT)} tokens {n_found} were in storage; {len(pages)} pages were fetched")
    if n_found < len(PROMPT):
        n_stored, _ = controller.backup(PROMPT)
        print(f"stored {n_stored} tokens; run this again")
    controller.detach()


if __name__ == "__main__":
    main()
