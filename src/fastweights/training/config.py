"""Configurations: frozen dataclasses, changed from the command line by ``key=value``."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic

__all__ = ["ConfigError", "as_dict", "differences", "from_dict", "nearest", "with_overrides"]

C = TypeVar("C")


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

    Values are read as JSON where they are JSON (``[20, 50]``, ``1e-3``, ``true``), otherwise as
    text.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, or an impossible
            value.
    """
    values = as_dict(config)
    for override in overrides:
        key, separator, text = override.partition("=")
        key = key.strip()
        if not separator:
            raise ConfigError(f"--set takes key=value, got {override!r}")
        if key not in values:
            raise ConfigError(f"unknown key {key!r}: {nearest(key, sorted(values))}")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return from_dict(type(config), values)


def from_dict(kind: type[C], values: dict[str, Any]) -> C:
    """A configuration of ``kind`` from plain values, checked.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or an impossible value.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}: {nearest(key, known)}")
    try:
        # Through JSON, so that lists become tuples and yet "12" is no number.
        text = json.dumps(values)
        return pydantic.TypeAdapter(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or kind.__name__}: got {e['input']!r}, "
            f"but {e['msg'][0].lower()}{e['msg'][1:]}"
            for e in error.errors(include_url=False)
        ]
        raise ConfigError("; ".join(problems)) from None


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two configurations, a line each."""
    return [
        f"{key}: stored {stored.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(stored.keys() | now.keys())
        if stored.get(key) != now.get(key)
    ]
