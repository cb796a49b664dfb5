"""What an interval says of a claim. Every verdict of the ledger is given here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fastweights.report.section import Claim
from fastweights.report.statistics import Interval, mean_interval

QUALITATIVE, CONTROL, OURS = "qualitative", "— (control)", "—"  # in the place of published figures

BOUND_RULE = (
    "Verdicts come from the 95 % interval over seeds and the bound named in the row: “holds” if "
    "the whole interval keeps it, “does not hold” if none of it does, “undecided” if part of it "
    "does, or with a single seed."
)
SMALL = 0.02  # a difference in accuracy that would not change what anyone builds
EFFECT_RULE = (
    "Differences in test accuracy are taken seed by seed (same data, same seed) and given with "
    f"their 95 % bootstrap interval; where a control has a scale, the one with the best validation "
    f"accuracy is taken. “large” if the whole interval is above {100 * SMALL:g} points, “none” if "
    "it lies within that of zero, “negative” if it is below, otherwise “unclear”."
)
TOLERANCE = 0.5  # percentage points by which an interval may miss a published figure and agree


class Rule(Protocol):
    """Gives a verdict on an interval over seeds."""

    def verdict(self, interval: Interval) -> str: ...


@dataclasses.dataclass(frozen=True)
class Bound:
    """A claim that a number lies between two bounds.

    Attributes:
        at_least, at_most: the bounds.
        strict: whether the number must lie beyond the bounds and not on them.

    Example:
        >>> Bound(at_least=0.5).verdict(Interval(0.9, 0.8, 0.95, n=20))
        'holds'
        >>> Bound(at_least=0.85).verdict(Interval(0.9, 0.8, 0.95, n=20))
        'undecided'
        >>> Bound(at_most=0.5).verdict(Interval(0.9, 0.8, 0.95, n=20))
        'does not hold'
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    strict: bool = False

    def verdict(self, interval: Interval) -> str:
        """By `BOUND_RULE`."""
        low, high = interval.low, interval.high
        if low is None or high is None:
            return "undecided"
        if self.strict:
            keeps = self.at_least < low and high < self.at_most
        else:
            keeps = self.at_least <= low and high <= self.at_most
        if keeps:
            return "holds"
        return "does not hold" if high < self.at_least or low > self.at_most else "undecided"


@dataclasses.dataclass(frozen=True)
class EffectSize:
    """How large a difference in accuracy is.

    Example:
        >>> effect = EffectSize()
        >>> effect.verdict(Interval(0.6, 0.55, 0.65, n=10))
        'large'
        >>> effect.verdict(Interval(0.0, -0.01, 0.01, n=10))
        'none'
    """

    small: float = SMALL

    def verdict(self, interval: Interval) -> str:
        """By `EFFECT_RULE`."""
        if interval.low is None or interval.high is None:
            return "unclear"
        if interval.low > self.small:
            return "large"
        if interval.high < -self.small:
            return "negative"
        within = interval.low >= -self.small and interval.high <= self.small
        return "none" if within else "unclear"


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Whether a figure from elsewhere lies in our interval, or this near to it.

    Attributes:
        figure: the other's.
        tolerance: how far the interval may miss it by.
        below, above: verdicts where ours is lower and where it is higher.

    Example:
        >>> Agreement(0.943).verdict(Interval(0.95, 0.94, 0.96, n=30))
        'agrees'
        >>> Agreement(0.943).verdict(Interval(0.9, 0.89, 0.91, n=30))
        'below theory'
    """

    figure: float
    tolerance: float = 0.0
    below: str = "below theory"
    above: str = "above theory"

    def verdict(self, interval: Interval) -> str:
        """With a single seed, its value is the interval."""
        low, high = _ends(interval)
        if not (math.isfinite(low) and math.isfinite(high)):
            return "undecided"
        if self.figure < low - self.tolerance:
            return self.above
        return self.below if self.figure > high + self.tolerance else "agrees"


@dataclasses.dataclass(frozen=True)
class NearlyAsMuch:
    """A claim that one improvement nearly reaches another, on their ratio.

    Attributes:
        nearly: the ratio that is nearly 1.

    Example:
        >>> NearlyAsMuch(0.9).verdict(Interval(0.77, 0.75, 0.79, n=30))
        'in kind, not in size'
    """

    nearly: float

    def verdict(self, interval: Interval) -> str:
        """“undecided” if the interval contains the bound, or with a single seed."""
        low, high = interval.low, interval.high
        if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
            return "undecided"
        if low >= self.nearly:
            return "holds"
        if high >= self.nearly:
            return "undecided"
        return "in kind, not in size" if low > 0 else "does not hold"


@dataclasses.dataclass(frozen=True)
class Recovery:
    """A claim that what was lost comes back, on the share that did.

    Attributes:
        nearly: the share that is nearly all.

    Example:
        >>> Recovery(0.9).verdict(Interval(0.6, 0.55, 0.65, n=30))
        'returns in part'
    """

    nearly: float

    def verdict(self, interval: Interval) -> str:
        """By the lower end of the interval."""
        if interval.low is None or not math.isfinite(interval.low):
            return "undecided"
        if interval.low >= self.nearly:
            return "returns"
        return "returns in part" if interval.low > 0 else "lost"


def _ends(interval: Interval) -> tuple[float, float]:
    """Of the interval; its value, with a single seed."""
    if interval.low is None or interval.high is None:
        return interval.mean, interval.mean
    return interval.low, interval.high


def claim_of(
    words: str,
    published: str,
    values: npt.ArrayLike,
    rule: Rule,
    *,
    scale: float = 100,
    digits: int = 1,
) -> Claim:
    """A row of the ledger from one number per seed.

    Args:
        words: the claim, with the bound that it is judged by.
        published: the published figure, as printed.
        values: one number per seed, shape (seeds,).
        rule: which verdict.
        scale: what the printed figure is multiplied by; the rule sees the values as they are.
        digits: after the point.

    Raises:
        ValueError: there is no value, or one is not finite.

    Example:
        >>> row = claim_of("the LSTM is right (≥ 90 %)", "—", [0.93, 0.95], Bound(at_least=0.9))
        >>> row.ours, row.verdict
        ('94.0 [93.0, 95.0]', 'holds')
    """
    return claim_on(words, published, mean_interval(values), rule, scale=scale, digits=digits)


def claim_on(
    words: str,
    published: str,
    interval: Interval,
    rule: Rule,
    *,
    scale: float = 1,
    digits: int = 2,
) -> Claim:
    """A row of the ledger from an interval over seeds; as `claim_of`, but for the defaults."""
    return Claim(words, published, interval.text(digits, scale), interval.n, rule.verdict(interval))


def count_claim(words: str, published: str, kept: npt.ArrayLike, what: str = "") -> Claim:
    """A row of the ledger for a claim about every single network.

    Args:
        words: the claim.
        published: as printed.
        kept: whether each network keeps the claim, shape (networks,).
        what: follows the count.

    Example:
        >>> row = count_claim("all learn", "perfectly", [True, False], "networks learn")
        >>> row.ours, row.verdict
        ('1 of 2 networks learn', 'holds for 1 of 2')
    """
    count, n = int(np.sum(kept)), np.size(kept)
    verdict = "holds" if count == n else f"holds for {count} of {n}"
    return Claim(words, published, f"{count} of {n} {what}".strip(), n, verdict)


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
    rule = Agreement(published, tolerance, f"lower {what}", f"higher {what}")
    return claim_on(words, f"{published:g}", mean_interval(ours), rule)
