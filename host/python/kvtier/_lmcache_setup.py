"""Which LMCache is installed, and what its configuration says of a plugin, of keys and of memory objects.

The only module that knows how LMCache 0.3.x and 0.5.x differ in these.
"""

import importlib.metadata
import inspect
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from kvtier._adapter import RuntimeMismatch, check_interface
from kvtier._errors import ConfigError
from kvtier._lmcache_memory import ObjectLayout

try:
    import torch
    from lmcache.v1.memory_management import MemoryFormat, TensorMemoryObj
    from lmcache.v1.storage_backend import abstract_backend as _abstract
except ImportError as error:
    raise ImportError(f"kvtier.lmcache is loaded by LMCache, which cannot be imported here: {error}") from error

log = logging.getLogger("kvtier.lmcache")

BASE: Any = getattr(_abstract, "StoragePluginInterface", None) or getattr(
    _abstract, "ConfigurableStorageBackendInterface", None
)
VERSION = importlib.metadata.version("lmcache")
if BASE is None:
    raise RuntimeMismatch(
        f"this kvtier was written for LMCache 0.3.7 and 0.5.6, and LMCache {VERSION} is installed, "
        "which has no interface for storage plugins"
    )

# LMCache 0.3.x and 0.5.x differ in the names of settings and in a few signatures.
IS_03 = BASE.__name__ == "ConfigurableStorageBackendInterface"
LIST_KEY, PREFIX = ("external_backends", "external_backend") if IS_03 else ("storage_plugins", "storage_plugin")
_TESTED = ("0.3.7", "0.5.6")

_METHODS: dict[str, tuple[str, ...]] = {
    "__init__": ("dst_device", "config", "metadata", "local_cpu_backend", "loop"),
    "contains": ("key", "pin"),
    "exists_in_put_tasks": ("key",),
    "batched_submit_put_task": ("keys", "objs", "transfer_spec"),
    "get_blocking": ("key",),
    "batched_get_blocking": ("keys",),
    "batched_async_contains": ("lookup_id", "keys", "pin"),
    "batched_get_non_blocking": ("lookup_id", "keys", "transfer_spec"),
    "pin": ("key",),
    "unpin": ("key",),
    "remove": ("key", "force"),
    "batched_remove": ("keys", "force"),
    "get_allocator_backend": (),
    "close": (),
}
if not IS_03:
    _METHODS["batched_submit_put_task"] = ("keys", "objs", "transfer_spec", "on_complete_callback")
    _METHODS["batched_contains"] = ("keys", "pin")


def check_lmcache() -> None:
    """Raises `RuntimeMismatch` if LMCache has another interface than the plugin was written for."""
    check_interface("LMCache", VERSION, _TESTED, BASE, _METHODS)
    # Between the two, releases had a method of this name that returned a list.
    many = getattr(BASE, "batched_contains", None)
    returns = None if many is None else inspect.signature(many).return_annotation
    if returns not in ((None,) if IS_03 else (int, "int")):
        raise RuntimeMismatch(
            f"this kvtier was written for LMCache {' and '.join(_TESTED)}, and LMCache {VERSION} is installed, whose "
            f"batched_contains returns {returns}; install one of those"
        )


def section_of(config: Any, cls: Any) -> tuple[str, dict[str, Any]]:
    """Returns the name and the section of the plugin that is being made.

    LMCache does not tell a plugin its name, so it is the one whose section names this class.
    """
    extra: Mapping[str, Any] = config.extra_config or {}
    if cls._name is not None:
        name = cls._name
    else:
        listed = [str(name) for name in getattr(config, LIST_KEY, None) or []]
        ours = (cls.__module__, cls.__name__)
        names = [
            name
            for name in dict.fromkeys(listed)
            if (extra.get(f"{PREFIX}.{name}.module_path"), extra.get(f"{PREFIX}.{name}.class_name")) == ours
        ]
        if len(names) > 1:
            raise ConfigError(
                f"{LIST_KEY} has the kvtier plugins {' and '.join(names)}, and LMCache does not tell a plugin its "
                f"name: list all backends in one ({PREFIX}.{names[0]}.backends), or put the name into the class, as "
                f"in {PREFIX}.{names[0]}.class_name: KvtierBackend:{names[0]}"
            )
        if not names:
            raise ConfigError(
                f"no plugin of {LIST_KEY} has {PREFIX}.<name>.module_path: {ours[0]} and class_name: {ours[1]}"
            )
        name = names[0]
    prefix = f"{PREFIX}.{name}."
    section = {key.removeprefix(prefix): value for key, value in extra.items() if key.startswith(prefix)}
    for key, value in extra.items():
        if key == "kvtier" or key.startswith("kvtier."):
            if key in section:
                raise ConfigError(f"{key} is given twice, as {key} and as {prefix}{key}; keep one")
            section[key] = value
    return name, section


