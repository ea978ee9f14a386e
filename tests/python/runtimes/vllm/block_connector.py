"""A KV connector of vLLM over kvtier's core: what it takes to use `kvtier.Storage` where there is no adapter.

It is for the tests: the only way to a hit in vLLM on the CPU in which nothing stands in for anything. It loads and
stores within a step, whole blocks of prompts that are computed in one step, for one KV group.

`kv_connector_extra_config` is kvtier's configuration as `Storage.from_dict` takes it.
"""

from dataclasses import dataclass, field

import torch
from kvtier import Storage, StorageMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata

# Scheduler and worker are two objects, here in one process. They share what they open.
_storages = {}


@dataclass
class Plan(KVConnectorMetadata):
    """What the worker does in a step: numbers of blocks, and the names of their chunks."""

    loads: list[tuple[int, bytes]] = field(default_factory=list)
    stores: list[tuple[int, bytes]] = field(default_factory=list)


class BlockConnector(KVConnectorBase_V1):
    """One chunk for each block of the KV cache, all layers together, named by vLLM's hash of the block."""

    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config, role, kv_cache_config)
        transfer, [group] = vllm_config.kv_transfer_config, kv_cache_config.kv_cache_groups
        self.block_tokens = vllm_config.cache_config.block_size
        self.chunk_bytes = group.kv_cache_spec.page_size_bytes * len(group.layer_names)
        if transfer.engine_id not in _storages:
            layout = f"test connector v1 {vllm_config.model_config.dtype} {self.block_tokens} {self.chunk_bytes}"
            metadata = StorageMetadata(vllm_config.model_config.model, layout, self.chunk_bytes)
            config = dict(transfer.kv_connector_extra_config)
            _storages[transfer.engine_id] = Storage.from_dict(config, metadata, cpu_tier=False, env={})
        self.storage = _storages[transfer.engine_id]
        # Of the scheduler.
        self.requests, self.plan = {}, Plan()
        # Of the worker.
        self.layers, self.failed = [], set()

    # The scheduler's side.

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        first = num_computed_tokens // self.block_tokens
        self.requests[request.request_id] = request, first
        # vLLM computes at least the last token itself.
        end = (request.num_tokens - 1) // self.block_tokens
        names = [bytes(name) for name in request.block_hashes[first:end]]
        n_blocks = self.storage.contains(self.storage.keys(names)) if names else 0
        return n_blocks * self.block_tokens, False

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        n_blocks = num_external_tokens // self.block_tokens
        if n_blocks:
            [numbers], first = blocks.get_block_ids(), self.requests[request.request_id][1]
            names = request.block_hashes[first : first + n_blocks]
            self.plan.loads += zip(numbers[first : first + n_blocks], map(bytes, names), strict=True)

    def build_connector_meta(self, scheduler_output):
        for new in scheduler_output.scheduled_new_reqs:
            n_tokens = new.num_computed_tokens + scheduler_output.num_scheduled_tokens[new.req_id]
            first, end = new.num_computed_tokens // self.block_tokens, n_tokens // self.block_tokens
            names = self.requests[new.req_id][0].block_hashes[first:end]
            self.plan.stores += zip(new.block_ids[0][first:end], map(bytes, names))
        for finished in scheduler_output.finished_req_ids:
            self.requests.pop(finished, None)
        plan, self.plan = self.plan, Plan()
        return plan

    # The worker's side.

    def register_kv_caches(self, kv_caches):
        self.layers = list(kv_caches.values())

    def start_load_kv(self, forward_context, **kwargs):
        loads = self._get_connector_metadata().loads
        if not loads:
            return
        chunks = self._chunks(len(loads))
        keys = self.storage.keys([name for _, name in loads])
        for (block, _), chunk, found in zip(loads, chunks, self.storage.fetch_into(keys, [c.numpy() for c in chunks])):
            if found != self.chunk_bytes:
                self.failed.add(block)
                continue
            for layer, page in zip(self.layers, chunk.chunk(len(self.layers))):
                layer[block] = page.view(layer.dtype).view(layer[block].shape)

    def wait_for_layer_load(self, layer_name):
        pass

    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs):
        pass

    def wait_for_save(self):
        stores = self._get_connector_metadata().stores
        if not stores:
            return
        chunks = self._chunks(len(stores))
        for (block, _), chunk in zip(stores, chunks):
            for layer, page in zip(self.layers, chunk.chunk(len(self.layers))):
                page.copy_(layer[block].contiguous().view(torch.uint8).flatten())
        keys = self.storage.keys([name for _, name in stores])
        self.storage.put_lent(keys, [chunk.numpy() for chunk in chunks]).outcomes()

    def get_block_ids_with_load_errors(self):
        failed, self.failed = self.failed, set()
        return failed

    def shutdown(self):
        self.storage.close()

    def _chunks(self, n):
        return list(torch.empty(n, self.chunk_bytes, dtype=torch.uint8))
