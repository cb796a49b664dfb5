"""Ours beside a published figure."""

from __future__ import annotations

from collections.abc import Sequence

from fastweights.report.section import Claim
from fastweights.report.statistics import mean_interval

__all__ = ["TOLERANCE", "beside_published"]

# How far our interval may miss the published figure by, in percentage points, to agree with it.
TOLERANCE = 0.5


def beside_published(
    words: str,
    published: float,
    ours: Sequence[float],
    what: str,
    tolerance: float = TOLERANCE,
) -> Claim:
    """A row of the ledger for a published percentage.

    Args:
        words: what is claimed.
        published: the published figure.
        ours: one for each seed.
        what: "error" or "accuracy", for the verdict.
        tolerance: how far our interval may miss the published figure by, to agree with it.

    Example:
        >>> beside_published("LSTM", 60.81, [7.0, 7.5], "error").verdict
        'lower error'
    """
    interval = mean_interval(ours)
    low = interval.mean if interval.low is None else interval.low
    high = interval.mean if interval.high is None else interval.high
    verdict = "agrees"
    if published < low - tolerance:
        verdict = f"higher {what}"
    elif published > high + tolerance:
        verdict = f"lower {what}"
    return Claim(words, f"{published:g}", interval.text(), interval.n, verdict)
