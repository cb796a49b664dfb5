"""What the deblurring experiment says: ratios with intervals, and rows of the ledger.

Intervals are 95 % percentile bootstrap intervals over seeds, failed ones included.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fastweights.experiments.deblurring_model.config import CONDITIONS, Condition
from fastweights.experiments.deblurring_model.simulation import DeblurringResult, Rehearsal, Score
from fastweights.report.section import Claim
from fastweights.report.statistics import Interval, mean_interval
from fastweights.theory.transfer import retrained_set_ratio

__all__ = ["VERDICT_RULES", "RatioCurve", "claims", "gains", "improvement_ratio"]

NEARLY_AS_GOOD = 0.9  # of the retrained items' improvement: our reading of “very nearly”
RETURNED = 0.9  # of the bits that rehearsal took from the new pairs
CLOSE_TO_ZERO = 0.05  # of the slow weights' norm

VERDICT_RULES = (
    f"A ratio “holds” if its interval lies at or above {NEARLY_AS_GOOD}, holds “in kind, not in "
    "size” if the interval lies between 0 and that, is “undecided” if the interval contains that, "
    f"and otherwise “does not hold”. The new pairs “return” if at least {RETURNED:.0%} of the bits "
    "that rehearsal took come back (lower end of the interval), “return in part” if the interval "
    "lies above 0. A theoretical figure “agrees” if it lies in our interval. Fast weights are "
    f"“close to zero” below {CLOSE_TO_ZERO:.0%} of the slow weights' norm (upper end).",
)

Array = NDArray[np.float64]
Measure = Literal["error", "bits"]


@dataclasses.dataclass(frozen=True)
class RatioCurve:
    """Improvement of the unretrained over that of the retrained pairs, after each sweep.

    Attributes:
        ratio: of the means over seeds, (sweeps,).
        low, high: ends of the 95 % interval, (sweeps,); NaN when there is one seed.
        n: seeds.
    """

    ratio: Array
    low: Array
    high: Array
    n: int

    def at(self, sweep: int) -> Interval:
        """The ratio after this many sweeps, from 1."""
        low, high = float(self.low[sweep - 1]), float(self.high[sweep - 1])
        one = self.n == 1
        ratio = float(self.ratio[sweep - 1])
        return Interval(ratio, None if one else low, None if one else high, self.n)


def improvement_ratio(rehearsal: Rehearsal, measure: Measure = "error") -> RatioCurve:
    """The transfer of a rehearsal, sweep by sweep.

    .. math::
        r(t) = \\frac{\\sum_\\text{seeds} u(0) - u(t)}{\\sum_\\text{seeds} v(0) - v(t)}

    with u the error of the unretrained, v that of the retrained pairs (for bits: gains).

    Args:
        rehearsal: of one condition.
        measure: ``"error"``, mean \\|y − d\\|, or ``"bits"``, bits right.

    Returns:
        The ratio of means over seeds with its interval: 10,000 resamples of seeds, fixed seed.
    """
    unretrained = gains(rehearsal.unretrained, measure)
    retrained = gains(rehearsal.retrained, measure)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _ratio_of_means(unretrained, retrained, axis=0)
        n = len(unretrained)
        if n == 1:
            missing = np.full_like(ratio, np.nan)
            return RatioCurve(ratio, missing, missing, n)
        low, high = _intervals(unretrained.T, retrained.T)
    return RatioCurve(ratio, low, high, n)


def gains(score: Score, measure: Measure = "error") -> Array:
    """Improvement since before the first sweep, (seeds, sweeps)."""
    values = score.bits if measure == "bits" else -score.error
    return values[:, 1:] - values[:, :1]


def _ratio_of_means(u: Array, v: Array, axis: int) -> Array:
    ratio: Array = u.mean(axis=axis) / v.mean(axis=axis)
    return ratio


def _intervals(u: Array, v: Array) -> tuple[Array, Array]:
    """Lower and upper ends of the ratios of means, for rows of seeds."""
    low = _ratio_of_means(u, v, axis=1)
    high = low.copy()
    differ = (np.ptp(u, axis=1) > 0) | (np.ptp(v, axis=1) > 0)  # else nothing to resample
    if differ.any():
        low[differ], high[differ] = stats.bootstrap(
            (u[differ], v[differ]),
            _ratio_of_means,
            axis=-1,
            paired=True,
            vectorized=True,
            n_resamples=10_000,
            batch=1_000,  # fits a cache; the draws are the same
            confidence_level=0.95,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return low, high


def claims(result: DeblurringResult) -> list[Claim]:
    """Rows of the ledger: the paper's claim, ours, and whether it holds by `VERDICT_RULES`."""
    config, n = result.config, len(result.seeds)
    learned = int(result.learned.sum())
    share = mean_interval(100 * result.phases[1].fast_norm / result.phases[1].slow_norm)
    rows = [
        Claim(
            "after the first phase the network knows every association perfectly",
            "perfectly",
            f"{learned} of {n} networks have every bit right",
            n,
            "holds" if learned == n else f"holds for {learned} of {n}",
        ),
        Claim(
            "then the fast weights are very close to zero: their norm, % of the slow weights'",
            "very close to zero",
            share.text(),
            n,
            "holds" if _ends(share)[1] < 100 * CLOSE_TO_ZERO else "does not hold",
        ),
    ]
    total = config.associations
    for m in config.rehearsed:
        if ("fast", m) not in result.rehearsals:
            continue
        rehearsal = result.rehearsals["fast", m]
        panel = f"{m} of {total} rehearsed"
        curve = improvement_ratio(rehearsal)
        better = int((gains(rehearsal.unretrained)[:, 0] > 0).sum())
        words = "very nearly as good" if m == config.rehearsed[0] else "holds even if only 10 %"
        theory = retrained_set_ratio(m, 0.25)
        rows += [
            Claim(
                f"{panel}: unretrained items improve as much as retrained ones; ratio, sweep 1",
                words,
                curve.at(1).text(),
                n,
                _ratio_verdict(curve.at(1)),
            ),
            Claim(
                f"{panel}: that ratio against the linear theory",
                f"{theory:.3f}",
                curve.at(1).text(3),
                n,
                _agreement(curve.at(1), theory),
            ),
            Claim(
                f"{panel}: networks whose unretrained items improve at sweep 1",
                "—",
                f"{better} of {n}",
                n,
                "holds" if better == n else f"holds for {better} of {n}",
            ),
        ]
    returning: tuple[Condition, ...] = ("fast", "both", "slow-only")
    for condition in returning:
        key = (condition, config.rehearsed[0])
        if key in result.rehearsals:
            rows.append(_return_claim(result, result.rehearsals[key]))
    return rows


