"""Tables and ledger rows of the experiment on memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from fastweights.decay import Decay, Exponential, Factorial, PowerLaw, StepIndexed
from fastweights.experiments.memory_networks import NETWORK_DECAYS
from fastweights.lab.experiment import Result
from fastweights.report.section import Claim, Table
from fastweights.report.statistics import mean_interval
from fastweights.theory.memory import (
    best_exponential,
    best_power_law,
    energy,
    lifetime,
    pair_ages,
    pair_snr,
    weights,
)
from fastweights.theory.transfer import Finding

__all__ = [
    "POSITION_RULE",
    "READINGS",
    "lifetime_table",
    "position_claims",
    "position_table",
    "reading_claims",
    "reading_table",
    "run_table",
    "statement_table",
]

POSITION_RULE = (
    "That a newer pair is remembered better “holds” if the 95 % interval over seeds of newest "
    "minus oldest lies above 0, “does not hold” if it lies below, and is “undecided” otherwise."
)

OLD = "0.95^k, before"
READINGS: Mapping[str, Decay] = MappingProxyType(
    {
        OLD: Exponential(0.95),
        "(a) (k + 1)^−½": PowerLaw(0.5),
        "(b) ((k + 1)!)^−½": Factorial(0.5),
        "(c) t^−½ at step t": StepIndexed(0.5),
    }
)
# K = 26 with 50 units: 54 vectors are written before the answer is read.
_PAIRS, _UNITS = 26, 50
_STEPS = 2 * _PAIRS + 2
_SIZES = (19, 190, 400, 2_500, 10_000, 1_000_000)


def statement_table(rows: Sequence[Finding]) -> Table:
    """Every formula with its simulation."""
    return Table(
        caption="Every formula: the value under test, and the simulation with three standard "
        "errors to either side.",
        columns=("statement", "tested", "simulated", "verdict"),
        rows=[[f.claim, f"{f.theory:.3f}", f.ours(3), f.verdict] for f in rows],
    )


def _below(decay: Decay) -> np.ndarray:
    """At which ages less is left than of 0.95^k."""
    ages = np.arange(_STEPS)
    less = weights(decay, ages, _STEPS) < weights(READINGS[OLD], ages, _STEPS)
    return ages[less]


def reading_table() -> Table:
    """What each reading of the printed decay would mean for 26 pairs."""
    rows = []
    for name, decay in READINGS.items():
        below = _below(decay)
        first = pair_snr(decay, _UNITS**2, _PAIRS)[0]
        rows.append(
            [
                name,
                *(f"{r:.2g}" for r in weights(decay, [1, 10, 50], _STEPS)),
                f"{below[0]} to {below[-1]}" if below.size else "–",
                f"{energy(decay, _STEPS):.2f}",
                f"{lifetime(decay, _UNITS**2, _STEPS)}",
                f"{first:.2g}",
            ]
        )
    return Table(
        caption=f"Readings of the printed decay after {_STEPS} steps, as in sequences of {_PAIRS} "
        f"pairs: what is left at three ages, the ages at which that is less than of 0.95^k, Σ r², "
        f"the lifetime and the SNR of the first pair with N = {_UNITS}² synapses.",
        columns=(
            "reading",
            "r(1)",
            "r(10)",
            "r(50)",
            "below 0.95^k",
            "Σ r²",
            "lifetime",
            "SNR, first pair",
        ),
        rows=rows,
    )


def reading_claims() -> list[Claim]:
    """Which reading decays “much faster”, and which keeps what 100 % at K = 26 needs."""
    claims = []
    for name, decay in list(READINGS.items())[1:]:
        below = _below(decay)
        always = below.size == _STEPS - 1
        ours = f"below at ages {below[0]} to {below[-1]} of {_STEPS - 1}"
        claims.append(
            Claim(
                f"figure 1, reading {name}: decays much faster than 0.95^k",
                "much faster",
                ours,
                1,
                "fits" if always else "fits young memories only",
            )
        )
        first = float(pair_snr(decay, _UNITS**2, _PAIRS)[0])
        claims.append(
            Claim(
                f"table 1, K = 26, reading {name}: the first of 26 random pairs can be read, "
                f"SNR ≥ 1 with N = {_UNITS}²",
                "100 % right",
                f"SNR {first:.2g}",
                1,
                "fits" if first >= 1 else "does not fit",
            )
        )
    return claims


def lifetime_table() -> Table:
    """Lifetimes by closed form, for some numbers of synapses."""

    def cell(decay: Decay, synapses: int, memories: int | None = None) -> str:
        age = lifetime(decay, synapses, memories)
        return "none" if age is None else f"{age:,}"

    rows = [
        [
            f"{n:,}",
            cell(Exponential(0.95), n),
            cell(Exponential(0.99), n),
            cell(PowerLaw(0.75), n),
            cell(PowerLaw(0.5), n),
            cell(PowerLaw(0.5), n, 10_000),
            cell(Factorial(0.5), n),
            cell(StepIndexed(0.5), n, 100),
            f"{best_exponential(n)[1]:,.0f}",
            f"{best_power_law(n)[1]:,.0f}",
        ]
        for n in _SIZES
    ]
    return Table(
        caption="Lifetimes after an endless past, but for those with a number of memories; on the "
        "right the longest that any exponential and any power law can have.",
        columns=(
            "N",
            "0.95^k",
            "0.99^k",
            "(k + 1)^−¾",
            "(k + 1)^−½",
            "(k + 1)^−½, 10,000 memories",
            "((k + 1)!)^−½",
            "t^−½, step 100",
            "best λ^k",
            "best (k + 1)^−γ",
        ),
        rows=rows,
    )


def position_table(
    predicted: Mapping[str, Sequence[float]], measured: Mapping[str, Sequence[Sequence[float]]]
) -> Table:
    """Predicted SNR beside measured accuracy, for each decay and pair."""
    rows = []
    for decay, values in measured.items():
        columns = np.array(values).T
        ages = pair_ages(len(columns)).tolist()
        for pair, (age, ratio, accuracies) in enumerate(
            zip(ages, predicted[decay], columns, strict=True), start=1
        ):
            accuracy = mean_interval(accuracies).text(scale=100)
            rows.append(
                [NETWORK_DECAYS[decay].label, str(pair), str(age), f"{ratio:.2f}", accuracy]
            )
    return Table(
        caption="By the pair that is asked for: its age when it is read, the SNR predicted for one "
        "unit and random memories, and the test accuracy of trained networks with its 95 % "
        "interval over seeds.",
        columns=("decay", "pair", "age", "predicted SNR", "accuracy %"),
        rows=rows,
    )


def position_claims(measured: Mapping[str, Sequence[Sequence[float]]]) -> list[Claim]:
    """Whether newer pairs are remembered better, as the theory says of every decay."""
    claims = []
    for decay, values in measured.items():
        columns = np.array(values).T
        gain = mean_interval(columns[-1] - columns[0])
        if gain.low is None or gain.high is None or gain.low <= 0 <= gain.high:
            verdict = "undecided"
        else:
            verdict = "holds" if gain.low > 0 else "does not hold"
        claims.append(
            Claim(
                f"trained networks, {NETWORK_DECAYS[decay].label}: points of accuracy by which the "
                "newest pair is remembered better than the oldest",
                "SNR falls with age",
                gain.text(scale=100),
                gain.n,
                verdict,
            )
        )
    return claims


def run_table(results: Sequence[Result]) -> Table:
    """Every network."""
    return Table(
        caption="Every network.",
        columns=("decay", "η", "seed", "test accuracy", "by pair, first to last", "seconds"),
        rows=[
            [r.unit.label, "–", str(r.unit.seed), "failed", r.failure or "not finished", "–"]
            if r.values is None
            else [
                r.unit.label,
                f"{r.values['write_rate']:g}",
                str(r.unit.seed),
                f"{100 * r.values['test_accuracy']:.2f}",
                " ".join(f"{100 * a:.2f}" for a in r.values["by_position"]),
                f"{r.values['seconds']:.1f}",
            ]
            for r in results
        ],
    )
