"""How our figures look."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

__all__ = ["ARM_STYLES", "new_figure"]

# Okabe & Ito's colours, which most colour-blind people can tell apart; line styles for the rest.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
ARM_STYLES: Sequence[tuple[str, str]] = tuple(
    (colour, style) for style in ("-", "--", ":", "-.") for colour in _COLOURS
)


def new_figure(width: float = 7.2, height: float = 4.2) -> Figure:
    """An empty figure, in inches, on white; not known to pyplot, so nothing needs closing."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")
