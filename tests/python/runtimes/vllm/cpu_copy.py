"""STAND-IN for one part of vLLM: the copy between the device's KV cache and vLLM's CPU tier.

vLLM's own `CPUOffloadingWorker` wants a CUDA or XPU tensor. On a machine without one, `CpuCopySpec` copies with torch.
Everything else in the tests is vLLM's own: the connector, the scheduler, `TieringOffloadingManager`, the CPU tier in
shared memory, the loader of secondary tiers.
"""

import torch
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class CpuCopyWorker(OffloadingWorker):
    """Copies blocks of the "device", which is the CPU here, from and to chunks of the shared region, at once.

    With `zero_loads` loaded blocks are filled with zeros instead: the control that shows that the tokens of a test
    depend on what was loaded.
    """

    def __init__(self, kv_caches, blocks_per_chunk, region, zero_loads):
        self.region, self.n, self.zero_loads, self.finished = region, blocks_per_chunk, zero_loads, []
        self.pages = [
            (
                t.tensor.view(torch.int8).view(-1, t.page_size_bytes),
                region.create_next_worker_view(t.page_size_bytes * self.n),
            )
            for t in kv_caches.tensors
        ]

    def _pieces(self, device, host):
        """Yields a view of the device and one of the host for each block and tensor."""
        # The first block may start within a chunk.
        first = device.block_indices[0]
        for at, block in enumerate(device.block_ids, start=first):
            chunk = int(host.block_ids[at // self.n - first // self.n])
            for blocks, chunks in self.pages:
                n_bytes = blocks.shape[1]
                yield blocks[int(block)], chunks[chunk, at % self.n * n_bytes : (at % self.n + 1) * n_bytes]

    def submit_store(self, job_id, src_spec, dst_spec):
        for device, host in self._pieces(src_spec, dst_spec):
            host.copy_(device)
        self.finished.append(TransferResult(job_id, True))
        return True

    def submit_load(self, job_id, src_spec, dst_spec):
        for device, host in self._pieces(dst_spec, src_spec):
            device.zero_() if self.zero_loads else device.copy_(host)
        self.finished.append(TransferResult(job_id, True))
        return True

    def get_finished(self):
        finished, self.finished = self.finished, []
        return finished

    def wait(self, job_ids):
        pass

    def shutdown(self):
        self.pages.clear()
        self.region.cleanup()


class CpuCopySpec(TieringOffloadingSpec):
    """vLLM's `TieringOffloadingSpec`, with `CpuCopyWorker` as its worker."""

    def get_worker(self, kv_caches):
        if not self._worker:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=0,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            zero_loads = bool(self.extra_config.get("zero_loads"))
            self._worker = CpuCopyWorker(kv_caches, self.blocks_per_chunk, region, zero_loads)
        return self._worker
