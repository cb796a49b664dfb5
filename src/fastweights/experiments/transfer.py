"""The theory of transfer between associations: Hinton & Plaut (1987), section 5."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from fastweights.experiments.transfer_figures import PICTURES
from fastweights.lab.experiment import Result, Unit
from fastweights.lab.simulation import Theory, published_claims, statement_table, use_one_core
from fastweights.report.section import Section
from fastweights.theory.transfer import VERDICT_RULE, findings, sweeps
from fastweights.training.config import ConfigError

THEORY = Theory(findings, sweeps)


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
        return THEORY.units()

    def run(
        self, config: TransferConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> list[Any] | dict[str, Any]:
        use_one_core(device)
        return THEORY.run(unit, config.seed, config.effort)

    def section(self, config: TransferConfig, results: Sequence[Result], folder: Path) -> Section:
        rows, curves = THEORY.read(results)
        caption = (
            "Every statement: the value under test, and the simulation with three standard errors "
            "to either side."
        )
        return Section(
            title=self.title,
            intro=(
                "A linear unit has learned associations exactly; Gaussian noise falls on every "
                "weight; then some associations are retrained. How much do the others improve for "
                "every unit that the retrained ones do? Formulas beside simulations."
            ),
            claims=published_claims(rows),
            tables=[statement_table(rows, caption, digits=4)] if rows else [],
            pictures=[picture(curves) for picture in PICTURES] if curves else [],
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
