"""Plain values: what an engine is built with, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EngineMetadata:
    """The model, and the shard of it, that an engine serves. All of it is part of every key.

    Attributes:
        model_name: the model's name in the serving engine
        kv_shape: ``(layers, 2, chunk_size, kv_heads, head_size)``, with 1 instead of 2 for MLA
        kv_dtype: element type, as in torch: ``bfloat16``, ``float16``, ``fp8_e4m3fn`` …
        world_size: number of workers that hold a shard of the model
        worker_id: index of this worker, in ``range(world_size)``
    """

    model_name: str
    kv_shape: Sequence[int]
    kv_dtype: str = "bfloat16"
    world_size: int = 1
    worker_id: int = 0


@dataclass(frozen=True)
class StorageMetadata:
    """What the chunks of a chain on keys are. All of it is part of every key that ``Storage.keys`` derives.

    Attributes:
        model_name: the model's name in the serving engine
        layout: a tag for the layout of the bytes: whatever distinguishes chunks that must not be mixed up
        chunk_bytes_max: size of the largest chunk in bytes
        world_size: number of workers that hold a shard of the model
        worker_id: index of this worker, in ``range(world_size)``
    """

    model_name: str
    layout: str
    chunk_bytes_max: int
    world_size: int = 1
    worker_id: int = 0


@dataclass(frozen=True)
class BackendReceipt:
    """What became of the chunks of a put in one backend.

    Attributes:
        backend: the backend's name
        stored: for each chunk, whether the backend has it
        outcomes: for each chunk, ``stored``, or what happened instead
    """

    backend: str
    stored: Sequence[bool]
    outcomes: Sequence[str]


@dataclass(frozen=True)
class CpuStatus:
    """The state of the CPU tier. Sizes are in bytes.

    Attributes:
        entries: chunks in the tier
        entry_bytes: sum of their payloads
        pinned_entries: chunks with at least one pin
        allocated_bytes: memory handed out, also for buffers and chunks that only others hold
        capacity_bytes: all memory
        evictions: chunks evicted to make room
        evict_failures: allocations that found no room and nothing to evict
    """

    entries: int
    entry_bytes: int
    pinned_entries: int
    allocated_bytes: int
    capacity_bytes: int
    evictions: int
    evict_failures: int


@dataclass(frozen=True)
class BreakerStatus:
    """Whether a backend is skipped because its calls fail. Times are in seconds.

    Attributes:
        state: ``closed`` (calls are admitted), ``open`` (none) or ``half-open`` (one, to try)
        since_s: time since the state last changed
        failures: failed calls among the last ones
        last_cause: cause of the last failure, however long ago
        retry_in_s: time until the next call is admitted
        opened: how often it opened
    """

    state: str
    since_s: float
    failures: int
    last_cause: str | None
    retry_in_s: float | None
    opened: int


@dataclass(frozen=True)
class BackendStatus:
    """The state of a backend. Sizes are in bytes.

    Attributes:
        name: the backend's name
        is_up: whether it can serve
        down: why it cannot
        bypassed: whether it is taken out of the chain
        puts_pending: chunks queued or being stored
        put_bytes_pending: memory that they hold
        pinned_keys: keys that lookups have pinned
        removals_owed: removals that it still has to be asked for
        reading: the breaker of lookups and retrievals
        writing: the breaker of stores and removals
        lane_restarts: instances retired and replaced
        guest_memory_bytes: linear memory of its instances
        host_memory_bytes: host memory held for its instances, as far as it is counted
    """

    name: str
    is_up: bool
    down: str | None
    bypassed: bool
    puts_pending: int
    put_bytes_pending: int
    pinned_keys: int
    removals_owed: int
    reading: BreakerStatus
    writing: BreakerStatus
    lane_restarts: int
    guest_memory_bytes: int
    host_memory_bytes: int


@dataclass(frozen=True)
class Status:
    """The state of a chain.

    Attributes:
        hot_cache: whether the CPU tier keeps chunks
        cpu: the CPU tier
        lookups_pinned: lookups that hold pins
        backends: the backends, in the chain's order
    """

    hot_cache: bool
    cpu: CpuStatus
    lookups_pinned: int
    backends: Sequence[BackendStatus]


@dataclass(frozen=True)
class Latency:
    """The latencies of calls, in seconds.

    Attributes:
        n: number of calls
        total_s: sum of their latencies
        buckets: for each bucket with calls, its upper bound and the calls in it
    """

    n: int
    total_s: float
    buckets: Sequence[tuple[float, int]]


@dataclass(frozen=True)
class TierCounts:
    """The counts of one tier so far. ``docs/operation.md`` describes each.

    Attributes:
        name: the tier's name; the CPU tier is ``cpu``
        hits: chunks served
        bytes_read: payload bytes served
        bytes_written: payload bytes stored
        puts: chunks stored
        misses: chunks asked for and not served, by reason
        errors: failed calls and chunks, by operation and kind
        drops: puts given up, by reason
        evictions: chunks evicted to make room; 0 for backends, which do not report theirs
        lane_restarts: instances retired and replaced
        guest_memory_bytes: linear memory of its instances now
        host_memory_bytes: host memory held for its instances now
        pins_expired: lookups whose pins expired
        shared: chunks that a retrieval got from a fetch that another one had begun
        is_up: whether the tier can serve now
        latency: latency of calls, by operation
    """

    name: str
    hits: int
    bytes_read: int
    bytes_written: int
    puts: int
    misses: Mapping[str, int]
    errors: Mapping[tuple[str, str], int]
    drops: Mapping[str, int]
    evictions: int
    lane_restarts: int
    guest_memory_bytes: int
    host_memory_bytes: int
    pins_expired: int
    shared: int
    is_up: bool
    latency: Mapping[str, Latency]
