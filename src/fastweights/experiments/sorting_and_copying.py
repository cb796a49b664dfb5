"""Sorting by priority and repeated copying, after Graves, Wayne & Danihelka (2014).

Xu, Ba & Zemel (2017) name both as the next tasks for fast weights. A sequence of symbols is read,
then the network is asked for its answer; nothing of an answer comes back as input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Protocol

import torch
from matplotlib.axes import Axes
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.decay import Decay, Exponential, Factorial, PowerLaw, StepIndexed
from fastweights.lab.curves import Curves, Panel, updates, validated
from fastweights.lab.experiment import Result, Unit
from fastweights.lab.findings import PARAMETERS, SECONDS, Column, Contrast, at
from fastweights.lab.study import Arm, Run, Study
from fastweights.nn import FastWeightsRNN
from fastweights.report.section import Picture
from fastweights.report.verdicts import BOUND_RULE
from fastweights.tasks import IGNORED, PrioritySort, RepeatCopy, SymbolBatch
from fastweights.tasks.streams import below, stream
from fastweights.training.config import ConfigError
from fastweights.training.schedule import Schedule

Positive = Annotated[int, Field(ge=1)]
Symbols = Annotated[int, Field(ge=2, le=32)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SHORTEST = 2  # symbols in a sequence


class Task(Protocol):
    """What both tasks are: batches of sequences of n symbols, n = 2 … ``longest``.

    Attributes:
        fields: how many different tokens each field of a step has.
        num_classes: how many different answers there are.
        longest: the largest n.
    """

    @property
    def fields(self) -> tuple[int, ...]: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def longest(self) -> int: ...

    def batch(self, seed: int, split: str, number: int, length: int, size: int) -> SymbolBatch:
        """Sequences of ``length`` symbols; ``number`` tells one batch from another."""


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """Settings that both have; see docs/sorting-and-copying.md for how they were chosen.

    Seeds are ``first_seed``, ``first_seed`` + 1, …; settings were chosen on seeds below 300. An
    update draws its length between 2 and a longest one, which grows from 2 to ``train_length``
    during the first ``curriculum`` of the updates and stays there; tests go on to ``test_length``.
    Where ``learning_rate`` or ``write_rate`` is None, each arm has its own.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "exponential",
        "power-law",
        "factorial",
        "layer-norm-rnn",
        "lstm",
    )
    num_symbols: Symbols = 8
    train_length: Annotated[int, Field(ge=2)] = 6
    test_length: Annotated[int, Field(ge=2)] = 12
    curriculum: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    hidden_size: Annotated[int, Field(ge=1, le=4096)] = 64
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 300
    updates: Positive = 4_000
    batch_size: Positive = 64
    learning_rate: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 200
    gradient_clip: Rate = 0.5
    evaluate_every: Positive = 250
    test_size: Positive = 500
    write_rate: Rate | None = None

    def task(self) -> Task:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class SortingConfig(SequenceConfig):
    """Settings of sorting."""

    num_levels: Symbols = 16

    def task(self) -> Task:
        return PrioritySort(self.num_symbols, self.num_levels)


@dataclasses.dataclass(frozen=True)
class CopyingConfig(SequenceConfig):
    """Settings of repeated copying."""

    max_repeats: Annotated[int, Field(ge=1, le=32)] = 3

    def task(self) -> Task:
        return RepeatCopy(self.num_symbols, self.max_repeats)


Build = Callable[[SequenceConfig, int], nn.Module]


