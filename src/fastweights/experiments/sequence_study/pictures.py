"""Figures of the experiments on sorting and on repeated copying."""

from __future__ import annotations

from collections.abc import Sequence

from fastweights.experiments.base import Result
from fastweights.experiments.by_arm import finished
from fastweights.experiments.other_uses.shared import draw_curve, draw_level
from fastweights.experiments.sequence_study.config import SequenceConfig
from fastweights.experiments.sequence_study.networks import ARMS
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Picture

__all__ = ["accuracy_by_length", "learning_curves"]


def accuracy_by_length(
    config: SequenceConfig, results: Sequence[Result], name: str, chance: float
) -> Picture:
    """Symbols and whole sequences answered rightly against n, trained on or longer."""
    figure = new_figure(9.2, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    measures = (("test_accuracy", "symbols"), ("test_sequences", "whole sequences"))
    for axes, (measure, title) in zip(panels, measures, strict=True):
        for arm, (colour, style) in zip(config.arms, ARM_STYLES, strict=False):
            if values := list(finished(results, arm).values()):
                accuracy = [[100 * share for share in v[measure]] for v in values]
                label = ARMS[arm].label if axes is panels[0] else None
                draw_curve(axes, values[0]["lengths"], accuracy, colour, style, label, "o")
        axes.axvspan(config.train_length + 0.5, config.test_length + 0.5, color="0.94", zorder=0)
        axes.set(
            xlabel="n, symbols in the sequence",
            xlim=(1.5, config.test_length + 0.5),
            ylim=(0, 103),
            title=title,
        )
    draw_level(panels[0], 100 * chance)
    panels[0].set_ylabel("right (%)")
    if panels[0].get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    labels = ", ".join(ARMS[arm].label for arm in config.arms)
    return Picture(
        name=f"{name}-lengths",
        figure=figure,
        alt=(
            f"Symbols and whole sequences answered rightly against the length, for {labels}; "
            f"lengths above {config.train_length} were not trained on."
        ),
        caption=(
            "Test data: mean over seeds with its 95 % interval. Grey: longer than any sequence of "
            "the training. Dotted: chance."
        ),
    )


def learning_curves(
    config: SequenceConfig, results: Sequence[Result], name: str, chance: float
) -> Picture:
    """Symbols answered rightly at the longest length of the training, while it goes on."""
    figure = new_figure()
    axes = figure.add_subplot()
    for arm, (colour, style) in zip(config.arms, ARM_STYLES, strict=False):
        label: str | None = ARMS[arm].label
        for values in finished(results, arm).values():
            axes.plot(
                [point["update"] for point in values["curve"]],
                [100 * point["validation_accuracy"] for point in values["curve"]],
                color=colour,
                linestyle=style,
                linewidth=1.2,
                label=label,
            )
            label = None
    draw_level(axes, 100 * chance)
    axes.set(
        xlabel="updates",
        ylabel=f"symbols right at n = {config.train_length} (%)",
        ylim=(0, 102),
    )
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside right upper", frameon=False)
    labels = ", ".join(ARMS[arm].label for arm in config.arms)
    return Picture(
        name=f"{name}-curves",
        figure=figure,
        alt=f"Symbols answered rightly against updates, a line per seed, for {labels}.",
        caption=(
            f"Validation data at n = {config.train_length}, which the curriculum reaches after "
            f"{100 * config.curriculum:.0f} % of the updates; a line per seed. Dotted: chance."
        ),
    )
