"""What the adapters for LMCache, vLLM and SGLang share: configuration, interface checks, guards, pins.

Nothing here imports a serving runtime.
"""

import difflib
import functools
import inspect
import logging
import os
import re
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from kvtier._errors import ConfigError, KvtierError
from kvtier._kvtier import Storage
from kvtier._types import StorageMetadata

log = logging.getLogger("kvtier.adapter")

_BACKEND_NAME = re.compile("[A-Za-z0-9_-]{1,64}")
_NAMES_SHOWN_MAX = 16
_RESERVED_NAMES = ("backends", "config", "kvtier")


class RuntimeMismatch(KvtierError):
    """The installed serving runtime has another interface than the adapter was written for."""


# --- Configuration -------------------------------------------------------------------------------------------------


def read_section(
    section: Mapping[str, Any],
    *,
    where: str,
    defaults: Mapping[str, Any] | None = None,
    own: Iterable[str] = (),
) -> tuple[str | None, dict[str, Any] | None]:
    """Reads kvtier's section of a runtime's configuration: the same rule for all runtimes.

    The section has either `config`, the path of a configuration file of kvtier, and nothing else; or `backends`, the
    names of the backends in search order (a list, or text with commas), the settings of each backend as
    `<name>.<key>`, and optionally settings of kvtier as `kvtier.<key>`. Keys may be dotted, nested, or both.

    `where` is the place of the section in the runtime's configuration, and begins every message. `defaults` holds
    settings of kvtier (`kvtier.<key>`) for keys that the section does not have; a configuration file is not changed by
    them. `own` names the keys that the adapter itself reads: they are left out.

    Returns the path of the file and None, or None and the configuration as `Storage.from_dict` takes it.

    Raises `ConfigError`, which names the key and says what to do. The values of backends' settings are judged later,
    by `Storage`.
    """
    own = tuple(own)
    flat = _flatten(section, where)
    for key in own:
        flat.pop(key, None)
    if "config" in flat:
        path = flat.pop("config")
        if not isinstance(path, (str, PathLike)) or not str(path).strip():
            raise ConfigError(f"{where}.config: expected the path of a configuration file of kvtier, found {path!r}")
        if flat:
            other = _listed(f"{where}.{key}" for key in flat)
            raise ConfigError(f"{where}.config names a file, which then has all settings; move {other} there")
        return str(path), None
    names = _backend_names(flat, where)
    extra: dict[str, Any] = dict(defaults or {})
    for key, value in flat.items():
        first, _, rest = key.partition(".")
        if first == "kvtier" and rest:
            extra[key] = value
        elif first in names and rest:
            extra[f"external_backend.{key}"] = value
        elif first == "kvtier":
            raise ConfigError(f"{where}.kvtier: expected settings such as {where}.kvtier.on_full, found {value!r}")
        elif first in names:
            raise ConfigError(f"{where}.{key}: expected settings such as {where}.{key}.module_path, found {value!r}")
        else:
            raise _unknown_key(key, where, [*names, "kvtier", "backends", "config", *own])
    return None, {"external_backends": list(names), "extra_config": extra}


def open_storage(
    section: Mapping[str, Any],
    *,
    where: str,
    metadata: StorageMetadata,
    defaults: Mapping[str, Any] | None = None,
    own: Iterable[str] = (),
    base_dir: str | PathLike[str] = ".",
) -> Storage:
    """Returns the storage that a section of a runtime's configuration describes, without a CPU tier.

    The environment is empty on purpose: `LMCACHE_*` variables belong to LMCache. Relative paths start at `base_dir`.

    Raises `ConfigError` for a wrong section (see `read_section`), with the names that keys have in the runtime's
    configuration, and `BuildError` where `kvtier.on_load_error` is `fail` and a backend does not load.
    """
    path, config = read_section(section, where=where, defaults=defaults, own=own)
    if path is not None:
        return Storage.from_file(os.path.join(base_dir, path), metadata, cpu_tier=False, env={})
    assert config is not None
    try:
        return Storage.from_dict(config, metadata, cpu_tier=False, base_dir=base_dir, env={})
    except ConfigError as error:
        raise ConfigError(f"{where}: {_runtime_names(str(error), where)}") from None


