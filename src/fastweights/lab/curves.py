"""Curves of a study's arms: a line for each seed, or their mean with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from fastweights.lab.experiment import Result
from fastweights.lab.findings import Arms, Values
from fastweights.report.figures import ARM_STYLES, draw_curve, draw_level, new_figure, place_legend
from fastweights.report.section import Picture


def updates(values: Values) -> list[float]:
    """At which updates a run was validated."""
    return [point["update"] for point in values["curve"]]


def validated(measure: str, scale: float = 1.0) -> Callable[[Values], list[float]]:
    """What its validations measured.

    Example:
        >>> run = {"curve": [{"update": 5, "validation_accuracy": 0.25}]}
        >>> updates(run), validated("validation_accuracy", 100)(run)
        ([5], [25.0])
    """
    return lambda values: [scale * point[measure] for point in values["curve"]]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        x, y: the curve of a run.
        axes: their labels, limits and title, as `Axes.set` takes them.
        level: a dotted line for chance or a ceiling.
        level_label: what stands at it.
        finish: what else to do to the axes.
    """

    x: Callable[[Values], Sequence[float]]
    y: Callable[[Values], Sequence[float]]
    axes: Mapping[str, Any]
    level: float | None = None
    level_label: str | None = None
    finish: Callable[[Axes], object] | None = None


@dataclasses.dataclass(frozen=True)
class Curves:
    """A figure of all arms.

    Attributes:
        name, alt, caption: of the picture.
        panels: side by side.
        means: the mean over seeds with its interval and a marker, instead of a line per seed.
        unfinished: draw runs that did not finish as far as they came, with a cross at the end;
            for curves of validations.
        size: of the figure, in inches.
        legend_columns: of a legend below the panels; beside them if it is 0.
    """

    name: str
    alt: str
    caption: str
    panels: Sequence[Panel]
    means: bool = False
    unfinished: bool = False
    size: tuple[float, float] = (7.2, 4.2)
    legend_columns: int = 0

    def picture(
        self,
        study: Arms,
        arms: Sequence[str],
        results: Sequence[Result],
        **options: Any,
    ) -> Picture:
        """The figure of these arms, of runs with these options."""
        figure = new_figure(*self.size)
        grid = figure.subplots(1, len(self.panels), sharey=True, squeeze=False)[0]
        for arm, style in zip(arms, ARM_STYLES, strict=False):
            runs = self._runs(results, arm, options)
            for panel, axes in zip(self.panels, grid, strict=True):
                label = study.arms[arm].label if axes is grid[0] else None
                self._draw(axes, panel, runs, style, label)
        for panel, axes in zip(self.panels, grid, strict=True):
            if panel.level is not None:
                draw_level(axes, panel.level, annotation=panel.level_label)
            axes.set(**panel.axes)
            if panel.finish is not None:
                panel.finish(axes)
        if grid[0].get_legend_handles_labels()[1]:
            place_legend(figure, self.legend_columns)
        return Picture(self.name, figure, self.alt, self.caption)

    def _runs(
        self, results: Sequence[Result], arm: str, options: Values
    ) -> list[tuple[Values, bool]]:
        """What to draw of an arm's runs, and whether they finished."""
        found: list[tuple[Values, bool]] = []
        for result in results:
            unit = result.unit
            if unit.arm != arm or any(unit.options.get(k) != v for k, v in options.items()):
                continue
            if result.values is not None:
                found.append((result.values, True))
            elif self.unfinished and result.curve:
                found.append(({"curve": result.curve}, False))
        return found

    def _draw(
        self,
        axes: Axes,
        panel: Panel,
        runs: Sequence[tuple[Values, bool]],
        style: tuple[str, str],
        label: str | None,
    ) -> None:
        colour, dashes = style
        if self.means:
            if runs:
                x = panel.x(runs[0][0])
                draw_curve(axes, x, [panel.y(v) for v, _ in runs], colour, dashes, label, "o")
            return
        for values, finished in runs:
            axes.plot(
                panel.x(values),
                panel.y(values),
                color=colour,
                linestyle=dashes,
                linewidth=1.3,
                marker="" if finished else "x",
                markevery=[-1],
                label=label,
            )
            label = None
