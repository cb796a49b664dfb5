"""The theory of transfer between associations: Hinton & Plaut (1987), section 5."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Claim, Picture, Section, Table
from fastweights.report.transfer_figures import (
    cosine_figure,
    course_figure,
    retrained_set_figure,
    size_figure,
    two_weights_figure,
)
from fastweights.theory.transfer import VERDICT_RULE, Estimate, Finding, Series, findings, sweeps
from fastweights.training.config import ConfigError

__all__ = ["Transfer", "TransferConfig"]


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """Settings of the simulations.

    ``effort`` multiplies the number of draws; standard errors shrink with its root.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    effort: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Transfer:
    """Each formula beside the simulation that checks it."""

    name = "transfer"
    title = "Theory of transfer"
    summary = "How far relearning one association helps another. Hinton & Plaut (1987), section 5"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": TransferConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 1})

    def units(self, config: TransferConfig, seeds: int) -> list[Unit]:
        if seeds != 1:
            raise ConfigError(
                "transfer draws its samples from one seed: for smaller intervals use --set "
                f"effort={seeds:g} instead of --seeds {seeds}, for other draws --set seed=…"
            )
        return [
            Unit(name=name, label=name, arm=name, seed=None) for name in ("statements", "curves")
        ]

    def run(
        self, config: TransferConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> list[Any] | dict[str, Any]:
        if unit.arm == "statements":
            return [dataclasses.asdict(f) for f in findings(config.seed, config.effort)]
        curves = sweeps(config.seed, config.effort)
        return {name: dataclasses.asdict(series) for name, series in curves.items()}

    def section(self, config: TransferConfig, results: Sequence[Result], folder: Path) -> Section:
        done: dict[str, Any] = {r.unit.arm: r.values for r in results if r.values is not None}
        rows = [
            Finding(**{**row, "simulated": Estimate(*row["simulated"])})
            for row in done.get("statements", [])
        ]
        curves = {n: Series.from_values(v) for n, v in done.get("curves", {}).items()}
        return Section(
            title=self.title,
            intro=(
                "A linear unit has learned associations exactly; Gaussian noise falls on every "
                "weight; then some associations are retrained. How much do the others improve for "
                "every unit that the retrained ones do? Formulas beside simulations."
            ),
            claims=[
                Claim(f.claim, f.published, f.ours(), f.simulated.n, f.verdict)
                for f in rows
                if f.published != "—"
            ],
            tables=[_statements(rows)] if rows else [],
            pictures=_pictures(curves) if curves else [],
            chosen="nothing to choose",
            notes=[
                VERDICT_RULE,
                "Equation 2 is printed as an expected cosine. As such it is wrong: E[cos θ] is "
                "(2/π) c asin c, 1/6 for long random 0/1 inputs. It is right for the ratio of the "
                "expected improvements, which is what the argument needs.",
                "The decline of transfer while retraining goes on is no law: for sparse −1/0/1 "
                "inputs the cumulative ratio rises.",
            ],
        )


def _statements(rows: Sequence[Finding]) -> Table:
    return Table(
        caption="Every statement: the value under test, and the simulation with three standard "
        "errors to either side.",
        columns=("statement", "tested", "simulated", "verdict"),
        rows=[[f.claim, f"{f.theory:.4f}", f.ours(), f.verdict] for f in rows],
    )


def _pictures(curves: Mapping[str, Series]) -> list[Picture]:
    return [
        Picture(
            name="transfer-cosine",
            figure=cosine_figure(curves),
            alt="Transfer between two associations against the cosine of their inputs: c squared "
            "for the ratio of improvements, a lower curve for the expected cosine.",
            caption="What equation 2 says and what it does not: the ratio of expected improvements "
            "is c², the expected cosine is less. Bars are three standard errors.",
        ),
        Picture(
            name="transfer-set",
            figure=retrained_set_figure(curves),
            alt="Unretrained over retrained improvement against the number retrained.",
            caption="The more associations are retrained, the more nearly the others keep up: "
            ".769 at 10, .943 at 50.",
        ),
        Picture(
            name="transfer-size",
            figure=size_figure(curves),
            alt="Transfer against the length of the inputs, between two associations and for a "
            "load proportional to the length.",
            caption="With −1/0/1 inputs a pair transfers 1/n, and a load proportional to n makes "
            "up for it.",
        ),
        Picture(
            name="transfer-course",
            figure=course_figure(curves),
            alt="Cumulative transfer while retraining proceeds: falling for 0/1 inputs, rising for "
            "sparse −1/0/1 inputs.",
            caption="Transfer while retraining proceeds (section 5.3), and the case in which it "
            "does not decline.",
        ),
        Picture(
            name="transfer-two-weights",
            figure=two_weights_figure(curves),
            alt="The two-weight network of figures 3 and 4: two solution lines, the circle of "
            "perturbed weights that retraining turns into an ellipse, arcs of positive transfer; "
            "beside it the probability of positive transfer, from two thirds to a half.",
            caption="Figures 3 and 4 of the paper. Perturbed weights lie on a circle around the "
            "solution O; retraining association 1 moves every point P towards line 1, and the "
            "circle becomes an ellipse. Thick arcs: a further step on association 1 also "
            "improves association 2.",
        ),
    ]
