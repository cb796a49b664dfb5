"""How long a fading memory can be read: Xu, Ba & Zemel (2017), equations 4–8 and figure 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from fastweights.experiments.memory_networks import NETWORK_DECAYS, train_network
from fastweights.experiments.memory_tables import (
    POSITION_RULE,
    READINGS,
    lifetime_table,
    position_claims,
    position_table,
    reading_claims,
    reading_table,
    run_table,
    statement_table,
)
from fastweights.lab.experiment import Result, Unit
from fastweights.report.memory_figures import (
    decays_figure,
    lifetime_figure,
    positions_figure,
    snr_figure,
    stored_figure,
)
from fastweights.report.section import Claim, Picture, Section
from fastweights.tasks import AssociativeRetrieval, binding_free_ceiling
from fastweights.theory.memory import VERDICT_RULE, findings, pair_snr, sweeps
from fastweights.theory.transfer import Estimate, Finding, Series
from fastweights.training.config import ConfigError, nearest

__all__ = ["Memory", "MemoryConfig"]


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Settings of the simulations and of the networks beside them.

    ``effort`` multiplies the number of draws of the simulations, which have one ``seed``. Networks
    have the seeds ``first_seed``, ``first_seed`` + 1, …; their settings were chosen on seeds 1 and
    2. Where ``write_rate`` is None, each decay has its own.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    effort: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    decays: tuple[str, ...] = tuple(NETWORK_DECAYS)
    hidden_size: Annotated[int, Field(ge=2, le=4096)] = 20
    num_pairs: Annotated[int, Field(ge=1, le=26)] = 4
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 300
    updates: Annotated[int, Field(ge=1)] = 4_000
    train_size: Annotated[int, Field(ge=128)] = 100_000
    test_size: Annotated[int, Field(ge=1_000)] = 20_000
    write_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class Memory:
    """Each formula beside the simulation that checks it, and trained networks beside both."""

    name = "memory"
    title = "Theory of the fading memory"
    summary = "How long can a fast weight be read, by decay? Xu, Ba & Zemel (2017), equations 4–8"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": MemoryConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5})

    def units(self, config: MemoryConfig, seeds: int) -> list[Unit]:
        for decay in config.decays:
            if decay not in NETWORK_DECAYS:
                raise ConfigError(f"unknown decay {decay!r}: {nearest(decay, [*NETWORK_DECAYS])}")
        simulations = [Unit(name, name, name, seed=None) for name in ("statements", "curves")]
        networks = [
            Unit(
                name=f"{decay}-seed{seed}",
                label=NETWORK_DECAYS[decay].label,
                arm=decay,
                seed=seed,
                total=config.updates,
                note=f"ceiling {100 * _ceiling(config):.1f} %",
            )
            for seed in range(config.first_seed, config.first_seed + seeds)
            for decay in config.decays
        ]
        return [*simulations, *networks]

    def run(
        self, config: MemoryConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> list[Any] | dict[str, Any]:
        if unit.arm == "statements":
            return [dataclasses.asdict(f) for f in findings(config.seed, config.effort)]
        if unit.arm == "curves":
            curves = sweeps(config.seed, config.effort)
            return {name: dataclasses.asdict(series) for name, series in curves.items()}
        if device != "cpu":
            raise ValueError(f"the networks are small and run on the cpu, got device {device!r}")
        assert unit.seed is not None
        return train_network(
            NETWORK_DECAYS[unit.arm],
            AssociativeRetrieval(
                num_pairs=config.num_pairs,
                train_size=config.train_size,
                test_size=config.test_size,
            ),
            hidden_size=config.hidden_size,
            updates=config.updates,
            write_rate=config.write_rate,
            seed=unit.seed,
            folder=folder,
            writer=writer,
        )

    def section(self, config: MemoryConfig, results: Sequence[Result], folder: Path) -> Section:
        done: dict[str, Any] = {r.unit.name: r.values for r in results if r.values is not None}
        rows = [
            Finding(**{**row, "simulated": Estimate(*row["simulated"])})
            for row in done.get("statements", [])
        ]
        curves = {n: Series.from_values(v) for n, v in done.get("curves", {}).items()}
        measured = {
            decay: [
                r.values["by_position"]
                for r in results
                if r.values is not None and r.unit.arm == decay
            ]
            for decay in config.decays
        }
        measured = {decay: values for decay, values in measured.items() if values}
        predicted = {
            decay: pair_snr(
                NETWORK_DECAYS[decay].make(), config.hidden_size - 1, config.num_pairs
            ).tolist()
            for decay in measured
        }
        return Section(
            title=self.title,
            intro=(
                "Every memory is written into the same synapses and fades with its age. Its signal "
                "is what is left of it, its noise what all others have left. Formulas beside "
                "simulations; and networks trained on associative retrieval, asked for their "
                "older and their newer pairs."
            ),
            claims=[
                *(
                    Claim(f.claim, f.published, f.ours(), f.simulated.n, f.verdict)
                    for f in rows
                    if f.published != "—"
                ),
                *reading_claims(),
                *position_claims(measured),
            ],
            tables=[
                statement_table(rows),
                reading_table(),
                lifetime_table(),
                position_table(predicted, measured),
                run_table([r for r in results if r.unit.arm in NETWORK_DECAYS]),
            ],
            pictures=[
                *_theory_pictures(curves),
                *([_positions(config, predicted, measured)] if measured else []),
            ],
            chosen="validation data, seeds 1 and 2",
            notes=[
                VERDICT_RULE,
                POSITION_RULE,
                "The write rate scales signal and noise alike: equation 7 has no η in it, and "
                "gives no reason for η = 1.",
                f"The predicted SNR of a pair is that of one of R = {config.hidden_size} units "
                "that reads random memories: N = R − 1.",
            ],
        )


def _ceiling(config: MemoryConfig) -> float:
    return float(binding_free_ceiling(config.num_pairs))


def _theory_pictures(curves: Mapping[str, Series]) -> list[Picture]:
    decays = Picture(
        name="memory-decays",
        figure=decays_figure(READINGS, steps=54),
        alt="What is left of a memory against its age: 0.95 to the power k, and three readings of "
        "the printed power law; two fall at once to nothing, one crosses 0.95^k at age 35.",
        caption="The decay curves of figure 1, with every reading of the printed product, at the "
        "end of 54 steps (26 pairs).",
    )
    if not curves:
        return [decays]
    return [
        decays,
        Picture(
            name="memory-snr",
            figure=snr_figure(curves),
            alt="Signal to noise against age for six decays: lines by equation 7 run through the "
            "simulated points.",
            caption="Equation 7 (lines) and simulations (points, three standard errors).",
        ),
        Picture(
            name="memory-lifetime",
            figure=lifetime_figure(curves),
            alt="Lifetime against the number of synapses for six decays: logarithmic for "
            "exponentials, a power for power laws, nearly constant for the others.",
            caption="The largest age with an SNR of at least 1. Steps in the lines are whole ages.",
        ),
        Picture(
            name="memory-stored",
            figure=stored_figure(curves),
            alt="Signal to noise against age for independent synapses, outer products of ±1 "
            "vectors, of rectified vectors, and for one unit that reads: each lower than the one "
            "before.",
            caption="The theory's independent synapses, and what fast weights have in their place. "
            "All have 400 entries, or 20 of them.",
        ),
    ]


def _positions(
    config: MemoryConfig,
    predicted: Mapping[str, Sequence[float]],
    measured: Mapping[str, Sequence[Sequence[float]]],
) -> Picture:
    labels = {decay: NETWORK_DECAYS[decay].label for decay in measured}
    return Picture(
        name="memory-positions",
        figure=positions_figure(
            {labels[d]: line for d, line in predicted.items()},
            {labels[d]: values for d, values in measured.items()},
            _ceiling(config),
        ),
        alt="Predicted signal to noise and measured error by the pair that is asked for, from "
        "the oldest to the newest.",
        caption=f"Random memories, and networks of {config.hidden_size} units after "
        f"{config.updates:,} updates, mean over seeds with its 95 % interval.",
    )
