"""kvtier in vLLM: a secondary tier of the offloading connector.

vLLM keeps evicted KV in its CPU tier, in shared memory. `KvtierTier` moves rows of that tier to kvtier's backends and
back, without a copy: backends read and write the shared memory itself, and what they deliver is verified on the way.

    {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": {
      "spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 10737418240, "block_size": 256,
      "secondary_tiers": [{"type": "KvtierTier", "module_path": "kvtier.vllm", "backends": "disk",
        "disk.module_path": "/opt/kv/fs.wasm", "disk.class_name": "FsBackend", "disk.config.root": "/data",
        "disk.allow.fs": ["/var/cache/kv:/data:rw"]}]}}

Invariants:
- vLLM's scheduler thread calls every method, between two steps. No method waits, except `drain_jobs` and `shutdown`.
- vLLM may reuse a row once the job's result has been returned. A result is returned when the outcome is known *and*
  the last transfer that uses one of the job's rows has ended, which may be later.
- No exception leaves a method, since vLLM's engine core would end, except from `drain_jobs` and `shutdown`, where the
  alternative would be memory that changes under a running transfer.
"""

import hashlib
import json
import logging
import queue
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

import numpy as np

try:
    import vllm
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading.canonical_mapping import canonical_format_id
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
    from vllm.v1.kv_offload.base import (
        Locality,
        LookupResult,
        Medium,
        OffloadingCounterMetadata,
        OffloadingGaugeMetadata,
        OffloadingMetricMetadata,
        ReqContext,
        RequestOffloadingContext,
        ScheduleEndContext,
    )
    from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob
except ImportError as error:
    raise ImportError(
        f"kvtier.vllm needs vLLM with secondary tiers for KV offloading, such as vLLM 0.32: {error}"
    ) from error

from kvtier._adapter import Guard, check_interface, guarded, open_storage
from kvtier._errors import CloseError
from kvtier._kvtier import Memory, Receipt, Storage
from kvtier._types import StorageMetadata, TierCounts

log = logging.getLogger("kvtier.vllm")

# Raised whenever the mapping of vLLM's keys or the meaning of the bytes of a row changes: what was stored before is
# then a miss.
MAPPING_VERSION = 1
TESTED_VERSIONS = ("0.32.*",)
# How long `drain_jobs` waits for transfers: far beyond every deadline of kvtier, so that it ends only if the operating
# system keeps a transfer from ending, as a network file system without its server does.
DRAIN_S = 300.0
# The same for `shutdown`, after kvtier was closed, and all its deadlines with it.
SHUTDOWN_S = 30.0
# Counters are read at most this often; vLLM asks after every step.
STATS_INTERVAL_S = 1.0
# The share of vLLM's CPU tier that may wait to be stored, unless `kvtier.put_queue_bytes` says otherwise. vLLM cannot
# evict these rows.
PUT_QUEUE_SHARE = 0.5

_METHODS = {
    "__init__": ("offloading_spec", "primary_kv_view", "tier_type", "backpressure_detector"),
    "lookup": ("key", "req_context"),
    "submit_store": ("job_metadata",),
    "submit_load": ("job_metadata",),
    "get_finished_jobs": (),
    "on_new_request": ("req_context",),
    "on_request_finished": ("req_context",),
    "on_schedule_end": ("context",),
    "drain_jobs": (),
    "shutdown": (),
    "get_stats": (),
    "build_metric_definitions": ("extra_config",),
}
_JOB_FIELDS = ("job_id", "keys", "chunk_ids", "is_promotion", "req_context", "submit_time")
_RESULT_FIELDS = ("job_id", "success", "successful_keys", "transfer_time", "transfer_bytes")


def check_vllm() -> None:
    """Raises `RuntimeMismatch` if the installed vLLM has another interface for secondary tiers."""
    version = vllm.__version__
    check_interface("vLLM", version, TESTED_VERSIONS, SecondaryTierManager, _METHODS)
    check_interface("vLLM", version, TESTED_VERSIONS, TransferJob, {"__init__": _JOB_FIELDS})
    check_interface("vLLM", version, TESTED_VERSIONS, JobResult, {"__init__": _RESULT_FIELDS})


