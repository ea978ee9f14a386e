"""A secondary tier in plain Python, as somebody might write one, with one thing wrong. The controls of the tests: what
such a tier does to vLLM, a misbehaving component behind kvtier must not do.
"""

import time

import numpy as np
from vllm.v1.kv_offload.base import LookupResult, Medium, RequestOffloadingContext
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager


class PythonTier(SecondaryTierManager):
    """Keeps chunks in a dictionary. `wrong`: None; "raise" in lookups; "sleep" `seconds` in lookups and stores;
    "flip" one bit of each chunk that is loaded.
    """

    medium = Medium.STORAGE

    def __init__(
        self, offloading_spec, primary_kv_view, tier_type, backpressure_detector=None, wrong=None, seconds=0.0
    ):
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.wrong, self.seconds, self.chunks, self.finished = wrong, seconds, {}, []

    def lookup(self, key, req_context):
        if self.wrong == "raise":
            raise OSError("the store does not answer")
        self._sleep()
        return LookupResult.HIT if key in self.chunks else LookupResult.MISS

    def submit_store(self, job_metadata):
        self._sleep()
        rows = np.asarray(self._primary_kv_view)
        for key, row in zip(job_metadata.keys, job_metadata.chunk_ids):
            self.chunks[key] = rows[row].copy()
        self.finished.append(JobResult(job_metadata.job_id, True))

    def submit_load(self, job_metadata):
        rows = np.asarray(self._primary_kv_view)
        for key, row in zip(job_metadata.keys, job_metadata.chunk_ids):
            rows[row] = self.chunks[key]
            if self.wrong == "flip":
                # The highest bit of the exponent of one value in the middle.
                rows[row, rows.shape[1] // 2 + 1] ^= 0x40
        self.finished.append(JobResult(job_metadata.job_id, True))

    def get_finished_jobs(self):
        finished, self.finished = self.finished, []
        return finished

    def on_new_request(self, req_context):
        return RequestOffloadingContext()

    def drain_jobs(self):
        pass

    def _sleep(self):
        if self.wrong == "sleep":
            time.sleep(self.seconds)
