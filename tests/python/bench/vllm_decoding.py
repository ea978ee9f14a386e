"""Times vLLM's decoding steps while a storage backend hangs.

Four vLLM processes take turns, so that all meet the same machine: without a secondary tier; with kvtier over two
backends, of which one hangs in lookups and one in stores; with kvtier over the `fs` backend; and with a secondary tier
in plain Python that sleeps in its lookups and stores. In each round each of them decodes a prompt, stores it, and is
asked for another prompt while it decodes. Prints one JSON object with the steps of decoding: p50 and p99 of a round, in
milliseconds, as medians of all rounds; the longest of all; and the ratios of p50 and p99 to those without a secondary
tier in the same round, also as medians.

    python tests/python/bench/vllm_decoding.py --rounds 24

Environment: `KVTIER_GUESTS` is the folder of built guest components; `kvtier` and `vllm` can be imported.
The device copy is the stand-in of the vLLM tests (`cpu_copy.py`), the same in all four.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

VLLM_TESTS = Path(__file__).parent.parent / "runtimes" / "vllm"
sys.path.insert(0, str(VLLM_TESTS))

from settings import disk, hostile, offloading, python_tier  # noqa: E402

WITHOUT, HANGING, FS, SLEEPING = "without a tier", "kvtier, backends hang", "kvtier over fs", "Python tier that sleeps"
PROMPT_TOKENS = 300
# Short rounds, since what else runs on the machine should meet all four alike.
DECODED_TOKENS = 400
N_BESIDE = 1
SLEEP_S = 0.2


def configurations(guests, folder, stores_decoded):
    """Returns `kv_transfer_config` of each process."""
    extra = {"offload_prompt_only": not stores_decoded}
    hanging = hostile(guests, "HangBackend", **{"config.in": "contains"})
    # Lookups and stores hang; as nothing is stored, nothing is loaded.
    hanging |= {
        "backends": "bad, worse",
        "worse.module_path": str(guests / "misbehaving.wasm"),
        "worse.class_name": "HangBackend",
        "worse.config.in": "put",
    }
    sleeping = python_tier(wrong="sleep", seconds=SLEEP_S)
    return {
        WITHOUT: offloading(**extra),
        HANGING: offloading(hanging, **extra),
        FS: offloading(disk(guests, folder / "disk"), **extra),
        SLEEPING: offloading(sleeping, **extra),
    }


class Child:
    """A vLLM process that decodes when told to."""

    def __init__(self, model, kv_transfer, log):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(VLLM_TESTS), os.environ.get("PYTHONPATH", "")])},
        )
        self._ask({"model": str(model), "kv_transfer": kv_transfer})

    def round(self, number):
        """Returns the seconds of each decoding step of one round."""
        return self._ask(number)

    def end(self):
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, question):
        print(json.dumps(question), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the vLLM process ended with {self.process.wait()}")
        return json.loads(answer)


def serve():
    """The child: answers each line of its input with one line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM's own output
    from serve import decode  # sets the environment for vLLM

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM
    from vllm.config import KVTransferConfig

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    settings = json.loads(sys.stdin.readline())
    llm = LLM(
        model=settings["model"],
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=2048,
        block_size=32,
        max_num_seqs=8,
        enable_prefix_caching=True,
        kv_transfer_config=KVTransferConfig(**settings["kv_transfer"]),
    )
    answer("ready")
    for line in sys.stdin:
        number = int(line) * (N_BESIDE + 1)
        prompts = [{"seed": number + at, "n_tokens": PROMPT_TOKENS} for at in range(N_BESIDE + 1)]
        step = {"decode": prompts[0], "beside": prompts[1:], "max_tokens": DECODED_TOKENS}
        answer(decode(llm, step)["steps_s"])
    llm.llm_engine.engine_core.shutdown()
    os._exit(0)


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(rounds):
    """Returns the figures of one process, of which `rounds` has the seconds of each step of each round."""
    return {
        "steps": sum(map(len, rounds)),
        "p50_ms": round(1000 * median(quantile(steps, 0.5) for steps in rounds), 3),
        "p99_ms": round(1000 * median(quantile(steps, 0.99) for steps in rounds), 3),
        "max_ms": round(1000 * max(map(max, rounds)), 3),
    }


def ratio(rounds, base, share):
    """Returns how a quantile compares with that of `base`, round by round."""
    pairs = zip(rounds, base, strict=True)
    return round(median(quantile(steps, share) / quantile(others, share) for steps, others in pairs), 3)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=24, help="rounds of each process, after one to warm up")
    arguments.add_argument(
        "--store-decoded", action="store_true", help="also store chunks that are decoded, unlike vLLM's default"
    )
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = arguments.parse_args()
    if arguments.serve:
        serve()
        return
    from model import tiny_llama

    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "log"), "w+") as log:
        folder = Path(folder)
        model = tiny_llama(Path(os.environ.get("KVTIER_MODELS", folder / "models")))
        guests = Path(os.environ["KVTIER_GUESTS"])
        children, seconds = {}, {}
        try:
            for name, kv_transfer in configurations(guests, folder, arguments.store_decoded).items():
                children[name], seconds[name] = Child(model, kv_transfer, log), []
            for number in range(arguments.rounds + 1):
                for name, child in children.items():
                    steps = child.round(number)
                    if number > 0:
                        seconds[name].append(steps)
        except Exception:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:])
            raise
        finally:
            for child in children.values():
                child.end()
    ratios = {
        f"p{share:.0%}_to_without".replace("%", ""): {
            name: ratio(rounds, seconds[WITHOUT], share) for name, rounds in seconds.items() if name != WITHOUT
        }
        for share in (0.5, 0.99)
    }
    results = {name: summary(rounds) for name, rounds in seconds.items()}
    options = {"rounds": arguments.rounds, "stores_decoded": arguments.store_decoded}
    print(json.dumps({**options, "steps": results, **ratios}, indent=1))


if __name__ == "__main__":
    main()
