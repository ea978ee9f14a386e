"""kvtier's section of a runtime's configuration."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from kvtier._errors import ConfigError
from kvtier._kvtier import Storage
from kvtier._types import StorageMetadata

_BACKEND_NAME = re.compile("[A-Za-z0-9_-]{1,64}")
_NAMES_SHOWN_MAX = 16
_RESERVED_NAMES = ("backends", "config", "kvtier")


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
