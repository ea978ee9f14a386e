"""SGLang's radix tree with HiCache and a storage backend, on the CPU and without a server.

SGLang's own: `UnifiedRadixCache`, its controller (`HybridCacheController`), device and host pools, hashes of pages.
STAND-INS for what needs a GPU: the host pool is not pinned, and pages are copied from the device pool with torch.
"""

import json
import threading
from array import array

import sglang.srt.mem_cache.pool_host.common as host_memory
import torch
from controller import LIMIT_S, N_LAYERS, N_TOKENS, PAGE_TOKENS, RANKS
from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator
from sglang.srt.mem_cache.base_prefix_cache import CacheRequestHandle, InsertParams, MatchPrefixParams
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_cache.components.base import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.runtime_context import get_parallel
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

HEADS, HEAD_DIM = 2, 64


def _copy_to_host(pool, device_pool, host_indices, device_indices, io_backend):
    for at in range(0, len(host_indices), PAGE_TOKENS):
        page = pool.get_data_page(int(host_indices[at]), flat=False)
        tokens = device_indices[at : at + PAGE_TOKENS]
        for layer in range(pool.layer_num):
            page[0, 0, layer] = device_pool.get_key_buffer(layer)[tokens]
            page[1, 0, layer] = device_pool.get_value_buffer(layer)[tokens]


class Tree:
    """A radix tree whose evicted and backed up pages go to storage, and come from there."""

    def __init__(self, monkeypatch, extra):
        monkeypatch.setattr(host_memory, "_cuda_host_register", lambda *_, **__: None)
        monkeypatch.setattr(MHATokenToKVPoolHost, "backup_from_device_all_layer_physical", _copy_to_host)
        arguments = ServerArgs(
            model_path="none",
            served_model_name="tiny",
            page_size=PAGE_TOKENS,
            device="cpu",
            hicache_io_backend="direct",
            hicache_mem_layout="page_first_direct",
            hicache_storage_backend="dynamic",
            hicache_storage_backend_extra_config=json.dumps({**extra, "prefetch_threshold": 1}),
            hicache_storage_prefetch_policy="wait_complete",
        )
        set_global_server_args_for_scheduler(arguments)
        self.pool = MHATokenToKVPool(
            size=N_TOKENS,
            page_size=PAGE_TOKENS,
            dtype=torch.bfloat16,
            head_num=HEADS,
            head_dim=HEAD_DIM,
            layer_num=N_LAYERS,
            device="cpu",
            enable_memory_saver=False,
        )
        self.allocator = TokenToKVPoolAllocator(
            size=N_TOKENS, dtype=torch.bfloat16, device="cpu", kvcache=self.pool, need_sort=False
        )
        parameters = CacheInitParams(
            req_to_token_pool=ReqToTokenPool(size=8, max_context_len=N_TOKENS, device="cpu", enable_memory_saver=False),
            token_to_kv_pool_allocator=self.allocator,
            page_size=PAGE_TOKENS,
            disable=False,
            tree_components=(ComponentType.FULL,),
        )
        self.cache = UnifiedRadixCache(params=parameters)
        with get_parallel().override(**RANKS):
            self.cache.init_hicache(arguments, parameters)
        self._tick = threading.Event()
        self._n_written, write = 0, self.cache.cache_controller.write_storage

        def count(*arguments, **more):
            self._n_written += 1
            return write(*arguments, **more)

        monkeypatch.setattr(self.cache.cache_controller, "write_storage", count)

    @property
    def host(self):
        return self.cache.cache_controller.storage_host_pool

    def insert(self, tokens):
        """Inserts a prompt with random values, as if it had been computed, and returns the values."""
        slots = self.allocator.alloc(len(tokens))
        values = torch.randn(2, N_LAYERS, len(tokens), HEADS, HEAD_DIM).to(torch.bfloat16)
        for layer in range(N_LAYERS):
            self.pool.get_key_buffer(layer)[slots] = values[0, layer]
            self.pool.get_value_buffer(layer)[slots] = values[1, layer]
        self.cache.insert(InsertParams(key=RadixKey(array("q", tokens)), value=slots))
        return values

    def wait_for_backup(self):
        """Waits until what was inserted has been written through to the host pool and to storage."""
        self._until(lambda: self._n_written > 0 and not self.cache.ongoing_backup)

    def prefetch(self, tokens):
        """Asks storage for a prompt that the tree does not have, and returns how many tokens the host pool has then."""
        request = CacheRequestHandle(f"request-{id(tokens)}", 0)
        self.cache.prefetch_from_storage(request, self.cache.root_node_handle(), array("q", tokens), None, None)
        self._until(lambda: self.cache.check_prefetch_progress(request))
        return self.match(tokens).host_hit_length

    def has_on_host(self, values):
        """Reports whether the host pool has each page of these values somewhere."""
        pages = values.unflatten(2, (-1, PAGE_TOKENS)).unbind(2)
        held = self.host.kv_buffer.unbind(1)
        return all(any(torch.equal(page, one) for one in held) for page in pages)

    def match(self, tokens):
        return self.cache.match_prefix(MatchPrefixParams(key=RadixKey(array("q", tokens))))

    def close(self):
        self.cache.cache_controller.detach_storage_backend()

    def _until(self, is_so):
        for _ in range(LIMIT_S * 100):
            self.cache.check_hicache_events()
            if is_so():
                return
            self._tick.wait(0.01)
        raise AssertionError("it does not end")
