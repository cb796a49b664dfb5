"""Learning curves of an experiment on associative retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from fastweights.experiments.retrieval_study.config import RetrievalConfig
from fastweights.experiments.retrieval_study.networks import Arm
from fastweights.lab.experiment import Result
from fastweights.report.figures import ARM_STYLES, draw_dots, new_figure
from fastweights.report.section import Picture

__all__ = ["dots", "learning_curves"]


def learning_curves(
    arms: Mapping[str, Arm],
    config: RetrievalConfig,
    results: Sequence[Result],
    size: int,
    ceiling: float,
    name: str,
) -> Picture:
    """Validation accuracy against updates, a line per seed, and the binding-free ceiling."""
    figure: Figure = new_figure()
    axes = figure.add_subplot()
    for arm, (colour, style) in zip(config.arms, ARM_STYLES, strict=False):
        label: str | None = arms[arm].label
        for result in results:
            unit = result.unit
            if unit.arm != arm or unit.options["hidden_size"] != size:
                continue
            curve = _curve(result)
            if not curve:
                continue
            axes.plot(
                [point["update"] for point in curve],
                [100 * point["validation_accuracy"] for point in curve],
                color=colour,
                linestyle=style,
                linewidth=1.3,
                marker="" if result.values else "x",
                markevery=[-1],
                label=label,
            )
            label = None
    axes.axhline(100 * ceiling, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)))
    axes.annotate(
        f"binding-free ceiling {100 * ceiling:.1f} %",
        (1, 100 * ceiling),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        color="0.25",
        fontsize=9,
    )
    axes.set(
        xlabel="updates",
        ylabel="validation accuracy (%)",
        ylim=(0, 102),
        title=f"Associative retrieval, K = {config.num_pairs}, R = {size}: every seed",
    )
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside right upper", frameon=False)
    labels = ", ".join(arms[arm].label for arm in config.arms)
    return Picture(
        name=f"{name}-k{config.num_pairs}-r{size}",
        figure=figure,
        alt=(
            f"Validation accuracy against updates at R = {size} for {labels}; one line per seed, "
            f"with the binding-free ceiling at {100 * ceiling:.1f} per cent."
        ),
        caption=(
            "Validation accuracy while training, a line per seed. A cross ends the line of a run "
            "that did not finish."
        ),
    )


def _curve(result: Result) -> Sequence[dict[str, Any]]:
    """The validations of a run, as far as it came."""
    if result.values is not None:
        return result.values["curve"]
    return result.curve


def dots(
    arms: Mapping[str, Arm],
    config: RetrievalConfig,
    results: Sequence[Result],
    size: int,
    ceiling: float,
    name: str,
) -> Picture:
    """Test accuracy of every run, a row per arm, with means and intervals."""
    rows = []
    for arm in config.arms:
        found = [
            100 * r.values["test_accuracy"]
            for r in results
            if r.unit.arm == arm and r.unit.options["hidden_size"] == size and r.values is not None
        ]
        rows.append((arms[arm].label, found))
    figure = new_figure(7.6, 1.2 + 0.27 * len(rows))
    axes = figure.add_subplot()
    draw_dots(axes, rows)
    axes.axvline(100 * ceiling, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)))
    axes.set(
        xlabel="test accuracy (%)",
        xlim=(0, 102),
        title=f"K = {config.num_pairs}, R = {size}; dotted: binding-free ceiling",
    )
    return Picture(
        name=f"{name}-accuracy-k{config.num_pairs}-r{size}",
        figure=figure,
        alt=f"Test accuracy of every run at R = {size}, a row for each of {len(rows)} networks, "
        f"with the binding-free ceiling at {100 * ceiling:.1f} per cent.",
        caption="Test accuracy: a dot per seed, the mean and its 95 % interval.",
    )
