"""The components that come with the package: WebAssembly files, to be named by ``module_path``."""

from __future__ import annotations

from pathlib import Path

_CLASSES = {
    "fs": "FsBackend",
    "log": "ExternalLogBackend",
    "memory": "LruMemoryBackend",
    "redis": "RedisBackend",
    "s3": "S3Backend",
}


def names() -> list[str]:
    """Returns the names of the components."""
    return sorted(_CLASSES)


def path(name: str) -> Path:
    """Returns the file of a component.

    Raises:
        LookupError: if the package has no component of the name
    """
    if name not in _CLASSES:
        raise LookupError(f"kvtier has no component {name!r}; it has {', '.join(names())}")
    return Path(__file__).absolute().parent / f"{name}.wasm"


def class_name(name: str) -> str:
    """Returns the class that a component exports, for ``class_name``.

    Raises:
        LookupError: if the package has no component of the name
    """
    path(name)
    return _CLASSES[name]
