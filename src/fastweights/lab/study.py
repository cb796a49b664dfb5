"""One shape for every study: arms × settings × seeds, each network trained, validated and tested.

A study is data for :class:`Study` and one file: its configuration, its arms, a :class:`Run`, and
what it shows. See ``experiments/sorting_and_copying.py`` for the shortest.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fastweights.lab.experiment import Result, Unit
from fastweights.lab.findings import Column, Finding, run_table, summary_table
from fastweights.report.section import Claim, Picture, Section, Table
from fastweights.training.checkpoint import Carried
from fastweights.training.config import ConfigError, nearest
from fastweights.training.loop import run_updates
from fastweights.training.schedule import Schedule

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Arm:
    """A network to train.

    Attributes:
        label: what people call it.
        build: makes it, or its layer, from what the study's run gives.
        learning_rate: the one that suits it, or one for each hidden size that was tried.
        weight_decay: that suits it, where the configuration leaves that open.
        options: what else sets it apart.
    """

    label: str
    build: Callable[..., nn.Module]
    learning_rate: float | Mapping[int, float]
    weight_decay: float = 0.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def learning_rate_at(self, hidden_size: int) -> float:
        """That of the nearest hidden size tried.

        Example:
            >>> Arm("LSTM", nn.LSTM, {50: 0.02, 200: 0.04}).learning_rate_at(180)
            0.04
        """
        rates = self.learning_rate
        if not isinstance(rates, Mapping):
            return rates
        return rates[min(rates, key=lambda size: abs(size - hidden_size))]


@dataclasses.dataclass(frozen=True)
class Axis:
    """A setting of which a study runs several values.

    Attributes:
        option: its name in the options of a unit, such as "hidden_size".
        setting: the configuration's list of values, such as "hidden_sizes".
        name, label: of a value in the names of folders and in what people read, as `str.format`
            takes them.
        head: of its column in the table of all networks.
    """

    option: str
    setting: str
    name: str = "{}"
    label: str = "{}"
    head: str = ""


HIDDEN_SIZE = Axis("hidden_size", "hidden_sizes", name="r{}", label="R = {}", head="R")


class Run:
    """One network in training.

    Attributes:
        model: on its device, its parameters drawn.
        schedule: how it is trained.
        carried: what an update hands to the next beside the parameters.
        about: what the reader of a checkpoint needs to know beside them, JSON values.
    """

    model: nn.Module
    schedule: Schedule
    carried: Carried | None = None
    about: Mapping[str, Any] = _NOTHING

    def loss(self, update: int) -> Tensor:
        """The loss of an update, counted from 0.

        It depends on nothing but that number, the random state and what is carried.
        """
        raise NotImplementedError

    def validate(self) -> dict[str, float]:
        """What is measured while training; names begin with ``validation_``."""
        raise NotImplementedError

    def test(self) -> dict[str, Any]:
        """What is measured at the end, JSON values."""
        raise NotImplementedError


class Study:
    """An experiment that trains every arm with every setting and seed.

    Subclasses give the attributes and override what they have to say; see
    :class:`fastweights.lab.experiment.Experiment` for the rest.

    Attributes:
        arms: the networks by name; the configuration's ``arms`` chooses among them.
        runs: makes the run of an arm: ``runs(config, arm, unit, device)``, after seeding.
        axes: settings of which several values are run, the first changing slowest.
        chosen: on what the settings were chosen.
    """

    name: str
    title: str
    summary: str
    presets: Mapping[str, Callable[[], Any]]
    seeds: Mapping[str, int]
    arms: Mapping[str, Arm]
    runs: Callable[[Any, Arm, Unit, torch.device], Run]
    axes: Sequence[Axis] = ()
    chosen = "validation data, seeds below 300"

    # What runs.

    def check(self, config: Any) -> None:
        """See that a configuration is possible.

        Raises:
            ConfigError: it is not; the message names the setting.
        """

    def note(self, config: Any) -> str:
        """What to hold accuracies against while networks train."""
        return ""

    def units(self, config: Any, seeds: int) -> list[Unit]:
        """A run for every arm, setting and seed.

        Raises:
            ConfigError: the configuration is impossible.
        """
        check_known("arm", config.arms, self.arms)
        check_distinct(config, "arms", *(axis.setting for axis in self.axes))
        self.check(config)
        return [
            Unit(
                name="-".join([arm, *names, f"seed{seed}"]),
                label=", ".join([self.arms[arm].label, *labels]),
                arm=arm,
                seed=seed,
                options=options,
                total=config.updates,
                note=self.note(config),
            )
            for options in self.settings(config)
            for names, labels in [self._texts(options)]
            for seed in range(config.first_seed, config.first_seed + seeds)
            for arm in config.arms
        ]

    def settings(self, config: Any) -> list[dict[str, Any]]:
        """Every combination of the axes' values, as units have them in their options."""
        values = [getattr(config, axis.setting) for axis in self.axes]
        options = [axis.option for axis in self.axes]
        return [dict(zip(options, chosen, strict=True)) for chosen in itertools.product(*values)]

    def _texts(self, options: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        names = [axis.name.format(options[axis.option]) for axis in self.axes]
        return names, [axis.label.format(options[axis.option]) for axis in self.axes]

    def run(
        self, config: Any, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        """Train one network, and test it; goes on from what ``folder`` holds."""
        assert unit.seed is not None
        torch.manual_seed(unit.seed)
        run = type(self).runs(config, self.arms[unit.arm], unit, torch.device(device))
        trained = run_updates(
            run.model,
            run.loss,
            run.validate,
            run.schedule,
            folder=folder,
            writer=writer,
            carried=run.carried,
            about=run.about,
        )
        last = trained["curve"][-1]
        return {
            **{name: value for name, value in last.items() if name.startswith("validation_")},
            **trained,
            **run.test(),
            "learning_rate": run.schedule.learning_rate,
            "weight_decay": run.schedule.weight_decay,
            "parameters": sum(p.numel() for p in run.model.parameters()),
        }

    def _begun(self, config: Any, results: Sequence[Result]) -> Any:
        """The configuration without values of an axis of which there is nothing to show."""
        begun = {}
        for axis in self.axes:
            seen = {result.unit.options[axis.option] for result in results if result.has_begun}
            if seen:
                values = getattr(config, axis.setting)
                begun[axis.setting] = tuple(value for value in values if value in seen)
        return dataclasses.replace(config, **begun)

    # What is shown.

    def heading(self, config: Any) -> str:
        """The section's title."""
        return self.title

    def intro(self, config: Any) -> str:
        """What the task is, for somebody who has never heard of it."""
        raise NotImplementedError

    def notes(self, config: Any) -> Sequence[str]:
        """Rules of the verdicts, data, settings."""
        return ()

    def caption(self, config: Any) -> str:
        """Of the table of all networks."""
        return "Mean over seeds with its 95 % bootstrap interval."

    def columns(self, config: Any) -> Sequence[Column]:
        """Of the table of all networks."""
        return ()

    def run_caption(self, config: Any) -> str:
        """Of the table of all runs."""
        return "Every run."

    def run_columns(self, config: Any) -> Sequence[Column]:
        """Of the table of all runs; each says how it shows one number."""
        return ()

    def contrasts(self, config: Any) -> Sequence[Finding]:
        """Rows of the ledger, for every combination of settings: arms compared, and the like."""
        return ()

    def claims(self, config: Any, results: Sequence[Result]) -> Sequence[Claim]:
        """Rows of the ledger."""
        return [
            row
            for options in self.settings(config)
            for contrast in self.contrasts(config)
            if (row := contrast.row(results, **options)) is not None
        ]

    def tables(self, config: Any, results: Sequence[Result]) -> Sequence[Table]:
        """All networks, then all runs."""
        caption, columns = self.caption(config), self.columns(config)
        heads = [axis.head for axis in self.axes]
        return [
            summary_table(self, config, results, caption, columns, heads),
            run_table(results, self.run_caption(config), self.run_columns(config)),
        ]

    def pictures(self, config: Any, results: Sequence[Result]) -> Sequence[Picture]:
        """The figures."""
        return ()

    def section(self, config: Any, results: Sequence[Result], folder: Path) -> Section:
        config = self._begun(config, results)
        return Section(
            title=self.heading(config),
            intro=self.intro(config),
            claims=self.claims(config, results),
            tables=self.tables(config, results),
            pictures=self.pictures(config, results),
            notes=self.notes(config),
            chosen=self.chosen,
        )


def check_known(what: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    """See that all names are known.

    Raises:
        ConfigError: one is not; the message has the nearest.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown {what} {name!r}: {nearest(name, list(known))}")


def check_distinct(config: object, *keys: str) -> None:
    """See that nothing comes twice under these keys of a configuration.

    Raises:
        ConfigError: something does.
    """
    for key in keys:
        values = getattr(config, key)
        if len(set(values)) < len(values):
            raise ConfigError(f"{key} must not repeat itself, got {list(values)}")
