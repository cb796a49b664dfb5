"""Priming: a word in noise is recognised more readily if it was heard a moment ago.

The story is Hinton's, in a lecture of October 2016 as an article tells it: "you hear a word with
lots of noise. If this is the first time you heard this word, you may not recognize it. But if you
heard this word 30 minutes prior, you are able to recognize it". Fast weights make a pattern "a
stronger attractor". No experiment is known to have been made of it.

What we decided. A vocabulary of random patterns is known for good; a network is trained on streams
of them in noise and names the last. Afterwards the same probes are shown with the word among the
patterns before them or not, after any number of others. Words repeat in training, as they do in
speech, and equally often after every delay; so what falls with the delay falls because of the
memory, and an ideal observer's curve is flat.

Controls: the fast memory wiped, or exchanged for that of another stream, just before the probe; the
same network trained without fast weights; one trained on streams without repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from fastweights.experiments.priming_figures import pictures_of
from fastweights.experiments.priming_networks import (
    ARMS,
    PrimingConfig,
    Recogniser,
    benefit,
    measure,
)
from fastweights.lab.experiment import Result, Unit
from fastweights.lab.findings import Column, Measured, TextColumn, Values, by_seed, run_table
from fastweights.lab.study import Arm, Run, Study
from fastweights.report.section import Picture, Table
from fastweights.report.verdicts import BOUND_RULE, CONTROL, QUALITATIVE, Bound
from fastweights.training.config import ConfigError
from fastweights.training.loop import Classification
from fastweights.training.schedule import Schedule

PRIMED, SHIFT = 0.02, 0.01  # bounds of the claims


class PrimingRun(Classification, Run):
    """A network that names the last word of a stream."""

    def __init__(self, config: PrimingConfig, arm: Arm, unit: Unit, device: torch.device) -> None:
        assert unit.seed is not None
        self.config, self.seed = config, unit.seed
        self.recogniser = Recogniser(arm.build(config), config.bits, config.words)
        super().__init__(
            self.recogniser,
            config.task(config.repeat if arm.options.get("repeats", True) else 0.0).build(
                self.seed
            ),
            batch_size=config.batch_size,
            seed=self.seed,
            device=device,
        )
        self.schedule = Schedule.of(
            config,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate * arm.learning_rate_at(config.hidden_size),
        )

    def test(self) -> dict[str, Any]:
        return {**super().test(), **measure(self.recogniser, self.config, self.seed)}


def threshold(noises: Sequence[float], accuracies: Sequence[float]) -> float:
    """The noise at which half of the words are recognised, between the points in a straight line.

    Where the curve does not reach a half, the end of it that is nearer.

    Example:
        >>> round(threshold([0.1, 0.2, 0.3], [0.9, 0.6, 0.4]), 3)
        0.25
    """
    # np.interp wants rising abscissae.
    return float(np.interp(0.5, accuracies[::-1], noises[::-1]))


def paper() -> PrimingConfig:
    """All networks, longer streams, more updates; an hour or more."""
    return PrimingConfig(
        arms=tuple(ARMS), length=17, updates=10_000, between=(0, 1, 2, 3, 4, 6, 8, 11, 14)
    )


class PrimingStudy(Study):
    """The study; ``quick``, four decays and two controls, takes minutes on two cores."""

    name = "priming"
    title = "Priming: words in noise"
    summary = "A noisy word is recognised more readily if it was seen recently. Hinton (2016)"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {"quick": PrimingConfig, "paper": paper}
    )
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "paper": 10})
    arms, runs = ARMS, PrimingRun

    def check(self, config: PrimingConfig) -> None:
        for between in config.between:
            if not 0 <= between <= config.length - 2:
                raise ConfigError(
                    f"between must lie in 0 … length − 2 = {config.length - 2}, got {between}"
                )
        for key, value, values in (
            ("fixed_between", config.fixed_between, config.between),
            ("probe_noise", config.probe_noise, config.probe_noises),
        ):
            if value not in values:
                raise ConfigError(f"{key} must be one of {list(values)}, got {value}")
        if list(config.probe_noises) != sorted(set(config.probe_noises)):
            raise ConfigError(f"probe_noises must rise, got {list(config.probe_noises)}")
        if config.batch_size > config.train_size:
            raise ConfigError(
                f"batch_size must be at most train_size = {config.train_size}, "
                f"got {config.batch_size}"
            )

    def intro(self, config: PrimingConfig) -> str:
        return (
            f"A stream of {config.length} patterns, each one of {config.words} known words "
            "with some bits flipped; the network names the last, the probe. Does it help to "
            "have met the word earlier in the stream? The same probes are shown after both "
            "pasts, which differ in one pattern."
        )

    def notes(self, config: PrimingConfig) -> list[str]:
        return [
            BOUND_RULE,
            f"Networks of {config.hidden_size} units, {config.updates:,} updates of "
            f"{config.batch_size}; in training the probe repeats an earlier word with "
            f"probability {config.repeat:g}, at any distance alike. The ideal observer knows "
            "that, the words, and how noisy patterns may be; on such streams nobody can do "
            "better. Settings were chosen on validation data and on seeds below 300.",
        ]

    def contrasts(self, config: PrimingConfig) -> list[Measured]:
        """The bound that a row is judged by stands in its words."""
        ago = f"{config.fixed_between} patterns between"
        noise = f"{100 * config.probe_noise:g} % of bits flipped"
        gains, gains_nothing = Bound(at_least=PRIMED), Bound(-PRIMED, PRIMED)

        def withstood(values: Values) -> float:
            """How much more noise half of the words withstand if they were seen before."""
            curves = [values["network"]["noise"][f"{past}primed, clean"] for past in ("", "un")]
            primed, unprimed = (threshold(config.probe_noises, curve) for curve in curves)
            return primed - unprimed

        def controlled(words: str, arm: str, observer: str = "network") -> Measured:
            words = f"control, {words}: points of accuracy by priming (within ± {100 * PRIMED:g})"
            gained = _gained(config, observer=observer)
            return Measured(words, arm, gained, gains_nothing, CONTROL, scale=100)

        return [
            Measured(
                f"a word seen a moment ago ({ago}) is recognised in noise ({noise}) more readily: "
                f"points of accuracy, after a clean exposure (≥ {100 * PRIMED:g})",
                "fast-weights",
                _gained(config),
                gains,
                QUALITATIVE,
                scale=100,
            ),
            Measured(
                f"the same after an exposure as noisy as the probe (≥ {100 * PRIMED:g})",
                "fast-weights",
                _gained(config, "noisy"),
                gains,
                QUALITATIVE,
                scale=100,
            ),
            Measured(
                "the threshold is lower: bits that may be flipped, in %, until half of the words "
                f"are missed, primed less unprimed (≥ {100 * SHIFT:g})",
                "fast-weights",
                withstood,
                Bound(at_least=SHIFT),
                QUALITATIVE,
                scale=100,
            ),
            controlled("the fast memory wiped just before the probe", "fast-weights", "wiped"),
            controlled(
                "the fast memory of another stream just before the probe",
                "fast-weights",
                "swapped",
            ),
            controlled("the same network trained without fast weights", "layer-norm-rnn"),
            Measured(
                "priming comes by itself, in a network that never met a repeat in training: "
                f"points of accuracy (≥ {100 * PRIMED:g})",
                "no-repeats",
                _gained(config),
                gains,
                QUALITATIVE,
                scale=100,
            ),
        ]

    def tables(self, config: PrimingConfig, results: Sequence[Result]) -> list[Table]:
        """Every arm at one delay, every arm at every delay, and every run."""
        arms = _finished(config, results)
        shown = [(ARMS[arm].label, "network", runs) for arm, runs in arms.items()]
        for runs in list(arms.values())[:1]:  # the ideal observer saw the same in all
            shown.append(("ideal observer", "ideal", runs))
        return [
            Table(
                caption=f"{config.fixed_between} patterns between exposure and probe, "
                f"{100 * config.probe_noise:g} % of the probe's bits flipped: accuracy in % "
                "without priming, and what priming adds to it, in points, with 95 % intervals over "
                "seeds. “Wiped” and “swapped”: the fast memory, just before the probe, after a "
                "clean exposure. Intrusions: how much more often a word is the wrong answer "
                "because it was the one shown.",
                columns=("network", *(column.head for column in _columns(config, "network"))),
                rows=[
                    [label, *(column.cell(runs) for column in _columns(config, observer))]
                    for label, observer, runs in shown
                ],
            ),
            Table(
                caption="Points of accuracy by a clean exposure, by the number of patterns "
                "between.",
                columns=("network", *(str(between) for between in config.between)),
                rows=[
                    [
                        label,
                        *(
                            _percent("", _gained(config, observer=observer, between=b)).cell(runs)
                            for b in config.between
                        ),
                    ]
                    for label, observer, runs in shown
                ],
            ),
            run_table(
                results,
                "Every run: test accuracy on streams as in training (networks that never met a "
                "repeat are tested on such streams), points by priming, seconds of training.",
                [
                    Column("test accuracy", "test_accuracy", scale=100, form="{:.2f}"),
                    Column("clean exposure", _gained(config), scale=100, form="{:.1f}"),
                    Column("noisy exposure", _gained(config, "noisy"), scale=100, form="{:.1f}"),
                    Column("seconds", "seconds", form="{:.1f}"),
                ],
            ),
        ]

    def pictures(self, config: PrimingConfig, results: Sequence[Result]) -> list[Picture]:
        return pictures_of(config, _finished(config, results))


def _finished(config: PrimingConfig, results: Sequence[Result]) -> dict[str, list[Values]]:
    """The finished runs of every arm that has some."""
    found = {arm: by_seed(results, arm) for arm in config.arms}
    return {arm: list(runs.values()) for arm, runs in found.items() if runs}


def _gained(
    config: PrimingConfig,
    kind: str = "clean",
    observer: str = "network",
    between: int | None = None,
) -> Callable[[Values], float]:
    """What priming adds to a run's accuracy at a delay."""
    place = config.between.index(config.fixed_between if between is None else between)
    return lambda values: benefit(values, kind, observer)[place]


def _percent(head: str, of: Callable[[Values], float]) -> Column:
    return Column(head, of, scale=100, digits=1)


def _columns(config: PrimingConfig, observer: str) -> list[Column]:
    """Of the table at one delay; only a network with a fast memory has it wiped and swapped."""
    at = config.between.index(config.fixed_between)

    def changed(how: str) -> Callable[[Sequence[Values]], str]:
        column = _percent(how, _gained(config, observer=how))
        has_memory = observer == "network"
        return lambda runs: column.cell(runs) if has_memory and how in runs[0] else "–"

    return [
        _percent("unprimed", lambda v: v[observer]["delay"]["unprimed, clean"][at]),
        _percent("clean exposure", _gained(config, "clean", observer)),
        _percent("noisy exposure", _gained(config, "noisy", observer)),
        TextColumn("wiped", changed("wiped")),
        TextColumn("swapped", changed("swapped")),
        _percent("intrusions", lambda v: v[observer]["delay"]["intrusion"][at]),
    ]
