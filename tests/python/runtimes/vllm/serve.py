"""A vLLM process: reads a JSON of settings from its standard input, serves, and writes a JSON of results.

Settings:
  model            folder of the model
  output           file to which the results are written, once after each step and each time complete
  kv_transfer      `kv_transfer_config` of vLLM, or null
  core_process     whether vLLM's engine core is a process of its own (default: false)
  engine           further arguments of `vllm.LLM`
  steps            what to do, a list of
    {"generate": [PROMPT, …], "max_tokens": n}   PROMPT is {"seed": s, "n_tokens": n}: always the same tokens for a seed
    {"decode": {"seed": s, "n_tokens": n}, "max_tokens": n, "beside": [PROMPT, …]}
                     serves a prompt, starts those of `beside` while it decodes, and times each of the engine's steps
    {"reset": true}  waits until the tiers are idle, then empties the device's cache and vLLM's CPU tier
    {"sleep": s}     for tests that kill this process from outside
    {"metrics": "prefix"}                        vLLM's metrics of that prefix

Results: `{"start_s": …, "steps": [...], "done": bool}`; of a prompt `{"tokens": [...], "cached": n, "seconds": s}`.
"""

import json
import os
import random
import sys
import time
from pathlib import Path

os.environ.update(
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_NO_USAGE_STATS="1",
)


def prompt_tokens(prompt):
    """Returns the token numbers of `{"seed": s, "n_tokens": n}`."""
    return random.Random(prompt["seed"]).choices(range(3, 256), k=prompt["n_tokens"])


def sampling(max_tokens):
    from vllm import SamplingParams

    return SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)


def answer(output, seconds):
    return {"tokens": list(output.outputs[0].token_ids), "cached": output.num_cached_tokens, "seconds": seconds}


def generate(llm, step):
    answers = []
    for prompt in step["generate"]:
        began = time.perf_counter()
        prompts = [{"prompt_token_ids": prompt_tokens(prompt)}]
        [output] = llm.generate(prompts, sampling(step.get("max_tokens", 8)), use_tqdm=False)
        answers.append(answer(output, time.perf_counter() - began))
    return answers


def decode(llm, step):
    """Steps the engine by hand, so that the time of each step of decoding is known."""
    engine, n_tokens = llm.llm_engine, step.get("max_tokens", 64)
    waiting = list(step.get("beside", []))
    engine.add_request("main", {"prompt_token_ids": prompt_tokens(step["decode"])}, sampling(n_tokens))
    steps_s, beside, main, n_seen = [], {}, None, 0
    every = max(1, n_tokens // (len(waiting) + 1))
    while main is None:
        if waiting and n_seen >= every * (len(beside) + 1):
            name = f"beside-{len(beside)}"
            engine.add_request(name, {"prompt_token_ids": prompt_tokens(waiting.pop(0))}, sampling(1))
            beside[name] = None
        began = time.perf_counter()
        outputs = engine.step()
        seconds = time.perf_counter() - began
        for output in outputs:
            if output.request_id != "main":
                beside[output.request_id] = answer(output, None) if output.finished else None
                continue
            if n_seen:
                steps_s.append(seconds)
            n_seen = len(output.outputs[0].token_ids)
            main = answer(output, sum(steps_s)) if output.finished else None
    n_unfinished = sum(one is None for one in beside.values())
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                beside[output.request_id] = answer(output, None)
    return {**main, "steps_s": steps_s, "beside": list(beside.values()), "n_unfinished_beside": n_unfinished}


def run(llm, step):
    if "generate" in step:
        return generate(llm, step)
    if "decode" in step:
        return decode(llm, step)
    if "reset" in step:
        return llm.reset_prefix_cache(reset_connector=True)
    if "metrics" in step:
        metrics = (metric for metric in llm.get_metrics() if metric.name.startswith(step["metrics"]))
        return [[m.name, m.labels, m.value] for m in metrics if hasattr(m, "value")]
    if "sleep" in step:
        return time.sleep(step["sleep"])
    raise ValueError(f"unknown step {step}")


def main():
    settings = json.load(sys.stdin)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if settings.get("core_process") else "0"
    from vllm import LLM
    from vllm.config import KVTransferConfig

    output, began = Path(settings["output"]), time.perf_counter()
    transfer = settings.get("kv_transfer")
    llm = LLM(
        **{
            "model": settings["model"],
            "dtype": "bfloat16",
            "enforce_eager": True,
            "max_model_len": 2048,
            "block_size": 32,
            "max_num_seqs": 8,
            "enable_prefix_caching": True,
            "disable_log_stats": False,
            "kv_transfer_config": KVTransferConfig(**transfer) if transfer else None,
            **settings.get("engine", {}),
        }
    )
    results = {"start_s": time.perf_counter() - began, "steps": [], "done": False}

    def write():
        written = output.with_suffix(".part")
        written.write_text(json.dumps(results))
        written.replace(output)

    write()
    for step in settings["steps"]:
        results["steps"].append(run(llm, step))
        write()
    llm.llm_engine.engine_core.shutdown()
    results["done"] = True
    write()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # An engine of LMCache leaves a thread behind that is no daemon, so an ordinary exit would wait for ever.
    os._exit(0)
