"""What the priming experiment says: rows of the ledger and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastweights.experiments.other_uses.shared import CONTROL, QUALITATIVE, ledger_row
from fastweights.experiments.priming_study.config import PrimingConfig
from fastweights.experiments.priming_study.networks import ARMS
from fastweights.lab.experiment import Result
from fastweights.report.section import Claim, Table
from fastweights.report.statistics import mean_interval

__all__ = ["benefit", "by_arm", "claims", "tables", "threshold"]

Values = Sequence[Mapping[str, Any]]  # of the finished runs of an arm
PRIMED, SHIFT = 0.02, 0.01  # bounds of the claims


def by_arm(results: Sequence[Result]) -> dict[str, list[dict[str, Any]]]:
    """The values of the finished runs of each arm."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        values = found.setdefault(result.unit.arm, [])
        if result.values is not None:
            values.append(result.values)
    return {arm: values for arm, values in found.items() if values}


def benefit(
    values: Values, kind: str = "clean", observer: str = "network", curve: str = "delay"
) -> npt.NDArray[np.float64]:
    """Accuracy primed less unprimed, (seeds, points of the curve)."""
    found = [v[observer][curve] for v in values]
    return np.array([np.subtract(c[f"primed, {kind}"], c[f"unprimed, {kind}"]) for c in found])


def threshold(noises: Sequence[float], accuracies: Sequence[float]) -> float:
    """The noise at which half of the words are recognised, between the points in a straight line.

    Where the curve does not reach a half, the end of it that is nearer.

    Example:
        >>> round(threshold([0.1, 0.2, 0.3], [0.9, 0.6, 0.4]), 3)
        0.25
    """
    # np.interp wants rising abscissae.
    return float(np.interp(0.5, accuracies[::-1], noises[::-1]))


def claims(config: PrimingConfig, results: Sequence[Result]) -> list[Claim]:
    """Rows of the ledger; the bound that a row is judged by stands in its words."""
    arms, at = by_arm(results), config.between.index(config.fixed_between)
    ago = f"{config.fixed_between} patterns between"
    noise = f"{100 * config.probe_noise:g} % of bits flipped"
    rows = []
    if "fast-weights" in arms:
        values = arms["fast-weights"]
        ends = [
            [
                threshold(config.probe_noises, v["network"]["noise"][f"{past}, clean"])
                for past in ("primed", "unprimed")
            ]
            for v in values
        ]
        shift = [primed - unprimed for primed, unprimed in ends]
        rows += [
            ledger_row(
                f"a word seen a moment ago ({ago}) is recognised in noise ({noise}) more readily: "
                f"points of accuracy, after a clean exposure (≥ {100 * PRIMED:g})",
                QUALITATIVE,
                benefit(values)[:, at],
                at_least=PRIMED,
            ),
            ledger_row(
                f"the same after an exposure as noisy as the probe (≥ {100 * PRIMED:g})",
                QUALITATIVE,
                benefit(values, "noisy")[:, at],
                at_least=PRIMED,
            ),
            ledger_row(
                "the threshold is lower: bits that may be flipped, in %, until half of the words "
                f"are missed, primed less unprimed (≥ {100 * SHIFT:g})",
                QUALITATIVE,
                shift,
                at_least=SHIFT,
            ),
            *(
                ledger_row(
                    f"control, {words} just before the probe: points of accuracy by priming "
                    f"(within ± {100 * PRIMED:g})",
                    CONTROL,
                    benefit(values, observer=observer)[:, at],
                    at_least=-PRIMED,
                    at_most=PRIMED,
                )
                for observer, words in (
                    ("wiped", "the fast memory wiped"),
                    ("swapped", "the fast memory of another stream"),
                )
            ),
        ]
    if "layer-norm-rnn" in arms:
        rows.append(
            ledger_row(
                "control, the same network trained without fast weights: points of accuracy by "
                f"priming (within ± {100 * PRIMED:g})",
                CONTROL,
                benefit(arms["layer-norm-rnn"])[:, at],
                at_least=-PRIMED,
                at_most=PRIMED,
            )
        )
    if "no-repeats" in arms:
        rows.append(
            ledger_row(
                "priming comes by itself, in a network that never met a repeat in training: "
                f"points of accuracy (≥ {100 * PRIMED:g})",
                QUALITATIVE,
                benefit(arms["no-repeats"])[:, at],
                at_least=PRIMED,
            )
        )
    return rows


def tables(config: PrimingConfig, results: Sequence[Result]) -> list[Table]:
    """Every arm at one delay, every arm at every delay, and every run."""
    arms, at = by_arm(results), config.between.index(config.fixed_between)

    def points(values: npt.ArrayLike) -> str:
        return mean_interval(np.asarray(values, dtype=float)).text(1, 100)

    summary, course = [], []
    for arm, values in arms.items():
        curves = [v["network"]["delay"] for v in values]
        summary.append(
            [
                ARMS[arm].label,
                points([c["unprimed, clean"][at] for c in curves]),
                points(benefit(values)[:, at]),
                points(benefit(values, "noisy")[:, at]),
                *(
                    points(benefit(values, observer=name)[:, at]) if name in values[0] else "–"
                    for name in ("wiped", "swapped")
                ),
                points([c["intrusion"][at] for c in curves]),
            ]
        )
        course.append([ARMS[arm].label, *(points(column) for column in benefit(values).T)])
    some = next(iter(arms.values()), [])
    if some:
        ideal = [v["ideal"]["delay"] for v in some]
        summary.append(
            [
                "ideal observer",
                points([c["unprimed, clean"][at] for c in ideal]),
                points(benefit(some, observer="ideal")[:, at]),
                points(benefit(some, "noisy", observer="ideal")[:, at]),
                "–",
                "–",
                points([c["intrusion"][at] for c in ideal]),
            ]
        )
        course.append(["ideal observer", *(points(c) for c in benefit(some, observer="ideal").T)])
    return [
        Table(
            caption=f"{config.fixed_between} patterns between exposure and probe, "
            f"{100 * config.probe_noise:g} % of the probe's bits flipped: accuracy in % without "
            "priming, and what priming adds to it, in points, with 95 % intervals over seeds. "
            "“Wiped” and “swapped”: the fast memory, just before the probe, after a clean "
            "exposure. Intrusions: how much more often a word is the wrong answer because it was "
            "the one shown.",
            columns=(
                "network",
                "unprimed",
                "clean exposure",
                "noisy exposure",
                "wiped",
                "swapped",
                "intrusions",
            ),
            rows=summary,
        ),
        Table(
            caption="Points of accuracy by a clean exposure, by the number of patterns between.",
            columns=("network", *(str(between) for between in config.between)),
            rows=course,
        ),
        Table(
            caption="Every run: test accuracy on streams as in training (networks that never met a "
            "repeat are tested on such streams), points by priming, seconds of training.",
            columns=("run", "seed", "test accuracy", "clean exposure", "noisy exposure", "seconds"),
            rows=[_run(result, at) for result in results],
        ),
    ]


def _run(result: Result, at: int) -> list[str]:
    name = [result.unit.label, str(result.unit.seed)]
    if result.values is None:
        return [*name, "failed", result.failure or "did not finish", "–", "–"]
    return [
        *name,
        f"{100 * result.values['test_accuracy']:.2f}",
        *(f"{100 * benefit([result.values], kind)[0, at]:.1f}" for kind in ("clean", "noisy")),
        f"{result.values['seconds']:.1f}",
    ]
