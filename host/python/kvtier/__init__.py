"""kvtier stores the KV cache of large language models in tiers: first the CPU's memory, then storage backends that
others wrote, each a WebAssembly component in a sandbox.

``Engine`` works on tokens, ``Storage`` on keys. ``kvtier.lmcache``, ``kvtier.lmcache_l2``, ``kvtier.vllm`` and
``kvtier.sglang`` are plugins for serving engines, and ``kvtier.components`` names the components that come with the
package.
"""

# Not when they are first used: another thread may fork in the middle of an import.
from kvtier import _lifecycle as _lifecycle
from kvtier import _views as _views
from kvtier import components as components
from kvtier._errors import (
    BuildError,
    ClosedError,
    CloseError,
    ConfigError,
    FlushError,
    KvtierError,
    RecreateError,
    RemoveError,
    RequestError,
    UnknownBackendError,
)
from kvtier._kvtier import (
    Allocation,
    Chunk,
    Engine,
    Memory,
    Miss,
    Missing,
    Offer,
    Prefix,
    Prompt,
    Receipt,
    Retrieved,
    Storage,
    Stored,
    __version__,
)
from kvtier._types import (
    BackendReceipt,
    BackendStatus,
    BreakerStatus,
    CpuStatus,
    EngineMetadata,
    Latency,
    Status,
    StorageMetadata,
    TierCounts,
)

__all__ = [
    "Allocation",
    "BackendReceipt",
    "BackendStatus",
    "BreakerStatus",
    "BuildError",
    "Chunk",
    "CloseError",
    "ClosedError",
    "ConfigError",
    "CpuStatus",
    "Engine",
    "EngineMetadata",
    "FlushError",
    "KvtierError",
    "Latency",
    "Memory",
    "Miss",
    "Missing",
    "Offer",
    "Prefix",
    "Prompt",
    "Receipt",
    "RecreateError",
    "RemoveError",
    "RequestError",
    "Retrieved",
    "Status",
    "Storage",
    "StorageMetadata",
    "Stored",
    "TierCounts",
    "UnknownBackendError",
    "__version__",
]
