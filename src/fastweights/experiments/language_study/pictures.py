"""Learning curves of the experiment on language."""

from __future__ import annotations

from collections.abc import Sequence

from fastweights.experiments.by_arm import finished
from fastweights.experiments.language_study.config import LanguageConfig
from fastweights.experiments.language_study.networks import ARMS
from fastweights.lab.experiment import Result
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Picture

__all__ = ["learning_curves"]


def learning_curves(config: LanguageConfig, results: Sequence[Result]) -> Picture:
    """Bits per character against what was read, and against what it took to read it."""
    figure = new_figure(9.2, 4.2)
    read, spent = figure.subplots(1, 2, sharey=True)
    for arm, (colour, style) in zip(config.arms, ARM_STYLES, strict=False):
        label: str | None = ARMS[arm].label
        for values in finished(results, arm).values():
            characters = [p["update"] * config.streams * config.segment for p in values["curve"]]
            bits = [point["validation_bits"] for point in values["curve"]]
            for axes, cost in ((read, 1), (spent, values["multiply_adds"] / 1e3)):
                axes.plot(
                    [count / 1e6 * cost for count in characters],
                    bits,
                    color=colour,
                    linestyle=style,
                    linewidth=1.2,
                    label=label if axes is read else None,
                )
            label = None
    read.set(
        xlabel="characters read (millions)", ylabel="bits per character of the validation text"
    )
    spent.set(xlabel="multiply-adds, forward (thousands of millions)")
    for axes in (read, spent):
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    if read.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    labels = ", ".join(ARMS[arm].label for arm in config.arms)
    return Picture(
        name="language",
        figure=figure,
        alt=(
            "Bits per character of validation text against characters read and against "
            f"multiply-adds, a line per seed, for {labels}."
        ),
        caption=(
            "Bits per character of the validation text while training, a line per seed: against "
            "the characters that were read, and against the multiply-adds that it took to read "
            "them (forward; training takes about three times as many)."
        ),
    )