class KvtierTier(SecondaryTierManager):  # type: ignore[misc]
    """A secondary tier whose storage is kvtier's chain of backends.

    The keys of its section in `secondary_tiers`, beside vLLM's own (`type`, `module_path`, `backpressure`,
    `locality`), are kvtier's: `backends`, `<backend>.*` and `kvtier.*`, or `config`. A wrong section, or another vLLM
    than the adapter knows, is an error at start.
    """

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        locality: str | None = None,
        **section: Any,
    ) -> None:
        check_vllm()
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.locality = Locality(locality) if locality is not None else None
        # Only the address is kept: a view of the view would keep vLLM from unmapping it.
        self._rows_address = np.asarray(primary_kv_view).ctypes.data
        self._n_rows, self._row_bytes = len(primary_kv_view), self.block_size_bytes
        self._storage = open_storage(
            section,
            where=f"secondary_tiers.{tier_type}",
            metadata=storage_metadata(offloading_spec.config, self._row_bytes),
            defaults={"kvtier.put_queue_bytes": int(primary_kv_view.nbytes * PUT_QUEUE_SHARE)},
        )
        self._guard = Guard(log)
        self._lookups = _Lookups(self._storage, self._guard)
        # Jobs whose outcome is not known or whose rows are still in use.
        self._open: dict[int, _Job] = {}
        self._finished: list[_Job] = []
        # Filled by kvtier's callbacks with a job for each thing that it waited for; emptied by vLLM's thread.
        self._ended: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._stats = _Stats(self._storage, self._guard)

    @guarded(LookupResult.MISS)
    def lookup(self, key: bytes, req_context: ReqContext) -> LookupResult:
        """Returns HIT or MISS if the answer for the key is known, and else RETRY: the answer is then on its way."""
        is_present = self._lookups.get(key, req_context.req_id)
        if is_present is None:
            return LookupResult.RETRY
        return LookupResult.HIT if is_present else LookupResult.MISS

    def submit_store(self, job_metadata: TransferJob) -> None:
        """Begins to store rows of the CPU tier."""
        self._submit(job_metadata, self._begin_store)

    def submit_load(self, job_metadata: TransferJob) -> None:
        """Begins to fetch chunks into rows of the CPU tier."""
        self._submit(job_metadata, self._begin_load)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """Returns the results of the jobs that have ended since the last call."""
        while True:
            try:
                self._take_note(self._ended.get_nowait())
            except queue.Empty:
                break
        finished, self._finished = self._finished, []
        return [self._result(job) for job in finished]

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """Returns vLLM's default: chunks are offered as they are computed."""
        return RequestOffloadingContext()

    @guarded()
    def on_request_finished(self, req_context: ReqContext) -> None:
        """Forgets the answers that only this request had asked for."""
        self._lookups.forget(req_context.req_id)

    @guarded()
    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """Asks the backends for all keys of this step that have no answer yet, in one call."""
        self._lookups.ask()

    def drain_jobs(self) -> None:
        """Waits until no transfer uses the CPU tier. The results are then returned by `get_finished_jobs`.

        Every call of a backend has a deadline, and so has this wait. Raises `RuntimeError` if a transfer does not end
        within `DRAIN_S`: its rows must not be given back, and vLLM has no other way to keep them.
        """
        self._wait(DRAIN_S, "vLLM's CPU tier cannot be emptied")

    def shutdown(self) -> None:
        """Closes kvtier, and waits until no transfer uses the CPU tier.

        Raises `RuntimeError` if a transfer does not end within `SHUTDOWN_S`: vLLM then keeps the memory mapped.
        """
        try:
            self._storage.close()
        except CloseError as error:
            log.warning("%s", error)
        self._wait(SHUTDOWN_S, "vLLM's CPU tier stays mapped")

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        """Returns the metrics that `get_stats` reports, by name."""
        counter, gauge = OffloadingCounterMetadata, OffloadingGaugeMetadata
        return {
            _PREFIX + name: (gauge if is_gauge else counter)(documentation=text, labelnames=labels)
            for name, (is_gauge, labels, text) in _METRICS.items()
        }

    @guarded()
    def get_stats(self) -> OffloadingConnectorStats | None:
        """Returns what kvtier has counted since the last call, at most once a second."""
        return self._stats.take()

    def _submit(self, transfer: TransferJob, begin: Any) -> None:
        # `keys` is a set in some jobs, and in step with `chunk_ids` only while one iterator walks over it.
        job = _Job(transfer.job_id, list(transfer.keys), transfer.is_promotion)
        self._open[job.job_id] = job
        try:
            keys, addresses = self._storage.keys(job.keys), self._addresses(transfer)
            memory = Memory.batch(addresses, self._row_bytes, job, self._ended.put)
            job.n_awaited += 1
            begin(job, keys, memory)
        except Exception as error:
            self._guard.failed("KvtierTier." + ("submit_load" if job.is_load else "submit_store"), error)
            job.n_awaited += 1
            self._ended.put(job)

    def _addresses(self, transfer: TransferJob) -> Any:
        rows = np.asarray(transfer.chunk_ids, dtype=np.int64)
        if len(rows) != len(transfer.keys):
            raise ValueError(f"a job has {len(transfer.keys)} keys and {len(rows)} rows")
        if len(rows) and (rows.min() < 0 or rows.max() >= self._n_rows):
            raise ValueError(f"a job names rows {rows.min()} to {rows.max()}, and there are {self._n_rows}")
        return self._rows_address + rows * self._row_bytes

    def _begin_load(self, job: "_Job", keys: bytes, memory: Sequence[Memory]) -> None:
        job.outcome = self._storage.futures.fetch_into(keys, memory)
        job.n_awaited += 1
        job.outcome.add_done_callback(lambda _: self._ended.put(job))

    def _begin_store(self, job: "_Job", keys: bytes, memory: Sequence[Memory]) -> None:
        # Not `put_lent` itself, which waits for room if `kvtier.on_full` is `wait`.
        queued = self._storage.futures.put_lent(keys, memory)
        job.n_awaited += 1

        def await_receipt(queued: Future[Receipt]) -> None:
            try:
                job.outcome = queued.result()
                job.outcome.add_done_callback(lambda _: self._ended.put(job))
            except Exception:  # closed in the meantime
                job.outcome = None
                self._ended.put(job)

        queued.add_done_callback(await_receipt)

    def _take_note(self, job: "_Job") -> None:
        job.n_awaited -= 1
        if job.n_awaited == 0 and self._open.pop(job.job_id, None) is not None:
            job.seconds = time.monotonic() - job.began
            self._finished.append(job)

    def _result(self, job: "_Job") -> JobResult:
        try:
            done = job.succeeded(self._row_bytes)
        except Exception as error:
            self._guard.failed("KvtierTier job", error)
            done = [False] * len(job.keys)
        n_bytes = sum(done) * self._row_bytes
        if all(done):
            return JobResult(job.job_id, True, transfer_time=job.seconds, transfer_bytes=n_bytes)
        successful = None
        if job.is_load:
            self._lookups.mark_absent(key for key, is_done in zip(job.keys, done) if not is_done)
            successful = tuple(key for key, is_done in zip(job.keys, done) if is_done) or None
        return JobResult(job.job_id, False, successful, job.seconds, n_bytes)

    def _wait(self, seconds: float, consequence: str) -> None:
        deadline = time.monotonic() + seconds
        while self._open:
            try:
                self._take_note(self._ended.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise RuntimeError(
                    f"{len(self._open)} transfers of kvtier still use vLLM's memory after {seconds:g} s: {consequence}"
                ) from None


class _Job:
    """A store or a load that vLLM has submitted."""

    __slots__ = ("began", "is_load", "job_id", "keys", "n_awaited", "outcome", "seconds")

    def __init__(self, job_id: int, keys: list[bytes], is_load: bool) -> None:
        self.job_id, self.keys, self.is_load = job_id, keys, is_load
        self.began, self.seconds = time.monotonic(), 0.0
        # The release of its memory, and its outcome. Only vLLM's thread counts.
        self.n_awaited = 0
        self.outcome: Future[list[Any]] | Receipt | None = None

    def succeeded(self, row_bytes: int) -> list[bool]:
        """Returns whether each key was stored or loaded, in the order of the keys. Does not wait: it has ended."""
        if self.outcome is None:  # it could not begin
            return [False] * len(self.keys)
        if isinstance(self.outcome, Receipt):
            return self.outcome.stored(timeout=0)
        return [found == row_bytes for found in self.outcome.result(timeout=0)]


class _Lookups:
    """Answers whether keys are present, without waiting: all new questions of a step become one call.

    Not vLLM's `AsyncLookupManager`, which makes one call for each request, on a thread that `shutdown` must wait for.
    An answer is kept as long as a request needs it, so that the scheduler sees the same one in each step.
    """

    def __init__(self, storage: Storage, guard: Guard) -> None:
        self._storage = storage
        self._guard = guard
        self._answers: dict[bytes, bool | None] = {}
        self._requests_of: dict[bytes, set[str]] = {}
        self._keys_of: dict[str, set[bytes]] = {}
        self._new: list[bytes] = []
        self._asked: list[tuple[list[bytes], Future[list[bool]]]] = []
        # Answers are taken once in a step: a prompt has many keys.
        self._is_first_of_step = True

    def get(self, key: bytes, request: str) -> bool | None:
        """Returns whether the key is present, or None if that is not known yet."""
        if self._is_first_of_step:
            self._is_first_of_step = False
            self._take_answers()
        requests = self._requests_of.get(key)
        if requests is None:
            self._answers[key] = None
            requests = self._requests_of[key] = set()
            self._new.append(key)
        if request not in requests:
            requests.add(request)
            self._keys_of.setdefault(request, set()).add(key)
        return self._answers[key]

    def ask(self) -> None:
        """Ends a step: sends the questions that have come up since the last call."""
        self._is_first_of_step = True
        new, self._new = [key for key in self._new if key in self._answers], []
        if not new:
            return
        try:
            self._asked.append((new, self._storage.futures.contains_each(self._storage.keys(new))))
        except Exception as error:
            self._guard.failed("KvtierTier.lookup", error)
            self.mark_absent(new)

    def mark_absent(self, keys: Iterable[bytes]) -> None:
        """Corrects the answers for keys that could not be loaded. Otherwise the scheduler would load them for ever."""
        for key in keys:
            if key in self._answers:
                self._answers[key] = False

    def forget(self, request: str) -> None:
        """Forgets what only this request needs."""
        for key in self._keys_of.pop(request, ()):
            requests = self._requests_of[key]
            requests.discard(request)
            if not requests:
                del self._requests_of[key], self._answers[key]

    def _take_answers(self) -> None:
        asked, self._asked = self._asked, []
        for keys, future in asked:
            if not future.done():
                self._asked.append((keys, future))
                continue
            try:
                found: Collection[bool] = future.result(timeout=0)
            except Exception as error:
                self._guard.failed("KvtierTier.lookup", error)
                found = [False] * len(keys)
            for key, is_present in zip(keys, found, strict=True):
                # Other than None: forgotten and asked again in between, and answered since, or marked absent.
                if self._answers.get(key, False) is None:
                    self._answers[key] = is_present


def storage_metadata(config: Any, row_bytes: int) -> StorageMetadata:
    """Returns what distinguishes the rows of this engine from those of others.

    `config` is vLLM's `OffloadingConfig`. A row has the shards of all workers, so their number and kind is part of the
    layout, unless vLLM says that the bytes do not depend on it. The index of the data-parallel replica is not: replicas
    share what they store.
    """
    parallel = config.parallel
    facts: dict[str, Any] = {
        "dtype": config.model.dtype,
        "tokens_per_hash": config.cache.tokens_per_hash,
        "blocks_per_chunk": config.cache.blocks_per_chunk,
        "row_bytes": row_bytes,
        "groups": [[group.group_id, group.tokens_per_block, list(group.layer_names)] for group in config.groups],
        "layout": config.kv_cache_layout,
        "canonical": canonical_format_id(config.kv_cache_layout) if config.canonical_layout else None,
        "is_replicated": config.replicated_layout,
    }
    if not (parallel.is_parallelism_agnostic or config.replicated_layout):
        sizes = ("world_size", "tp_size", "pp_size", "pcp_size", "dcp_size")
        facts["parallel"] = {name: getattr(parallel, name) for name in sizes}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return StorageMetadata(
        model_name=config.model.name,
        world_size=1,
        worker_id=0,
        layout=f"vllm tier v{MAPPING_VERSION} {config.model.dtype} {row_bytes} bytes {digest}",
        chunk_bytes_max=row_bytes,
    )


_PREFIX = "vllm:kv_offload_tiering_kvtier_"
# Name: whether it is a gauge, labels, documentation.
_METRICS: dict[str, tuple[bool, tuple[str, ...], str]] = {
    "chunks_read": (False, ("backend",), "Chunks that the backend delivered, verified."),
    "bytes_read": (False, ("backend",), "Bytes that the backend delivered, verified."),
    "chunks_stored": (False, ("backend",), "Chunks that the backend stored."),
    "bytes_stored": (False, ("backend",), "Bytes that the backend stored."),
    "misses": (False, ("backend", "reason"), "Chunks that the backend did not deliver."),
    "drops": (False, ("backend", "reason"), "Chunks given up before the backend was asked to store them."),
    "errors": (False, ("backend", "operation", "kind"), "Failed calls and failed chunks of the backend."),
    "restarts": (False, ("backend",), "Instances of the backend that were replaced."),
    "is_up": (True, ("backend",), "1 if the backend can serve now."),
    "adapter_failures": (False, (), "Calls of the adapter that failed and counted as misses."),
}


class _Stats:
    """The differences of kvtier's counters from one call to the next."""

    def __init__(self, storage: Storage, guard: Guard) -> None:
        self._storage = storage
        self._guard = guard
        self._before: dict[tuple[str, tuple[str, ...]], int] = {}
        self._taken_at = float("-inf")

    def take(self) -> OffloadingConnectorStats | None:
        now = time.monotonic()
        if now - self._taken_at < STATS_INTERVAL_S or self._storage.is_closed:
            return None
        self._taken_at = now
        stats, after = OffloadingConnectorStats(), self._read()
        for (name, labels), value in after.items():
            if _METRICS[name][0]:
                stats.set_gauge(_PREFIX + name, value, labels)
            elif value != self._before.get((name, labels), 0):
                stats.increase_counter(_PREFIX + name, value - self._before.get((name, labels), 0), labels)
        self._before = after
        return stats

    def _read(self) -> dict[tuple[str, tuple[str, ...]], int]:
        values: dict[tuple[str, tuple[str, ...]], int] = {("adapter_failures", ()): self._guard.n_failures}
        for tier in self._storage.counts():
            values.update(_values(tier))
        return values


def _values(tier: TierCounts) -> dict[tuple[str, tuple[str, ...]], int]:
    name = tier.name
    return {
        ("chunks_read", (name,)): tier.hits,
        ("bytes_read", (name,)): tier.bytes_read,
        ("chunks_stored", (name,)): tier.puts,
        ("bytes_stored", (name,)): tier.bytes_written,
        **{("misses", (name, reason)): n for reason, n in tier.misses.items()},
        **{("drops", (name, reason)): n for reason, n in tier.drops.items()},
        **{("errors", (name, operation, kind)): n for (operation, kind), n in tier.errors.items()},
        ("restarts", (name,)): tier.lane_restarts,
        ("is_up", (name,)): int(tier.is_up),
    }