def _fast_weights(decay: Callable[[], Decay], write_rate: float, memory: str = "hebbian") -> Build:
    """A layer of fast weights, with the write rate of the configuration if that has one."""

    def build(config: SequenceConfig, inputs: int) -> nn.Module:
        layer = FastWeightsRNN(
            inputs,
            config.hidden_size,
            decay=decay(),
            write_rate=config.write_rate or write_rate,
            memory=memory,
        )
        layer.reset_parameters(recurrent_scale=0.2)
        return layer

    return build


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "exponential": Arm("exponential 0.99", _fast_weights(lambda: Exponential(0.99), 0.1), 2e-2),
        "power-law": Arm("power law", _fast_weights(lambda: PowerLaw(0.5), 0.5), 2e-2),
        "factorial": Arm("factorial", _fast_weights(Factorial, 0.1), 2e-2),
        "step-indexed": Arm("step-indexed", _fast_weights(StepIndexed, 0.1), 2e-2),
        "layer-norm-rnn": Arm("layer-norm RNN", _fast_weights(Exponential, 0.1, "none"), 2e-2),
        "lstm": Arm("LSTM", lambda config, inputs: nn.LSTM(inputs, config.hidden_size), 2e-2),
    }
)
DECAYS = ("exponential", "power-law", "factorial", "step-indexed")


class Answerer(nn.Module):
    """One-hot tokens of every field side by side, a recurrent layer, and logits of the answers.

    Args:
        layer: recurrent, (T, N, inputs) to (T, N, H).
        fields: how many different tokens each field of a step has.
        classes: how many different answers there are.
    """

    def __init__(self, layer: nn.Module, fields: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.fields = fields
        self.layer = layer
        self.output = nn.Linear(int(layer.hidden_size), classes)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor, asked: int) -> Tensor:
        """Logits (N, A, classes) of the last A = ``asked`` steps of inputs (N, T, fields)."""
        tokens = inputs.transpose(0, 1)
        one_hot = [F.one_hot(tokens[..., i], size) for i, size in enumerate(self.fields)]
        hidden, _ = self.layer(torch.cat(one_hot, -1).to(torch.get_default_dtype()))
        return self.output(hidden[-asked:]).transpose(0, 1)


def length_of(config: SequenceConfig, seed: int, update: int) -> int:
    """The length of an update's sequences: uniform up to a longest that grows with the updates.

    Example:
        >>> config = SequenceConfig(updates=1000, train_length=8, curriculum=0.5)
        >>> [max(length_of(config, 0, u) for u in range(s, s + 80)) for s in (0, 100, 250, 500)]
        [3, 4, 6, 8]
    """
    growing = config.curriculum * config.updates
    grown = 1.0 if update >= growing else update / growing
    kinds = 1 + round(grown * (config.train_length - SHORTEST))
    return SHORTEST + int(below(stream(seed, "lengths", second=update).random_raw(1), kinds)[0])


def right_answers(model: nn.Module, batch: SymbolBatch, device: torch.device) -> dict[str, float]:
    """The share of ``symbols`` that were answered rightly, and of ``sequences`` without a mistake.

    Example:
        >>> batch = SymbolBatch(torch.zeros(2, 3, 1).long(), torch.tensor([[1, 0], [1, IGNORED]]))
        >>> answers = nn.functional.one_hot(torch.tensor([[1, 1], [1, 1]])).float()
        >>> class Fixed(nn.Module):
        ...     def forward(self, inputs, asked):
        ...         return answers
        >>> right_answers(Fixed(), batch, torch.device("cpu"))
        {'symbols': 0.6666666666666666, 'sequences': 0.5}
    """
    targets = batch.targets.to(device)
    model.eval()
    with torch.no_grad():
        guess = model(batch.inputs.to(device), targets.shape[1]).argmax(-1)
    model.train()
    asked = targets != IGNORED
    right = guess == targets
    return {
        "symbols": float(right[asked].double().mean()),
        "sequences": float((right | ~asked).all(1).double().mean()),
    }


