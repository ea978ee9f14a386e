"""STAND-IN for one part of LMCache 0.5: the copy between vLLM's KV cache and LMCache's memory objects.

LMCache has none for a KV cache on the CPU and says so. This module, which vLLM imports for the connector in it, puts
one in that copies with torch. Everything else is LMCache's and vLLM's own: connector, engine, chunk hashes, lookup,
storage manager and plugins.
"""

import lmcache.v1.gpu_connector
import torch
from lmcache.v1.gpu_connector.gpu_connectors import GPUConnectorInterface
from vllm.distributed.kv_transfer.kv_connector.v1.lmcache_connector import LMCacheConnectorV1


class CpuConnector(GPUConnectorInterface):
    """vLLM has `[blocks, heads, block, K then V]` for each layer, LMCache `[K or V, layers, tokens, heads * size]`."""

    def __init__(self, metadata):
        self.n_layers, _, _, self.heads, self.head_size = metadata.kv_shape
        self.layers = []

    def get_shape(self, num_tokens):
        return torch.Size((2, self.n_layers, num_tokens, self.heads * self.head_size))

    def initialize_kvcaches_ptr(self, **kwargs):
        self.layers = kwargs.get("kvcaches") or self.layers

    def _tokens(self, start, end, kwargs):
        self.initialize_kvcaches_ptr(**kwargs)
        slots, block_size = kwargs["slot_mapping"][start:end], self.layers[0].shape[2]
        return slots // block_size, slots % block_size

    def from_gpu(self, memory_obj, start, end, **kwargs):
        blocks, offsets = self._tokens(start, end, kwargs)
        for number, layer in enumerate(self.layers):
            keys, values = layer[blocks, :, offsets].split(self.head_size, dim=-1)
            memory_obj.tensor[0, number].copy_(keys.flatten(1))
            memory_obj.tensor[1, number].copy_(values.flatten(1))

    def to_gpu(self, memory_obj, start, end, **kwargs):
        blocks, offsets = self._tokens(start, end, kwargs)
        shape = (end - start, self.heads, self.head_size)
        for number, layer in enumerate(self.layers):
            both = [memory_obj.tensor[half, number].view(shape) for half in (0, 1)]
            layer[blocks, :, offsets] = torch.cat(both, dim=-1)

    def batched_from_gpu(self, memory_objs, starts, ends, **kwargs):
        for memory_obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.from_gpu(memory_obj, start, end, **kwargs)

    def batched_to_gpu(self, memory_objs, starts, ends, **kwargs):
        for memory_obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.to_gpu(memory_obj, start, end, **kwargs)


lmcache.v1.gpu_connector.CreateGPUConnector = lambda config, metadata, *_, **__: CpuConnector(metadata)


class LMCacheOnCpu(LMCacheConnectorV1):
    """LMCache's connector, unchanged."""
