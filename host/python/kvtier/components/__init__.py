"""The components that come with the package: WebAssembly files, to be named by ``module_path``."""

from __future__ import annotations

from os import PathLike, fspath
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


def settings(name: str, backend: str, folder: str | PathLike[str] | None = None) -> dict[str, object]:
    """Returns the keys of ``extra_config`` that make a component the backend of the name ``backend``.

    ``fs`` stores its chunks in ``folder``, which must exist; the others take none. What a component needs beyond that,
    such as the address of a Redis server, is to be added.

    Raises:
        LookupError: if the package has no component of the name
        ValueError: if ``fs`` has no folder, or another component has one
    """
    keys: dict[str, object] = {"module_path": str(path(name)), "class_name": class_name(name)}
    if (name == "fs") != (folder is not None):
        raise ValueError("fs needs a folder" if name == "fs" else f"{name} stores nothing in a folder")
    if folder is not None:
        keys |= {"config.root": "/data", "allow.fs": [f"{fspath(folder)}:/data:rw"]}
    return {f"external_backend.{backend}.{key}": value for key, value in keys.items()}