class SequenceRun(Run):
    """A network that answers to sequences which grow, and is tested on longer ones."""

    def __init__(self, config: SequenceConfig, arm: Arm, unit: Unit, device: torch.device) -> None:
        self.config, self.seed, self.device = config, unit.seed or 0, device
        self.task = config.task()
        layer = arm.build(config, sum(self.task.fields))
        self.model = Answerer(layer, self.task.fields, self.task.num_classes).to(device)
        self.schedule = Schedule.of(
            config,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate or arm.learning_rate_at(config.hidden_size),
            weight_decay=config.weight_decay,
        )

    def loss(self, update: int) -> Tensor:
        length = length_of(self.config, self.seed, update)
        batch = self.task.batch(self.seed, "train", update, length, self.config.batch_size)
        logits = self.model(batch.inputs.to(self.device), batch.targets.shape[1])
        targets = batch.targets.to(self.device)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def validate(self) -> dict[str, float]:
        right = self._right("validation", self.config.train_length)
        return {"validation_accuracy": right["symbols"], "validation_sequences": right["sequences"]}

    def test(self) -> dict[str, Any]:
        lengths = list(range(SHORTEST, self.config.test_length + 1))
        right = [self._right("test", length) for length in lengths]
        return {
            "lengths": lengths,
            "test_accuracy": [one["symbols"] for one in right],
            "test_sequences": [one["sequences"] for one in right],
        }

    def _right(self, split: str, length: int) -> dict[str, float]:
        batch = self.task.batch(self.seed, split, 0, length, self.config.test_size)
        return right_answers(self.model, batch, self.device)


class SequenceStudy(Study):
    """What both studies say alike: everything but the task and its words."""

    arms, runs = ARMS, SequenceRun
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "full": 5})
    what: str  # the task, in one sentence

    def check(self, config: SequenceConfig) -> None:
        longest = config.task().longest
        if not config.train_length <= config.test_length <= longest:
            raise ConfigError(
                f"test_length must lie between train_length = {config.train_length} and "
                f"{longest}, got {config.test_length}"
            )

    def note(self, config: SequenceConfig) -> str:
        return f"chance {100 / config.task().num_classes:.1f} %"

    def intro(self, config: SequenceConfig) -> str:
        return (
            f"{self.what} Fast weights with each decay stand beside an LSTM and the same network "
            "without a memory, on sequences as long as those of the training and longer."
        )

    def caption(self, config: SequenceConfig) -> str:
        lengths = ", ".join(map(str, _lengths(config)))
        return (
            f"Test data, in per cent: symbols answered rightly at n = {lengths}, and sequences "
            f"without a mistake; training ends at n = {config.train_length}. Mean over seeds with "
            "its 95 % bootstrap interval; mean seconds of training on one thread beside the other "
            "workers."
        )

    def columns(self, config: SequenceConfig) -> list[Column]:
        measures = {"symbols": "test_accuracy", "sequences": "test_sequences"}
        shares = [
            Column(f"{what}, n = {n}", at(measure, n), scale=100, digits=1)
            for what, measure in measures.items()
            for n in _lengths(config)
        ]
        return [*shares, PARAMETERS, SECONDS]

    def run_caption(self, config: SequenceConfig) -> str:
        return f"Every run: symbols answered rightly at n = {config.train_length}, per cent."

    def run_columns(self, config: SequenceConfig) -> list[Column]:
        tested = at("test_accuracy", config.train_length)
        return [
            Column("validation", "validation_accuracy", scale=100, form="{:.2f}"),
            Column("test", tested, scale=100, form="{:.2f}"),
            SECONDS,
        ]

    def contrasts(self, config: SequenceConfig) -> list[Contrast]:
        return [
            Contrast(
                f"{self.name}, n = {n}{longer}: fast weights, {ARMS[arm].label}, answer more "
                "symbols rightly than the LSTM; points (holds if the whole interval is above 0)",
                arm,
                "lstm",
                at("test_accuracy", n),
                published="announced, not measured",
                scale=100,
            )
            for arm in config.arms
            if arm in DECAYS
            for n in dict.fromkeys((config.train_length, config.test_length))
            for longer in ["" if n == config.train_length else ", longer than trained on"]
        ]

    def pictures(self, config: SequenceConfig, results: Sequence[Result]) -> list[Picture]:
        chance = 100 / config.task().num_classes
        labels = ", ".join(ARMS[arm].label for arm in config.arms)
        n = config.train_length

        def longer(axes: Axes) -> None:
            axes.axvspan(n + 0.5, config.test_length + 0.5, color="0.94", zorder=0)

        def panel(measure: str, title: str, **more: Any) -> Panel:
            axes: dict[str, Any] = {
                "xlabel": "n, symbols in the sequence",
                "xlim": (1.5, config.test_length + 0.5),
                "ylim": (0, 103),
                "title": title,
            }
            return Panel(
                lambda v: v["lengths"],
                lambda v: [100 * share for share in v[measure]],
                {**axes, **more},
                level=chance if measure == "test_accuracy" else None,
                finish=longer,
            )

        curves = (
            Curves(
                f"{self.name}-lengths",
                f"Symbols and whole sequences answered rightly against the length, for {labels}; "
                f"lengths above {n} were not trained on.",
                "Test data: mean over seeds with its 95 % interval. Grey: longer than any sequence "
                "of the training. Dotted: chance.",
                [
                    panel("test_accuracy", "symbols", ylabel="right (%)"),
                    panel("test_sequences", "whole sequences"),
                ],
                means=True,
                size=(9.2, 4.2),
                legend_columns=3,
            ),
            Curves(
                f"{self.name}-curves",
                f"Symbols answered rightly against updates, a line per seed, for {labels}.",
                f"Validation data at n = {n}, which the curriculum reaches after "
                f"{100 * config.curriculum:.0f} % of the updates; a line per seed. Dotted: chance.",
                [
                    Panel(
                        updates,
                        validated("validation_accuracy", 100),
                        {
                            "xlabel": "updates",
                            "ylabel": f"symbols right at n = {n} (%)",
                            "ylim": (0, 102),
                        },
                        level=chance,
                    )
                ],
            ),
        )
        return [figure.picture(self, config.arms, results) for figure in curves]

    def notes(self, config: SequenceConfig) -> list[str]:
        return [
            BOUND_RULE,
            f"{config.updates:,} updates of {config.batch_size} new sequences. Lengths are uniform "
            f"from 2 to a longest one, which grows to {config.train_length} during the first "
            f"{100 * config.curriculum:.0f} % of the updates. {config.test_size:,} test sequences "
            f"for each length. All networks have {config.hidden_size} hidden units, so the LSTM "
            "has about four times the parameters. Settings and learning rates were chosen on "
            "validation data.",
            "Train, validation and test sequences are told apart by a hash of the sequence, so "
            "that nothing tested was ever trained on, by any seed.",
        ]


