"""Experiments that simulate instead of training one network at a time.

`Simulation` runs all seeds at once. `Theory` is the part of an experiment that holds formulas
against the simulations that check them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Claim, Picture, Section, Table
from fastweights.theory.estimates import Finding, Series
from fastweights.training.config import ConfigError


def use_one_core(device: str) -> None:
    """For networks so small that a second thread only waits for the first.

    Raises:
        ValueError: the device is not the CPU.
    """
    if device != "cpu":
        raise ValueError(f"the networks are small and run on the cpu, got device {device!r}")
    torch.set_num_threads(1)


class Simulation:
    """An experiment whose units do all seeds at once: one unit, or one for each of its arms.

    Subclasses give the attributes, `simulate`, and what they have to say; see
    :class:`fastweights.lab.experiment.Experiment` for the rest.

    Attributes:
        arms: what is simulated, a unit each; the experiment itself if there are none.
        what: a unit simulates so many of these, for its label.
        chosen: on what the settings were chosen.
    """

    name: str
    title: str
    summary: str
    presets: Mapping[str, Callable[[], Any]]
    seeds: Mapping[str, int]
    arms: Sequence[str] = ()
    what = "seeds"
    chosen = "seeds below 100"

    # What runs.

    def check(self, config: Any) -> None:
        """See that a configuration is possible.

        Raises:
            ConfigError: it is not; the message names the setting.
        """

    def units(self, config: Any, seeds: int) -> list[Unit]:
        """A unit for every arm, with all seeds in its options.

        Raises:
            ConfigError: there is no seed, or the configuration is impossible.
        """
        self.check(config)
        if seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {seeds}")
        if config.first_seed < 0:
            raise ConfigError(f"first_seed must be at least 0, got {config.first_seed}")
        label = f"{seeds} {self.what}"
        return [
            Unit(
                name=arm.replace(" ", "-").replace(",", ""),
                label=f"{label}, {arm}" if self.arms else label,
                arm=arm,
                seed=None,
                options={"seeds": list(range(config.first_seed, config.first_seed + seeds))},
            )
            for arm in self.arms or (self.name,)
        ]

    def run(
        self, config: Any, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        """Simulate on one core; a simulation that was interrupted begins anew."""
        use_one_core(device)
        return self.simulate(config, unit.arm, unit.options["seeds"])

    def simulate(self, config: Any, arm: str, seeds: Sequence[int]) -> dict[str, Any]:
        """Everything that is shown, as JSON values with the seeds in the first dimension."""
        raise NotImplementedError

    # What is shown.

    def read(self, values: Mapping[str, Any]) -> Any:
        """What claims, tables and pictures are made of, from the values of finished arms.

        None if the arm that they need is not among them.
        """
        return values.get(self.name)

    def intro(self, config: Any) -> str:
        """What is simulated, for somebody who has never heard of it."""
        raise NotImplementedError

    def claims(self, config: Any, found: Any) -> Sequence[Claim]:
        """Rows of the ledger."""
        raise NotImplementedError

    def tables(self, config: Any, found: Any) -> Sequence[Table]:
        """The tables."""
        raise NotImplementedError

    def pictures(self, config: Any, found: Any) -> Sequence[Picture]:
        """The figures."""
        raise NotImplementedError

    def notes(self, config: Any) -> Sequence[str]:
        """Rules of the verdicts, settings."""
        return ()

    def section(self, config: Any, results: Sequence[Result], folder: Path) -> Section:
        found = self.read({r.unit.arm: r.values for r in results if r.values is not None})
        if found is None:
            return Section(self.title, self.intro(config), claims=[], tables=[], pictures=[])
        return Section(
            title=self.title,
            intro=self.intro(config),
            claims=self.claims(config, found),
            tables=self.tables(config, found),
            pictures=self.pictures(config, found),
            notes=self.notes(config),
            chosen=self.chosen,
        )


@dataclasses.dataclass(frozen=True)
class Theory:
    """Formulas beside the simulations that check them, in two units.

    Attributes:
        findings: checks every statement, with a seed and an effort.
        sweeps: simulates every curve, by name, with the same.
    """

    findings: Callable[[int, float], Sequence[Finding]]
    sweeps: Callable[[int, float], Mapping[str, Series]]

    def units(self) -> list[Unit]:
        """``statements`` and ``curves``."""
        return [Unit(name, name, name, seed=None) for name in ("statements", "curves")]

    def run(self, unit: Unit, seed: int, effort: float) -> list[Any] | dict[str, Any]:
        """One of the units, as JSON values."""
        if unit.arm == "statements":
            return [dataclasses.asdict(finding) for finding in self.findings(seed, effort)]
        curves = self.sweeps(seed, effort)
        return {name: dataclasses.asdict(series) for name, series in curves.items()}

    def read(self, results: Sequence[Result]) -> tuple[list[Finding], dict[str, Series]]:
        """The findings and the curves; none where the unit did not finish."""
        done: dict[str, Any] = {r.unit.arm: r.values for r in results if r.values is not None}
        curves = done.get("curves", {}).items()
        return (
            [Finding.from_values(row) for row in done.get("statements", [])],
            {name: Series.from_values(series) for name, series in curves},
        )


def published_claims(findings: Sequence[Finding]) -> list[Claim]:
    """Rows of the ledger: the findings on what was published."""
    return [
        Claim(f.claim, f.published, f.ours(), f.simulated.n, f.verdict)
        for f in findings
        if f.published != "—"
    ]


def statement_table(findings: Sequence[Finding], caption: str, digits: int) -> Table:
    """Every finding: the value under test, and the simulation with three standard errors."""
    return Table(
        caption=caption,
        columns=("statement", "tested", "simulated", "verdict"),
        rows=[[f.claim, f"{f.theory:.{digits}f}", f.ours(digits), f.verdict] for f in findings],
    )


def draw_series(
    axes: Axes,
    series: Series,
    colour: str,
    marker: str,
    label: str | None = None,
    *,
    up: int = 0,
    right: int = 0,
) -> None:
    """Simulated points with three standard errors to either side.

    Args:
        axes: where.
        series: the points.
        colour: of points and bars.
        marker: of the points.
        label: in the legend.
        up, right: how far to move the points, where a logarithmic axis has no room for 0.
    """
    axes.errorbar(
        np.array(series.x) + right,
        np.array([y.value for y in series.y]) + up,
        yerr=[3 * y.standard_error for y in series.y],
        color=colour,
        marker=marker,
        markersize=4.5,
        markerfacecolor="white",
        linestyle="none",
        capsize=2,
        linewidth=1,
        label=label,
    )
