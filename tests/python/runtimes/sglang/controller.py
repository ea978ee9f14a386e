"""SGLang's `HiCacheController` with a storage backend, on the CPU and without a server.

All of it is SGLang's own: the controller with its four threads, device and host pools, the backend factory, the hashes
of pages. The test is the scheduler: it backs pages up, asks for them, and prefetches them.
"""

import os
import tempfile
import threading

import torch
import torch.distributed as dist
from sglang.srt.managers.cache_controller import HiCacheController
from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost
from sglang.srt.mem_cache.utils import get_storage_hash_str
from sglang.srt.runtime_context import get_parallel
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

PAGE_TOKENS = 16
N_LAYERS = 4
N_TOKENS = 512
# Only to end a test that hangs.
LIMIT_S = 120
RANKS = {"tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_dcp_size": 1, "attn_dcp_rank": 0}


def start_sglang():
    """Does what SGLang's scheduler does once in its process: the process group and the global arguments."""
    os.environ.update(MASTER_ADDR="127.0.0.1")
    store = os.path.join(tempfile.mkdtemp(), "store")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    set_global_server_args_for_scheduler(ServerArgs(model_path="none", page_size=PAGE_TOKENS, device="cpu"))


def mha_pools(layout, heads=2, head_dim=64, dtype=torch.bfloat16):
    """Returns a device pool and a host pool of K and V."""
    device = MHATokenToKVPool(
        size=N_TOKENS,
        page_size=PAGE_TOKENS,
        dtype=dtype,
        head_num=heads,
        head_dim=head_dim,
        layer_num=N_LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )
    host = MHATokenToKVPoolHost(
        device.get_device_pool_infos()[0].buffer_info,
        2.0,
        0,
        PAGE_TOKENS,
        layout,
        pin_memory=False,
        device="cpu",
        device_capacity_tokens=N_TOKENS,
        start_layer=0,
        end_layer=N_LAYERS - 1,
    )
    return device, host


def mla_pools(layout, dtype=torch.bfloat16):
    """Returns a device pool and a host pool of latent pages."""
    device = MLATokenToKVPool(
        size=N_TOKENS,
        page_size=PAGE_TOKENS,
        dtype=dtype,
        kv_lora_rank=128,
        qk_rope_head_dim=64,
        layer_num=N_LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )
    host = MLATokenToKVPoolHost(
        device.get_device_pool_infos()[0].buffer_info,
        2.0,
        0,
        PAGE_TOKENS,
        layout,
        pin_memory=False,
        device="cpu",
        device_capacity_tokens=N_TOKENS,
        start_layer=0,
        end_layer=N_LAYERS - 1,
        target_layer_num=N_LAYERS,
    )
    return device, host


class Controller:
    """A controller whose host pool is full of random values."""

    def __init__(self, extra, pools=None, model="tiny", **ranks):
        device, self.host = pools or mha_pools("page_first")
        allocator = TokenToKVPoolAllocator(
            size=N_TOKENS, dtype=self.host.dtype, device="cpu", kvcache=device, need_sort=False
        )
        with get_parallel().override(**{**RANKS, **ranks}):
            self.controller = HiCacheController(
                allocator,
                self.host,
                PAGE_TOKENS,
                dist.group.WORLD,
                threading.Event(),
                write_policy="write_through",
                io_backend="direct",
                storage_backend="dynamic",
                prefetch_threshold=PAGE_TOKENS,
                model_name=model,
                storage_backend_extra_config=dict(extra),
            )
        self.host.kv_buffer.copy_(torch.randn(self.host.kv_buffer.shape).to(self.host.dtype))
        self._n_requests = 0

    @property
    def backend(self):
        return self.controller.storage_backend

    def backup(self, tokens):
        """Backs the pages of a prompt up from fresh host pages. Returns how many tokens were stored, and the pages."""
        indices = self.host.alloc(len(tokens))
        pages = self.pages(indices)
        hashes = get_storage_hash_str(tokens, None, page_size=PAGE_TOKENS)
        self.controller.write_storage(indices, tokens, hashes)
        operation = self.controller.ack_backup_queue.get(timeout=LIMIT_S)
        self.host.free(indices)
        return operation.completed_tokens, pages

    def prefetch(self, tokens):
        """Asks for a prompt and fetches what is there. Returns the tokens of the hit, and the pages that arrived."""
        self._n_requests += 1
        name = f"request-{self._n_requests}"
        self.controller.prefetch(name, tokens)
        operation = self.controller.prefetch_hit_queue.get(timeout=LIMIT_S)
        n_hit = operation.storage_hit_count
        if n_hit == 0:
            return 0, []
        indices = self.controller.alloc_prefetch_host_buffers(operation, n_hit)
        # Something else than what is expected, so that an answer without bytes shows.
        for page in self.pages(indices, copy=False):
            page.zero_()
        operation.host_indices = indices
        self.controller.prefetch_buffer.put(operation)
        n_arrived = 0
        while True:
            ack = self.controller.ack_prefetch_queue.get(timeout=LIMIT_S)
            if ack.completed_req:
                break
            n_arrived = ack.completed_tokens
        pages = self.pages(indices[:n_arrived])
        self.host.free(indices)
        return n_hit, pages

    def pages(self, indices, copy=True):
        """Returns the pages at these indices: copies or views."""
        firsts = range(0, len(indices), PAGE_TOKENS)
        pages = [self.host.get_data_page(indices[at], flat=False) for at in firsts]
        return [page.clone() for page in pages] if copy else pages

    def detach(self):
        self.controller.detach_storage_backend()