def _lengths(config: SequenceConfig) -> tuple[int, ...]:
    """As long as in training, longer, and longest."""
    between = (config.train_length + config.test_length) // 2
    return tuple(dict.fromkeys((config.train_length, between, config.test_length)))


# What the presets "full" share: every decay, longer sequences; hours.
_FULL: Mapping[str, Any] = MappingProxyType(
    {
        "arms": tuple(ARMS),
        "train_length": 10,
        "test_length": 20,
        "hidden_size": 100,
        "updates": 40_000,
        "evaluate_every": 1_000,
    }
)


def full_sorting() -> SortingConfig:
    """Every decay, up to ten symbols and thirty-two priorities; hours."""
    return SortingConfig(**_FULL, num_levels=32)


def full_copying() -> CopyingConfig:
    """Every decay, up to ten symbols, up to five times; hours."""
    return CopyingConfig(**_FULL, max_repeats=5)


class Sorting(SequenceStudy):
    """Sorting; ``quick``, up to six symbols and sixteen priorities, takes minutes."""

    name = "sorting"
    title = "Sorting by priority"
    summary = "Symbols with priorities, to be given back in order: each decay against an LSTM"
    what = (
        "A sequence of symbols, each with a priority; then the network is asked as often as there "
        "are symbols, and answers with them from the highest priority down."
    )
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {"quick": SortingConfig, "full": full_sorting}
    )


class Copying(SequenceStudy):
    """Repeated copying; ``quick``, up to six symbols and three times, takes minutes."""

    name = "copying"
    title = "Repeated copying"
    summary = "A sequence, to be given back so many times: each decay against an LSTM"
    what = (
        "A sequence of symbols and a number; then the network gives the sequence back that many "
        "times and says when it is done."
    )
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {"quick": CopyingConfig, "full": full_copying}
    )
