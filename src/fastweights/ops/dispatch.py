"""Which backend runs a call, and the reason when one cannot."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping

import torch

from fastweights.ops import native

__all__ = ["choose_backend"]

logger = logging.getLogger("fastweights")


def choose_backend(
    requested: str, reasons: Mapping[str, Callable[[], str | None]], *, operation: str
) -> str:
    """The name of the backend to run.

    Args:
        requested: "auto" or a key of ``reasons``.
        reasons: for every backend, fastest first, a function that says why it cannot run this
            call, or returns None if it can.
        operation: what is run, for messages.

    Raises:
        ValueError: ``requested`` is not known, or cannot run this call; the message says why, and
            which can.

    Example:
        >>> choose_backend("auto", {"fast": lambda: "no GPU", "plain": lambda: None}, operation="f")
        'plain'
    """
    if requested != "auto":
        if requested not in reasons:
            known = ", ".join(map(repr, ["auto", *reasons]))
            raise ValueError(f"backend must be one of {known}, got {requested!r}")
        reason = reasons[requested]()
        if reason is not None:
            able = [name for name, why_not in reasons.items() if why_not() is None]
            can = f"; backend={able[0]!r} can" if able else ""
            raise ValueError(f"backend={requested!r} cannot run this {operation}: {reason}{can}")
        return requested
    refused: list[str] = []
    for name, why_not in reasons.items():
        reason = why_not()
        if reason is None:
            if not torch.compiler.is_compiling():  # which traces no logs, and warns of caches
                _say_once(operation, name, tuple(refused))
            return name
        if not torch.compiler.is_compiling() and reason == native.missing_reason():
            _warn_once(reason)
        refused.append(f"{name}: {reason}")
    raise ValueError(f"no backend can run this {operation}: {'; '.join(refused)}")


@functools.lru_cache(maxsize=256)
def _say_once(operation: str, chosen: str, refused: tuple[str, ...]) -> None:
    why = f" ({'; '.join(refused)})" if refused else ""
    logger.info("%s: backend %s%s", operation, chosen, why)


@functools.cache
def _warn_once(missing: str) -> None:
    logger.warning("fastweights runs without its fast kernels on this machine: %s", missing)
