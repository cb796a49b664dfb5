"""What a memory is asked with: how fast weights without extra depth answer at all.

With ``query="previous"`` the last step, in which the letter comes, reads the memory with a vector
that does not know the letter. Such networks rise above the binding-free ceiling all the same.
Here each is trained, then its reads are changed one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from fastweights.experiments.base import Result
from fastweights.experiments.retrieval_study.altered import AlteredReads, by_all
from fastweights.experiments.retrieval_study.config import RetrievalConfig
from fastweights.experiments.retrieval_study.effects import Effect, difference, verdict
from fastweights.experiments.retrieval_study.networks import Arm, Retriever, fast_weights
from fastweights.experiments.retrieval_study.pictures import learning_curves
from fastweights.experiments.retrieval_study.probe import known_before_the_letter
from fastweights.experiments.retrieval_study.reading import (
    accuracy_by_match,
    accuracy_by_read,
    changed_reads,
)
from fastweights.experiments.retrieval_study.study import RetrievalStudy
from fastweights.experiments.retrieval_study.tables import finished, sizes_begun, tables_of
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Claim, Picture, Section, Table
from fastweights.report.statistics import mean_interval
from fastweights.tasks import Splits, binding_free_ceiling

__all__ = ["ARMS", "ReadTiming"]

NOW, BEFORE, SUM = "preliminary", "previous", "sum"

# Without depth, a large input and a low write rate; see docs/controls.md.
_before = fast_weights(query="previous", input_scale=5.0, write_rate=0.03)


def _summed(config: RetrievalConfig, inputs: int, hidden_size: int) -> nn.Module:
    return AlteredReads(_before(config, inputs, hidden_size), by_all)  # type: ignore[arg-type]


ARMS: Mapping[str, Arm] = {
    NOW: Arm("asked with what comes now", 5e-3, 0.1, fast_weights()),
    BEFORE: Arm("asked before it comes", 1e-2, 0.1, _before),
    SUM: Arm("not asked, summed", 1e-2, 0.1, _summed),
}


def quick() -> RetrievalConfig:
    """K = 4, R = 50."""
    return RetrievalConfig(arms=tuple(ARMS), updates=10_000)


class ReadTiming(RetrievalStudy):
    """The experiment."""

    arms = ARMS
    name = "read-timing"
    title = "What a memory is asked with"
    summary = "How do fast weights without extra depth answer before they know the question?"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": quick})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5})

    def measure(self, config: RetrievalConfig, model: Retriever, splits: Splits) -> dict[str, Any]:
        if isinstance(model.layer, AlteredReads):
            return {}
        return {
            "by_read": accuracy_by_read(model, splits.test, config.num_pairs),
            "by_match": accuracy_by_match(model, splits.test, config.num_pairs),
            "known_before": known_before_the_letter(model, splits, config.num_pairs),
        }

    def section(self, config: RetrievalConfig, results: Sequence[Result], folder: Path) -> Section:
        ceiling = float(binding_free_ceiling(config.num_pairs))
        sizes = sizes_begun(config, results)
        return Section(
            title=self.title,
            intro=(
                "Fast weights as published ask the memory with a vector that has seen the input of "
                "this step. Without that extra depth the memory is asked with the vector of the "
                "step before, which cannot know which letter will come. The binding-free ceiling "
                f"is {100 * ceiling:.2f} %."
            ),
            claims=[claim for size in sizes for claim in _claims(config, size, ceiling, results)],
            tables=[
                *(table for size in sizes for table in _tables(config, size, results)),
                *tables_of(ARMS, config, results),
            ],
            pictures=[
                picture
                for size in sizes
                for picture in (
                    *_pictures(config, size, ceiling, results),
                    learning_curves(ARMS, config, results, size, ceiling, self.name),
                )
            ],
            chosen="validation data, seeds below 300",
            notes=[
                "Reads are changed in trained networks, which are not trained further. “alike” "
                "gives every memory the mean score; “another's” is that of another sequence.",
                "“holds” if the whole 95 % interval is on the claimed side, “does not hold” if it "
                "is on the other, else “undecided”. Of two networks, “large” if the interval is "
                "above 2 points, “negative” if below −2, otherwise “none” or “unclear”.",
            ],
        )


def _values(arm: str, size: int, results: Sequence[Result]) -> list[dict[str, Any]]:
    return finished(results).get((arm, size), [])


def _above_zero(claim: str, numbers: Sequence[float], published: str = "—") -> Claim:
    """Whether points of accuracy are above zero."""
    interval = mean_interval(numbers)
    word = "undecided"
    if interval.low is not None and interval.high is not None:
        word = "holds" if interval.low > 0 else "does not hold" if interval.high < 0 else word
    return Claim(claim, published, interval.text(1), interval.n, word)


def _claims(
    config: RetrievalConfig, size: int, ceiling: float, results: Sequence[Result]
) -> list[Claim]:
    claims = []
    before, summed = _values(BEFORE, size, results), _values(SUM, size, results)
    if before:
        accuracies = [100 * (v["test_accuracy"] - ceiling) for v in before]
        claims += [
            _above_zero("without extra depth, above the ceiling: points of accuracy", accuracies),
            _above_zero(
                "without extra depth, the answer is there before the question: what a probe tells "
                "from h before the letter, less the ceiling, points",
                [100 * (v["known_before"] - ceiling) for v in before],
            ),
        ]
        ends = [(v["by_match"][0], v["by_match"][-1]) for v in before]
        spreads = [100 * (best - worst) for best, worst in ends if None not in (best, worst)]
        if spreads:
            words = (
                "without extra depth, it knows best the pair that stands out before the question: "
                "accuracy where the asked pair matches best, less where it matches worst, points"
            )
            claims.append(_above_zero(words, spreads))
    if summed:
        above = [100 * (v["test_accuracy"] - ceiling) for v in summed]
        claims.append(
            _above_zero("memories summed without being asked, above the ceiling: points", above)
        )
    asked = difference(Effect("", (BEFORE,), (SUM,)), size, results)
    if asked is not None:
        words = "being asked too early, less not being asked at all, points (none: within ± 2)"
        claims.append(Claim(words, "—", asked.text(1, 100), asked.n, verdict(asked)))
    if now := _values(NOW, size, results):
        lost = [
            100 * (v["test_accuracy"] - v["by_read"]["all memories alike at the letter"])
            for v in now
        ]
        claims.append(
            _above_zero(
                "as published, lost if the read at the letter finds all alike: points", lost
            )
        )
    return claims


def _tables(config: RetrievalConfig, size: int, results: Sequence[Result]) -> list[Table]:
    arms = [arm for arm in (NOW, BEFORE) if _values(arm, size, results)]

    def row(name: str, pick: Callable[[dict[str, Any]], float | None]) -> list[str]:
        cells = [name]
        for arm in arms:
            found = [pick(v) for v in _values(arm, size, results)]
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
                row("h before the letter, by a probe", lambda v: v["known_before"]),
                row("the answer", lambda v: v["test_accuracy"]),
            ],
        ),
        Table(
            caption=f"R = {size}: test accuracy (%) of trained networks whose reads are changed.",
            columns=("read", *columns),
            rows=[
                row(name, lambda v, name=name: v["by_read"][name])  # type: ignore[misc]
                for name in changed_reads(config.num_pairs)
            ],
        ),
        Table(
            caption=f"R = {size}: test accuracy (%) by how well the asked pair matches the query "
            "of the last read, among the pairs of its sequence.",
            columns=("match", *columns),
            rows=[
                row(f"{place + 1} of {config.num_pairs}", lambda v, p=place: v["by_match"][p])  # type: ignore[misc]
                for place in range(config.num_pairs)
            ],
        ),
    ]


def _pictures(
    config: RetrievalConfig, size: int, ceiling: float, results: Sequence[Result]
) -> list[Picture]:
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
    left.axvline(100 * ceiling, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)))
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(xlabel="test accuracy (%)", xlim=(0, 103), title="reads changed")
    left.grid(axis="x", color="0.9")
    right.axhline(100 * ceiling, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)))
    right.set(
        xlabel="rank of the asked pair's match",
        ylabel="test accuracy (%)",
        ylim=(0, 103),
        title="by match at the last read",
    )
    right.set_xticks(range(1, config.num_pairs + 1))
    if left.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return [
        Picture(
            name=f"read-timing-r{size}",
            figure=figure,
            alt="Left: test accuracy of both kinds of network with each change of their reads. "
            "Right: test accuracy by the rank of the asked pair's match at the last read.",
            caption="A dot or a line per seed; dotted: binding-free ceiling.",
        )
    ]