def _flatten(section: object, where: str) -> dict[str, Any]:
    """Returns the leaves of nested mappings under dotted keys."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: expected a mapping of keys to values, found {section!r}")
    flat: dict[str, Any] = {}

    def walk(mapping: Mapping[Any, Any], prefix: str) -> None:
        for key, value in mapping.items():
            if not isinstance(key, str) or not key:
                raise ConfigError(f"{where}: a key must be text, found {key!r}")
            name = prefix + key
            if isinstance(value, Mapping):
                walk(value, name + ".")
            elif name in flat:
                raise ConfigError(f"{where}.{name} is given twice, dotted and nested; keep one")
            else:
                flat[name] = value

    walk(section, "")
    return flat


def _backend_names(flat: dict[str, Any], where: str) -> list[str]:
    listed = flat.pop("backends", None)
    if listed is None:
        sections = [key.removesuffix(".module_path") for key in flat if key.endswith(".module_path")]
        advice = ", ".join(sections) or "disk"
        raise ConfigError(
            f"{where}.backends is missing: it lists the backends in search order, for example "
            f'"{advice}" (or {where}.config names a configuration file of kvtier)'
        )
    items = listed.split(",") if isinstance(listed, str) else listed
    if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
        raise ConfigError(f"{where}.backends: expected names, as a list or as text with commas, found {listed!r}")
    names = [item.strip() for item in items if item.strip()]
    if not names:
        raise ConfigError(f"{where}.backends lists no backend")
    for name in names:
        if not _BACKEND_NAME.fullmatch(name):
            raise ConfigError(f"{where}.backends: {name!r} cannot name a backend; use 1 to 64 letters, digits, _ or -")
        if name in _RESERVED_NAMES:
            raise ConfigError(f"{where}.backends: {name!r} is the name of a setting; choose another name")
        if names.count(name) > 1:
            raise ConfigError(f"{where}.backends lists {name!r} twice")
    return names


def _unknown_key(key: str, where: str, known: Sequence[str]) -> ConfigError:
    first, dot, rest = key.partition(".")
    near = difflib.get_close_matches(first, known, n=1)
    if near:
        advice = f"did you mean {where}.{near[0]}{dot}{rest}?"
    elif rest.endswith("module_path") or rest == "class_name":
        advice = f"to use a backend of this name, list it in {where}.backends"
    else:
        advice = f"known are {_listed(dict.fromkeys(known))}"
    return ConfigError(f"{where}: unknown key {where}.{key}; {advice}")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:_NAMES_SHOWN_MAX])
    more = len(names) - _NAMES_SHOWN_MAX
    return f"{shown} and {more} more" if more > 0 else shown


def _runtime_names(message: str, where: str) -> str:
    """Replaces kvtier's names of keys by those of the runtime's configuration."""
    message = message.removeprefix("configuration text: ").removeprefix("configuration: ")
    return message.replace("extra_config.", "").replace("external_backend.", f"{where}.")


# --- The interface of the runtime ----------------------------------------------------------------------------------

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


# --- Failures ------------------------------------------------------------------------------------------------------


class Guard:
    """Counts the exceptions of an adapter's methods, and logs them at most once a second."""

    def __init__(
        self, logger: logging.Logger, *, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._n_failures = 0
        self._n_unlogged = 0
        self._logged_at: float | None = None

    @property
    def n_failures(self) -> int:
        """How many calls have failed since the start."""
        return self._n_failures

    def failed(self, what: str, error: BaseException) -> None:
        """Takes note of a failure. Never raises."""
        with self._lock:
            self._n_failures += 1
            now = self._clock()
            if self._logged_at is not None and now - self._logged_at < self._interval_s:
                self._n_unlogged += 1
                return
            self._logged_at = now
            n_unlogged, self._n_unlogged = self._n_unlogged, 0
        more = f" ({n_unlogged} more failures since the last message)" if n_unlogged else ""
        self._logger.error("%s failed and counts as a miss: %s: %s%s", what, type(error).__name__, error, more)
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug("".join(traceback.format_exception(error)))


def guarded(answer: Any = None, *, make: Callable[..., Any] | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Makes a method answer in the place of an exception: with `answer`, or with what `make` returns.

    `make` gets the method's arguments, without `self`. The object has its `Guard` as `_guard`. Works for coroutine
    methods as well. `KeyboardInterrupt`, `SystemExit` and cancellation pass.
    """

    def answered(self: Any, what: str, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._guard.failed(what, error)
        return answer if make is None else make(*args, **kwargs)

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        what = method.__qualname__
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
                try:
                    return await method(self, *args, **kwargs)
                except Exception as error:
                    return answered(self, what, error, args, kwargs)

            return call_async

        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                return answered(self, what, error, args, kwargs)

        return call

    return wrap


# --- Pins ----------------------------------------------------------------------------------------------------------


class LookupPins:
    """Pins per key, made of kvtier's pins per lookup.

    A lookup pins all keys that it found under one id, and kvtier takes that id back as a whole. Runtimes give keys
    back one by one. This class counts: an id is given back when each of its keys has been given back. Keys that
    never are given back expire after `expiry_s`, and beyond `lookups_max` the oldest lookups are given back.
    """

    def __init__(
        self,
        unpin: Callable[[str], object],
        *,
        prefix: str = "lookup",
        expiry_s: float = 300.0,
        lookups_max: int = 65536,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unpin = unpin
        self._prefix = prefix
        self._expiry_s = expiry_s
        self._lookups_max = lookups_max
        self._clock = clock
        self._lock = threading.Lock()
        self._n_lookups = 0
        # Lookup id -> when it expires, keys with how often they are still held.
        self._held: OrderedDict[str, tuple[float, dict[Hashable, int]]] = OrderedDict()
        # Key -> lookup ids that hold it, oldest first, once for each time.
        self._holders: dict[Hashable, OrderedDict[str, None]] = {}

    def new_id(self) -> str:
        """Returns an id for the next lookup, which no lookup of this process had."""
        with self._lock:
            self._n_lookups += 1
            return f"{self._prefix}-{id(self):x}-{self._n_lookups}"

    def hold(self, lookup_id: str, keys: Iterable[Hashable]) -> None:
        """Takes note of the keys that were pinned under an id. Without keys there is nothing to note."""
        now = self._clock()
        with self._lock:
            counts: dict[Hashable, int] = {}
            if lookup_id in self._held:
                # Again under the same id: kvtier gives both back at once.
                counts = self._held.pop(lookup_id)[1]
            for key in keys:
                counts[key] = counts.get(key, 0) + 1
                self._holders.setdefault(key, OrderedDict())[lookup_id] = None
            if counts:
                self._held[lookup_id] = (now + self._expiry_s, counts)
            over = self._take_expired(now)
        self._give_back(over)

    def release(self, key: Hashable) -> bool:
        """Gives back one pin of a key, the oldest. Reports whether there was one."""
        with self._lock:
            holders = self._holders.get(key)
            if not holders:
                return False
            lookup_id = next(iter(holders))
            counts = self._held[lookup_id][1]
            counts[key] -= 1
            if counts[key] > 0:
                return True
            del counts[key]
            self._drop_holder(key, lookup_id)
            if counts:
                return True
            del self._held[lookup_id]
        self._give_back([lookup_id])
        return True

    def release_lookup(self, lookup_id: str) -> bool:
        """Gives back all that one lookup still holds. Reports whether it held anything."""
        with self._lock:
            found = self._take(lookup_id)
        if found:
            self._give_back([lookup_id])
        return found

    def release_all(self) -> None:
        """Gives back everything."""
        with self._lock:
            ids = list(self._held)
            self._held.clear()
            self._holders.clear()
        self._give_back(ids)

    def __len__(self) -> int:
        """How many lookups hold keys."""
        return len(self._held)

    def _take_expired(self, now: float) -> list[str]:
        # All lookups have the same time to live, so the first is the first to expire.
        over = []
        while self._held:
            lookup_id, (expires_at, _) = next(iter(self._held.items()))
            if expires_at > now and len(self._held) <= self._lookups_max:
                break
            self._take(lookup_id)
            over.append(lookup_id)
        return over

    def _take(self, lookup_id: str) -> bool:
        held = self._held.pop(lookup_id, None)
        if held is None:
            return False
        for key in held[1]:
            self._drop_holder(key, lookup_id)
        return True

    def _drop_holder(self, key: Hashable, lookup_id: str) -> None:
        holders = self._holders[key]
        holders.pop(lookup_id, None)
        if not holders:
            del self._holders[key]

    def _give_back(self, lookup_ids: Iterable[str]) -> None:
        for lookup_id in lookup_ids:
            self._unpin(lookup_id)