def _return_claim(result: DeblurringResult, rehearsal: Rehearsal) -> Claim:
    known = result.phases[2].new.bits[:, 0]
    worst, after = rehearsal.new.bits[:, -1], rehearsal.relaxed["new"].bits[:, -1]
    taken = known - worst
    text = f"bits {known.mean():.2f} → {worst.mean():.2f} → {after.mean():.2f}"
    if taken.mean() > 0 and len(taken) > 1:
        low, high = (float(end[0]) for end in _intervals((after - worst)[None], taken[None]))
        share = Interval(float((after - worst).mean() / taken.mean()), low, high, len(taken))
        text += f"; returned {share.text()}"
        verdict = "returns" if low >= RETURNED else "returns in part" if low > 0 else "lost"
    else:
        verdict = "undecided"
    return Claim(
        "as the fast weights decay the new associations return "
        f"({CONDITIONS[rehearsal.condition]}, {rehearsal.rehearsed} rehearsed)",
        "return" if rehearsal.condition == "fast" else "— (control)",
        text,
        len(known),
        verdict,
    )


def _ends(interval: Interval) -> tuple[float, float]:
    low = interval.mean if interval.low is None else interval.low
    high = interval.mean if interval.high is None else interval.high
    return low, high


def _ratio_verdict(ratio: Interval) -> str:
    low, high = _ends(ratio)
    if ratio.low is None or not np.isfinite([low, high]).all():
        return "undecided"
    if low >= NEARLY_AS_GOOD:
        return "holds"
    if high >= NEARLY_AS_GOOD and low > 0:
        return "undecided"
    return "in kind, not in size" if low > 0 else "does not hold"


def _agreement(ours: Interval, theory: float) -> str:
    low, high = _ends(ours)
    if low <= theory <= high:
        return "agrees"
    return "below theory" if high < theory else "above theory"
