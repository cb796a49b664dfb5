"""Configurations: frozen dataclasses, changed from the command line by ``key=value``."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic

__all__ = ["ConfigError", "as_dict", "differences", "from_dict", "nearest", "with_overrides"]

C = TypeVar("C")

# A configuration may have come from anyone; what is made of it must come to an end.
MAX_VALUES = 100  # of a list
MAX_INTEGER = 2**32


class ConfigError(ValueError):
    """A configuration that cannot be; the message says key, value and what is expected."""


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint with the closest known name and all of them.

    Example:
        >>> nearest("udpates", ["seeds", "updates"])
        "did you mean 'updates'? Known: seeds, updates"
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}"


def with_overrides(config: C, overrides: Sequence[str]) -> C:
    """``config`` with ``key=value`` strings applied and everything checked.

    A dot leads into a configuration inside the configuration. Values are read as JSON where they
    are JSON (``[20, 50]``, ``1e-3``, ``true``), otherwise as text; a list may also be written
    with commas alone (``20,50``).

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, or an impossible
            value.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     updates: int = 1000
        ...     decays: tuple[float, ...] = (0.9,)
        >>> with_overrides(Config(), ["updates=50", "decays=0.9,0.99"])
        Config(updates=50, decays=(0.9, 0.99))
        >>> with_overrides(Config(), ["update=50"])
        Traceback (most recent call last):
        ...
        fastweights.training.config.ConfigError: unknown key 'update': did you mean 'updates'? ...
    """
    values = as_dict(config)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set takes key=value, got {override!r}")
        holder, last = _find(values, key.strip())
        value = _read(text)
        if isinstance(holder[last], list) and not isinstance(value, list):
            value = [_read(part) for part in text.split(",")]
        holder[last] = value
    return from_dict(type(config), values)


def _find(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The dictionary that holds a dotted key, and the key's last part."""
    *path, last = key.split(".")
    holder: Any = values
    for part in path:
        holder = holder.get(part) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or last not in holder:
        raise ConfigError(f"unknown key {key!r}: {nearest(key, sorted(_names(values)))}")
    return holder, last


def _names(values: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        inner = _names(value, f"{prefix}{key}.") if isinstance(value, dict) else []
        names += inner or [prefix + key]
    return names


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def from_dict(kind: type[C], values: dict[str, Any]) -> C:
    """A configuration of ``kind`` from plain values, checked.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or an impossible value. Infinity and
            NaN are impossible everywhere, and so are very long lists and very large integers.
    """
    _check(kind, values)
    try:
        # Through JSON, so that lists become tuples and yet "12" is no number.
        text = json.dumps(values)
        return _adapter(typing.cast(Any, kind)).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        problems: dict[str, str] = {}
        for e in error.errors(include_url=False):
            # What follows the field's name in "loc" is pydantic's name for a branch of its type.
            place = ".".join(str(part) for part in e["loc"] if "-" not in str(part))
            problems.setdefault(
                place or kind.__name__,
                f"got {e['input']!r}, but {e['msg'][0].lower()}{e['msg'][1:]}",
            )
        raise ConfigError("; ".join(f"{k}: {v}" for k, v in problems.items())) from None


@functools.lru_cache(maxsize=64)
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)  # slow to make


def _check(kind: Any, values: Any, prefix: str = "") -> None:
    """Refuse what pydantic would let pass: keys nobody knows, values without a bound."""
    if isinstance(values, float) and not math.isfinite(values):
        raise ConfigError(f"{prefix[:-1]}: got {values}, but input should be a finite number")
    if isinstance(values, int) and abs(values) > MAX_INTEGER:
        raise ConfigError(f"{prefix[:-1]}: an integer may be at most {MAX_INTEGER} in size")
    if isinstance(values, list):
        if len(values) > MAX_VALUES:
            raise ConfigError(
                f"{prefix[:-1]}: got {len(values)} values, but a list has at most {MAX_VALUES}"
            )
        for item in values:
            _check(None, item, prefix)
    if not isinstance(values, dict):
        return
    hints = {}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = [field.name for field in dataclasses.fields(kind)]
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown key {prefix + key!r}: {nearest(key, known)}")
    for key, value in values.items():
        _check(hints.get(key), value, f"{prefix}{key}.")


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two configurations, a line each.

    Example:
        >>> differences({"updates": 50, "seed": 0}, {"updates": 60, "seed": 0})
        ['updates: stored 50, now 60']
    """
    return [
        f"{key}: stored {stored.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(stored.keys() | now.keys())
        if stored.get(key) != now.get(key)
    ]
