"""vLLM keeps KV across restarts: run this twice, and the second run starts from what the first one stored.

    python vllm_offload.py --folder /var/cache/kv                      # a tiny random model, on CPU or GPU
    python vllm_offload.py --folder /var/cache/kv --model NAME         # a model of yours

Needs vLLM 0.32. vLLM's offloading copies between GPU and CPU; on a machine without a GPU the copy is done by the
stand-in of kvtier's tests, and everything else is the same.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import kvtier.components

# Where the tiny model and the stand-in for the device copy are, in kvtier's repository.
TESTS = Path(__file__).resolve().parents[3] / "tests" / "python" / "runtimes" / "vllm"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--folder", type=Path, required=True, help="where chunks are stored")
    arguments.add_argument("--model", help="a model that vLLM can load (default: a tiny random one)")
    arguments = arguments.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)

    import torch

    has_gpu = torch.cuda.is_available()
    sys.path.insert(0, str(TESTS))
    if not has_gpu:
        os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS="1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

    tier = {
        "type": "KvtierTier",
        "module_path": "kvtier.vllm",
        # Without this, vLLM does not wait for the component, and the first lookups are misses.
        "kvtier.on_load_error": "fail",
        "backends": "disk",
        "disk.module_path": str(kvtier.components.path("fs")),
        "disk.class_name": "FsBackend",
        "disk.config.root": "/data",
        "disk.allow.fs": [f"{arguments.folder.resolve()}:/data:rw"],
    }
    spec = {"spec_name": "TieringOffloadingSpec"}
    if not has_gpu:
        spec = {"spec_name": "CpuCopySpec", "spec_module_path": "cpu_copy"}

    from vllm import LLM, SamplingParams
    from vllm.config import KVTransferConfig

    model = arguments.model
    if model is None:
        from model import tiny_llama

        model = str(tiny_llama(arguments.folder.parent / "kvtier-example-models"))
    llm = LLM(
        model=model,
        dtype="bfloat16",
        max_model_len=2048,
        block_size=32,
        enforce_eager=True,
        kv_transfer_config=KVTransferConfig(
            kv_connector="OffloadingConnector",
            kv_role="kv_both",
            kv_connector_extra_config={
                **spec,
                "cpu_bytes_to_use": 1 << 26,
                "block_size": 64,
                "secondary_tiers": [tier],
            },
        ),
    )
    prompt = {"prompt_token_ids": [(at * 7) % 250 + 3 for at in range(600)]}
    began = time.perf_counter()
    [output] = llm.generate([prompt], SamplingParams(max_tokens=8, temperature=0, ignore_eos=True), use_tqdm=False)
    milliseconds = 1000 * (time.perf_counter() - began)
    # Until what is on its way has been stored: a server does not need this, it does not exit.
    llm.reset_prefix_cache(reset_connector=True)
    print(f"tokens: {list(output.outputs[0].token_ids)}")
    print(f"of 600 tokens of the prompt {output.num_cached_tokens} came from storage; {milliseconds:.0f} ms")
    llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
