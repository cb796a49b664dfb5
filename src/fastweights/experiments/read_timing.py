"""What a memory is asked with: how fast weights without extra depth answer at all.

With ``query="previous"`` the last step, in which the letter comes, reads the memory with a vector
that does not know the letter. Such networks rise above the binding-free ceiling all the same.
Here each is trained, then its reads are changed one by one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from fastweights.experiments.altered_reads import (
    AlteredReads,
    accuracy_by_match,
    accuracy_by_read,
    by_all,
    changed_reads,
)
from fastweights.experiments.associative_retrieval import (
    FAST_WEIGHTS,
    RetrievalConfig,
    RetrievalRun,
    RetrievalStudy,
    fast_weights,
)
from fastweights.experiments.probe import known_before_the_letter
from fastweights.lab.experiment import Result
from fastweights.lab.findings import Contrast, Finding, Measured, Pick, Values, by_seed, pick
from fastweights.lab.study import Arm
from fastweights.report.figures import ARM_STYLES, DOTTED, new_figure
from fastweights.report.section import Picture, Table
from fastweights.report.statistics import mean_interval
from fastweights.report.verdicts import Bound, EffectSize

NOW, BEFORE, SUM = "preliminary", "previous", "sum"

# Without depth, a large input and a low write rate; see docs/controls.md.
_before = fast_weights(query="previous", input_scale=5.0, write_rate=0.03)


def _summed(config: RetrievalConfig, inputs: int, hidden_size: int) -> nn.Module:
    return AlteredReads(_before(config, inputs, hidden_size), by_all)


ARMS: Mapping[str, Arm] = {
    NOW: dataclasses.replace(FAST_WEIGHTS, label="asked with what comes now"),
    BEFORE: Arm("asked before it comes", _before, 1e-2, 0.1),
    SUM: Arm("not asked, summed", _summed, 1e-2, 0.1),
}
ABOVE_ZERO = Bound(at_least=0, strict=True)


def quick() -> RetrievalConfig:
    """K = 4, R = 50."""
    return RetrievalConfig(arms=tuple(ARMS), updates=10_000)


class ReadTimingRun(RetrievalRun):
    """A network whose reads are looked at when it is trained."""

    def test(self) -> dict[str, Any]:
        """What it answers when its reads are changed, and what it knows before the question."""
        found, pairs = super().test(), self.config.num_pairs
        if isinstance(self.model.layer, AlteredReads):
            return found
        return {
            **found,
            "by_read": accuracy_by_read(self.model, self.splits.test, pairs),
            "by_match": accuracy_by_match(self.model, self.splits.test, pairs),
            "known_before": known_before_the_letter(self.model, self.splits, pairs),
        }


class ReadTiming(RetrievalStudy):
    """The experiment."""

    arms, runs = ARMS, ReadTimingRun
    name = "read-timing"
    title = "What a memory is asked with"
    summary = "How do fast weights without extra depth answer before they know the question?"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": quick})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5})

    def intro(self, config: RetrievalConfig) -> str:
        return (
            "Fast weights as published ask the memory with a vector that has seen the input of "
            "this step. Without that extra depth the memory is asked with the vector of the "
            "step before, which cannot know which letter will come. The binding-free ceiling "
            f"is {100 * config.ceiling:.2f} %."
        )

    def notes(self, config: RetrievalConfig) -> list[str]:
        return [
            "Reads are changed in trained networks, which are not trained further. “alike” "
            "gives every memory the mean score; “another's” is that of another sequence.",
            "“holds” if the whole 95 % interval is on the claimed side, “does not hold” if it "
            "is on the other, else “undecided”. Of two networks, “large” if the interval is "
            "above 2 points, “negative” if below −2, otherwise “none” or “unclear”.",
        ]

    def contrasts(self, config: RetrievalConfig) -> list[Finding]:
        def above_ceiling(values: Values) -> float:
            return values["test_accuracy"] - config.ceiling

        def spread(values: Values) -> float | None:
            best, worst = values["by_match"][0], values["by_match"][-1]
            return None if best is None or worst is None else best - worst

        def lost(values: Values) -> float:
            return values["test_accuracy"] - values["by_read"]["all memories alike at the letter"]

        def row(claim: str, arm: str, of: Pick) -> Measured:
            return Measured(claim, arm, of, ABOVE_ZERO, scale=100)

        return [
            row(
                "without extra depth, above the ceiling: points of accuracy", BEFORE, above_ceiling
            ),
            row(
                "without extra depth, the answer is there before the question: what a probe tells "
                "from h before the letter, less the ceiling, points",
                BEFORE,
                lambda v: v["known_before"] - config.ceiling,
            ),
            row(
                "without extra depth, it knows best the pair that stands out before the question: "
                "accuracy where the asked pair matches best, less where it matches worst, points",
                BEFORE,
                spread,
            ),
            row(
                "memories summed without being asked, above the ceiling: points", SUM, above_ceiling
            ),
            Contrast(
                "being asked too early, less not being asked at all, points (none: within ± 2)",
                BEFORE,
                SUM,
                "test_accuracy",
                EffectSize(),
                scale=100,
            ),
            row("as published, lost if the read at the letter finds all alike: points", NOW, lost),
        ]

    def tables(self, config: RetrievalConfig, results: Sequence[Result]) -> list[Table]:
        found = [table for size in config.hidden_sizes for table in _tables(config, size, results)]
        return [*found, *super().tables(config, results)]

    def pictures(self, config: RetrievalConfig, results: Sequence[Result]) -> list[Picture]:
        return [
            picture
            for size in config.hidden_sizes
            for picture in (
                _picture(config, size, results),
                self.learning_curves(config, results, size),
            )
        ]


def _values(arm: str, size: int, results: Sequence[Result]) -> list[dict[str, Any]]:
    return list(by_seed(results, arm, hidden_size=size).values())


def _one_of(measure: str, which: Any, values: Values) -> float | None:
    found: float | None = values[measure][which]
    return found


def _tables(config: RetrievalConfig, size: int, results: Sequence[Result]) -> list[Table]:
    arms = [arm for arm in (NOW, BEFORE) if _values(arm, size, results)]

    def row(name: str, of: Pick) -> list[str]:
        cells = [name]
        for arm in arms:
            found = [pick(of, v) for v in _values(arm, size, results)]
            known = [x for x in found if x is not None]
            cells.append(mean_interval(known).text(1, 100) if known else "never")
        return cells

    columns = [ARMS[arm].label for arm in arms]
    return [
        Table(
            caption=f"R = {size}: what is known (%) when, on test data. A probe is a network like "
            "the head for every letter, fitted on training data.",
            columns=("where it is read", *columns),
            rows=[
                row("h before the letter, by a probe", "known_before"),
                row("the answer", "test_accuracy"),
            ],
        ),
        Table(
            caption=f"R = {size}: test accuracy (%) of trained networks whose reads are changed.",
            columns=("read", *columns),
            rows=[
                row(name, functools.partial(_one_of, "by_read", name))
                for name in changed_reads(config.num_pairs)
            ],
        ),
        Table(
            caption=f"R = {size}: test accuracy (%) by how well the asked pair matches the query "
            "of the last read, among the pairs of its sequence.",
            columns=("match", *columns),
            rows=[
                row(
                    f"{place + 1} of {config.num_pairs}",
                    functools.partial(_one_of, "by_match", place),
                )
                for place in range(config.num_pairs)
            ],
        ),
    ]


def _picture(config: RetrievalConfig, size: int, results: Sequence[Result]) -> Picture:
    figure = new_figure(8.4, 4.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1), sharex=False)
    names = list(changed_reads(config.num_pairs))
    for shift, arm, (colour, _) in zip((-0.14, 0.14), (NOW, BEFORE), ARM_STYLES, strict=False):
        values = _values(arm, size, results)
        if not values:
            continue
        for y, name in enumerate(names):
            found = [100 * v["by_read"][name] for v in values]
            left.plot(found, [y + shift] * len(found), "o", color=colour, markersize=4, alpha=0.5)
        places = range(1, config.num_pairs + 1)
        for v in values:
            line = [float("nan") if a is None else 100 * a for a in v["by_match"]]
            right.plot(places, line, "o-", color=colour, linewidth=1, markersize=4, alpha=0.7)
        left.plot([], [], "o", color=colour, label=ARMS[arm].label)
    left.axvline(100 * config.ceiling, color="0.35", linewidth=1, linestyle=DOTTED)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(xlabel="test accuracy (%)", xlim=(0, 103), title="reads changed")
    left.grid(axis="x", color="0.9")
    right.axhline(100 * config.ceiling, color="0.35", linewidth=1, linestyle=DOTTED)
    right.set(
        xlabel="rank of the asked pair's match",
        ylabel="test accuracy (%)",
        ylim=(0, 103),
        title="by match at the last read",
    )
    right.set_xticks(range(1, config.num_pairs + 1))
    if left.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return Picture(
        name=f"read-timing-r{size}",
        figure=figure,
        alt="Left: test accuracy of both kinds of network with each change of their reads. "
        "Right: test accuracy by the rank of the asked pair's match at the last read.",
        caption="A dot or a line per seed; dotted: binding-free ceiling.",
    )