def check_settings(config: Any, name: str) -> None:
    """Refuses what cannot work, and warns of what looks as if it did."""
    listed = getattr(config, LIST_KEY, None) or []
    if IS_03 and config.enable_async_loading and len(set(listed)) > 1:
        raise ConfigError(
            f"with enable_async_loading, LMCache {VERSION} mixes up chunks if a tier other than the last has lost "
            f"one; list no other plugin beside {name} in {LIST_KEY}"
        )
    is_builtin = getattr(config, "pre_caching_hash_algorithm", None) == "builtin"
    advice = []
    if (IS_03 or is_builtin) and not os.environ.get("PYTHONHASHSEED", "random").isdigit():
        advice.append("set PYTHONHASHSEED=0")
    # Before Python 3.12 the hash of None was an address. Only LMCache 0.3.x hashes it.
    if IS_03 and is_builtin and sys.version_info < (3, 12):
        advice.append("set pre_caching_hash_algorithm to sha256_cbor_64bit")
    if advice:
        log.warning(
            "LMCache's keys differ from process to process here, so stored chunks are not found after a restart: %s",
            " and ".join(advice),
        )


def layout_tag(config: Any, metadata: Any) -> str:
    """Returns what, beside model and rank, decides what the bytes under LMCache's keys mean.

    "lmcache v1" is the version of the mapping from LMCache's keys to kvtier's (`key_name`).
    """
    shape = ",".join(str(extent) for extent in metadata.kv_shape)
    order = "2td" if config.use_layerwise and config.enable_blending else "t2d" if config.use_layerwise else "2ltd"
    mla = " mla" if metadata.use_mla else ""
    return f"lmcache v1 {str(metadata.kv_dtype).removeprefix('torch.')} [{shape}] {order}{mla}"


def chunk_layout(metadata: Any, cpu_backend: Any) -> ObjectLayout:
    """Returns the layout of objects that hold a whole chunk."""
    if hasattr(metadata, "get_shapes"):
        # With a number of tokens, because LMCache's own default may differ from the shape.
        shapes, dtypes = metadata.get_shapes(metadata.kv_shape[2]), metadata.get_dtypes()
    else:
        n_layers, n_kinds, n_tokens, n_heads, head_size = metadata.kv_shape
        shapes, dtypes = [torch.Size((n_kinds, n_layers, n_tokens, n_heads * head_size))], [metadata.kv_dtype]
    is_mla = bool(metadata.use_mla)
    return ObjectLayout(
        shapes,
        dtypes,
        MemoryFormat.KV_MLA_FMT if is_mla else MemoryFormat.KV_2LTD,
        # LMCache 0.3.x allocates objects of MLA models as KV_2LTD, and renames them when they are filled.
        also_fmt=MemoryFormat.KV_2LTD if is_mla else None,
        token_dim=2,
        takes_lists=not IS_03,
        takes_partial=_can_trim(cpu_backend),
    )


def layer_layout(config: Any, metadata: Any) -> ObjectLayout:
    """Returns the layout of objects that hold one layer of a chunk."""
    _, n_kinds, n_tokens, n_heads, head_size = metadata.kv_shape
    width = n_heads * head_size
    shape: tuple[int, ...]
    if metadata.use_mla:
        shape, fmt, token_dim = (n_tokens, width), MemoryFormat.KV_MLA_FMT, 0
    elif config.enable_blending:
        shape, fmt, token_dim = (n_kinds, n_tokens, width), MemoryFormat.KV_2TD, 1
    else:
        shape, fmt, token_dim = (n_tokens, n_kinds, width), MemoryFormat.KV_T2D, 0
    return ObjectLayout(
        [torch.Size(shape)],
        [metadata.kv_dtype],
        fmt,
        token_dim=token_dim,
        takes_lists=False,
        # Objects of layers are allocated together and padded to one size.
        takes_partial=True,
    )


def is_in_host_memory(obj: Any) -> bool:
    """Reports whether an object's bytes lie in the host's memory."""
    return isinstance(obj, TensorMemoryObj) and bool(obj.raw_data.device.type == "cpu")


def _can_trim(cpu_backend: Any) -> bool:
    """Reports whether objects of the pool can be made smaller. Those of a paged pool are used again as they are."""
    if cpu_backend is None:
        return True
    allocator = cpu_backend.get_memory_allocator()
    pool = getattr(allocator, "pin_allocator", None)
    return pool is not None and not hasattr(pool, "paged_buffers")


def key_name(key: Any) -> str:
    """Returns a name for LMCache's key that no other key has.

    LMCache's text of a key joins the values of tags without escaping them, so that they are added with their lengths.
    """
    name: str = key.to_string()
    if key.tags:
        name += "\n" + "".join(f"{len(str(part))}:{part}" for tag in key.tags for part in tag)
    return name
