"""The figures of the binding experiment, with the words that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastweights.experiments.other_uses.binding.pools import BindingConfig
from fastweights.experiments.other_uses.binding.simulation import STREAM, WAITS
from fastweights.experiments.other_uses.shared import draw_curve, draw_level
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Picture

__all__ = ["capacity_picture", "decay_picture", "stream_picture"]


def capacity_picture(config: BindingConfig, values: Mapping[str, Any]) -> Picture:
    """Questions right by objects held at once."""
    figure = new_figure(7.2, 4.4)
    axes = figure.add_subplot()
    counts = np.array(config.object_counts)
    markers = ("o", "s", "^", "D", "v", "P")
    for units, (colour, _), marker in zip(
        reversed(config.unit_counts), ARM_STYLES, markers, strict=False
    ):
        right = 100 * np.array([cell["fast"] for cell in values["capacity"][str(units)]]).T
        draw_curve(axes, counts, right, colour, "-", f"fast weights, {units} units", marker)
    first = values["capacity"][str(config.unit_counts[0])]
    primed = [100 * np.mean(cell["primed"]) for cell in first]
    axes.plot(counts, primed, "x", color="0.3", label="no fast weights, primed")
    fine = np.linspace(counts[0], counts[-1], 200)
    axes.plot(fine, 100 / fine, color="0.3", linewidth=1, label="binding-free ceiling, 1/objects")
    draw_level(axes, 100 / config.values, "chance")
    axes.set(
        xlabel="objects held at once", ylabel="questions right (%)", ylim=(0, 103), xticks=counts
    )
    figure.legend(loc="outside right upper", frameon=False)
    return Picture(
        name="binding",
        figure=figure,
        alt="Questions right against the number of objects in a scene: near 100 per cent with fast "
        "weights until the pools are too small, along one over the number of objects without.",
        caption="Bindings held at once. With fast weights the answer depends on the number of "
        "units; without, it is one guess among the objects of the scene.",
    )


def decay_picture(config: BindingConfig, values: Mapping[str, Any]) -> Picture:
    """Questions right by the age of an object, and after waiting."""
    figure = new_figure(8.6, 4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    ages = np.arange(config.many_objects)
    markers = ("o", "s", "^", "D", "v", "P")
    for decay, course, (colour, _), marker in zip(
        config.decays, values["by_age"], ARM_STYLES, markers, strict=False
    ):
        draw_curve(
            left, ages, 100 * np.array(course), colour, "-", f"decay {decay:g} per object", marker
        )
    left.set(xlabel="objects ago", ylabel="questions right (%)", title="while a scene is taken in")
    draw_curve(
        right, WAITS, 100 * np.array(values["scene"]["waited"]), ARM_STYLES[0][0], marker="o"
    )
    right.set(xlabel="updates since", title=f"afterwards, at decay {config.decay:g}")
    for axes in (left, right):
        draw_level(axes, 100 / config.values)
    right.annotate(
        "chance",
        (1, 100 / config.values),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        color="0.25",
        fontsize=9,
    )
    left.set_ylim(0, 103)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
    )
    return Picture(
        name="binding-decay",
        figure=figure,
        alt="Left: with strong decay only the latest objects are known. Right: all "
        "objects are known for a while, then forgotten together.",
        caption=f"Left: a scene of {config.many_objects} objects; the more fast weights lose at "
        f"each object, the fewer of the earlier ones are left. Right: {config.objects} objects, "
        "then nothing happens but decay.",
    )


def stream_picture(config: BindingConfig, values: Mapping[str, Any]) -> Picture:
    """Questions right in a row of scenes."""
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    scenes = np.arange(1, config.stream + 1)
    styles = zip(STREAM.items(), ARM_STYLES, ("-", "--", "-.", (0, (4, 1.5))), strict=False)
    for (arm, label), (colour, _), style in styles:
        draw_curve(axes, scenes, 100 * np.array(values["stream"][arm]), colour, style, label)
    draw_level(axes, 100 / config.objects, "binding-free ceiling")
    axes.set(xlabel="scene", ylabel="questions right (%)", ylim=(0, 103))
    axes.set_xticks([1, *range(5, config.stream + 1, 5)])
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return Picture(
        name="binding-stream",
        figure=figure,
        alt="Questions right over a row of scenes: high throughout if fast weights are wiped or "
        "decay between scenes, falling if they never decay, at the binding-free ceiling for slow "
        "weights.",
        caption=f"One scene of {config.objects} objects after another, {config.pause} updates "
        "apart. Fast weights that never decay mix up the scenes.",
    )
