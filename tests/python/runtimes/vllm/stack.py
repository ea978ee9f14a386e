"""vLLM's offloading stack without an engine: the spec, the manager, the CPU tier in shared memory, and secondary tiers.

All of it is vLLM's own. The test is the scheduler: it stores chunks, asks for them, and ends steps.
"""

import itertools
import threading

import numpy as np
from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext, make_offload_key
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

ROW_BYTES = 8192
_STEPS_MAX = 100_000
_numbers = itertools.count()


def config(
    *tiers, n_chunks=32, row_bytes=ROW_BYTES, model="tiny", dtype="bfloat16", layout="LBHNC", canonical=False, **sizes
):
    """Returns an `OffloadingConfig`, as vLLM builds it from its settings."""
    one = {"rank": 0, "world_size": 1, "tp_size": 1, "pp_size": 1, "pcp_size": 1, "dcp_size": 1}
    replica = {"data_parallel_index": 0, "data_parallel_size": 1, "data_parallel_rank_local": None}
    parallel = {**one, **replica, "is_parallelism_agnostic": False, **sizes}
    return OffloadingConfig(
        groups=(OffloadingGroupConfig(tokens_per_block=16, layer_names=("layers.0", "layers.1"), group_id=0),),
        worker_kv_bytes_per_block=row_bytes // parallel["world_size"],
        enable_kv_cache_events=False,
        extra_config={"cpu_bytes_to_use": n_chunks * row_bytes, "secondary_tiers": list(tiers)},
        engine_id=f"kvtier-stack-{threading.get_native_id()}-{next(_numbers)}",
        model=OffloadingModelConfig(name=model, dtype=dtype),
        cache=OffloadingCacheConfig(tokens_per_hash=16, blocks_per_chunk=1),
        parallel=OffloadingParallelConfig(**parallel),
        kv_cache_layout=layout,
        canonical_layout=canonical,
    )


def key(number, group=0):
    """Returns a key as vLLM makes it: a hash and a group."""
    return make_offload_key(number.to_bytes(32, "big"), group)


class Stack:
    """A manager with its tiers. `close` is vLLM's `shutdown`."""

    def __init__(self, *tiers, **settings):
        self.spec = TieringOffloadingSpec(config(*tiers, **settings))
        self.manager = self.spec.get_manager()
        self.rows = self.manager.primary_tier.get_kv_memoryview()
        self.tier = self.manager.secondary_tiers[0]
        self._tick = threading.Event()

    def request(self):
        context = ReqContext(req_id=f"request-{next(_numbers)}")
        self.manager.on_new_request(context)
        return context

    def end_step(self):
        self.manager.on_schedule_end(ScheduleEndContext((), ()))

    def store(self, chunks):
        """Stores `{key: bytes}` in the CPU tier, as a worker would have, and so offers them to the tiers."""
        context = self.request()
        output = self.manager.prepare_store(list(chunks), context)
        assert output is not None, "the CPU tier is full"
        for stored, row in zip(output.keys_to_store, output.store_spec.block_ids, strict=True):
            np.asarray(self.rows)[row] = np.frombuffer(chunks[stored], np.int8)
        self.manager.complete_store(set(output.keys_to_store), context)
        self.manager.on_request_finished(context)
        self.end_step()

    def settle(self):
        """Steps until no transfer is under way."""
        for _ in range(_STEPS_MAX):
            self.end_step()
            if not self.manager.has_pending_work():
                return
            self._tick.wait(0.001)
        raise AssertionError("transfers do not end")

    def load(self, keys):
        """Returns the bytes of each key, or None for a miss, after as many steps as vLLM needs for the answer."""
        context = self.request()
        results = {}
        for _ in range(_STEPS_MAX):
            open_keys = [one for one in keys if one not in results]
            for one in open_keys:
                answer = self.manager.lookup(one, context)
                if answer not in (LookupResult.RETRY, LookupResult.HIT_PENDING):
                    results[one] = answer is LookupResult.HIT
            self.end_step()
            if len(results) == len(keys):
                break
            self._tick.wait(0.001)
        else:
            raise AssertionError("no answer")
        hits = [one for one in keys if results[one]]
        rows = self.manager.prepare_load(hits, context).block_ids
        found = {one: np.asarray(self.rows)[row].tobytes() for one, row in zip(hits, rows, strict=True)}
        self.manager.complete_load(hits, context)
        self.manager.on_request_finished(context)
        self.end_step()
        return [found.get(one) for one in keys]

    def forget_cpu(self):
        """Empties the CPU tier, as vLLM's `reset_cache` does."""
        self.manager.reset_cache()

    def close(self):
        self.rows = None
        self.manager.shutdown()
