"""Judges a runtime by the shape of its interface."""

import inspect
import logging
from collections.abc import Mapping, Sequence

from kvtier._errors import KvtierError

log = logging.getLogger("kvtier.adapter")


class RuntimeMismatch(KvtierError):
    """The installed serving runtime has another interface than the adapter was written for."""


_warned_of: set[tuple[str, str]] = set()


def check_interface(
    runtime: str,
    version: str,
    tested: Sequence[str],
    base: type,
    methods: Mapping[str, Sequence[str]],
) -> None:
    """Judges a runtime by the shape of the base class that an adapter derives from.

    `methods` has the parameters (without `self`) of each method that the adapter implements or uses, and at least
    all abstract ones. The runtime's methods must have exactly these.

    A known shape in a version that is not in `tested` is a warning, once in a process. A tested version is given as
    `0.5.6`, or as `0.5.*` for all with this beginning.

    Raises `RuntimeMismatch` with a sentence that names both versions.
    """
    difference = _difference(base, methods)
    if difference is not None:
        raise RuntimeMismatch(
            f"this kvtier was written for {runtime} {' and '.join(tested)}, and {runtime} {version} is installed: "
            f"{base.__name__}{difference}; install a kvtier that knows this version, or one of those"
        )
    if not any(_is_version(version, pattern) for pattern in tested) and (runtime, version) not in _warned_of:
        _warned_of.add((runtime, version))
        log.warning(
            "%s %s has the interface that kvtier knows, but kvtier was tested with %s only",
            runtime,
            version,
            " and ".join(tested),
        )


def _is_version(version: str, pattern: str) -> bool:
    return version.startswith(pattern[:-1]) if pattern.endswith("*") else version == pattern


def _difference(base: type, methods: Mapping[str, Sequence[str]]) -> str | None:
    for name in sorted(getattr(base, "__abstractmethods__", ())):
        if name not in methods:
            return f".{name} is a new abstract method"
    for name, expected in methods.items():
        method = getattr(base, name, None)
        if not callable(method):
            return f".{name} does not exist"
        try:
            found = tuple(inspect.signature(method).parameters)
        except (TypeError, ValueError):
            return f".{name} has no signature"
        found = found[1:] if found[:1] == ("self",) else found
        if found != tuple(expected):
            return f".{name} has the parameters ({', '.join(found)}) in place of ({', '.join(expected)})"
    return None
