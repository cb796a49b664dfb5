"""Associative retrieval, for every study on it: settings, networks, training, tables and curves.

The task, and the recipe that the settings begin with, are those of Ba, Hinton, Mnih, Leibo &
Ionescu, "Using fast weights to attend to the recent past" (2016), section 4.1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from statistics import median
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.decay import Exponential
from fastweights.lab.curves import Curves, Panel, updates, validated
from fastweights.lab.experiment import Result, Unit
from fastweights.lab.findings import (
    PARAMETERS,
    Column,
    TextColumn,
    Values,
    by_seed,
    run_table,
    summary_table,
)
from fastweights.lab.study import HIDDEN_SIZE, Arm, Run, Study
from fastweights.nn import FastWeightsRNN
from fastweights.report.figures import DOTTED, draw_dots, new_figure
from fastweights.report.section import Picture, Table
from fastweights.tasks import AssociativeRetrieval, Splits, binding_free_ceiling
from fastweights.theory.memory import balanced_write_rate
from fastweights.training.config import ConfigError
from fastweights.training.loop import Classification
from fastweights.training.metrics import updates_to
from fastweights.training.schedule import Schedule

Positive = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Settings of a study; see docs/LOG.md for how they were chosen.

    Seeds are ``first_seed``, ``first_seed`` + 1, …; settings were chosen on seeds below 300.
    The fast weights' settings and every learning rate were chosen on validation data. Where
    ``learning_rate`` or ``weight_decay`` is None, each arm has its own; where ``write_rate`` is,
    it follows from decay and length by `fastweights.theory.memory.balanced_write_rate`.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "fast-weights",
        "identity",
        "layer-norm-rnn",
        "lstm",
    )
    hidden_sizes: Annotated[tuple[Width, ...], Field(min_length=1)] = (50,)
    num_pairs: Annotated[int, Field(ge=1, le=26)] = 4
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    train_size: Positive = 100_000
    validation_size: Positive = 10_000
    test_size: Positive = 20_000
    updates: Positive = 4_000
    batch_size: Positive = 128
    learning_rate: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    warmup: Annotated[int, Field(ge=0)] = 200
    schedule: Literal["cosine", "linear"] = "cosine"
    gradient_clip: Rate = 0.5
    evaluate_every: Positive = 250
    head_size: Width = 100
    decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.99
    write_rate: Rate | None = None
    inner_steps: Annotated[int, Field(ge=0, le=1000)] = 1
    input_scale: Rate = 1.0
    recurrent_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.2

    def task(self) -> AssociativeRetrieval:
        return AssociativeRetrieval(
            num_pairs=self.num_pairs,
            train_size=self.train_size,
            validation_size=self.validation_size,
            test_size=self.test_size,
        )

    @property
    def ceiling(self) -> float:
        """The accuracy that knowing a sequence's digits but not their letters can reach."""
        return float(binding_free_ceiling(self.num_pairs))


SMALL = 100  # units

Build = Callable[[RetrievalConfig, int, int], nn.Module]  # from inputs and hidden size, a layer


def fast_weights(
    *, input_scale: float | None = None, **options: Any
) -> Callable[[RetrievalConfig, int, int], FastWeightsRNN]:
    """Builds the fast-weights layer of the configuration, but for these options of the layer.

    ``input_scale``, too, is the configuration's unless it is given.

    Example:
        >>> fast_weights(memory="identity")(RetrievalConfig(), 38, 20).memory
        'identity'
    """

    def build(config: RetrievalConfig, inputs: int, hidden_size: int) -> FastWeightsRNN:
        given: dict[str, Any] = {
            "inner_steps": config.inner_steps,
            "decay": Exponential(config.decay),
            "write_rate": config.write_rate,
            **options,
        }
        if given["write_rate"] is None:
            given["write_rate"] = balanced_write_rate(given["decay"], config.task().length)
        layer = FastWeightsRNN(inputs, hidden_size, **given)
        layer.reset_parameters(
            input_scale=input_scale or config.input_scale, recurrent_scale=config.recurrent_scale
        )
        return layer

    return build


def baseline(layer: Callable[[int, int], nn.Module]) -> Build:
    """Builds a layer of which the configuration has no settings, such as `torch.nn.LSTM`."""
    return lambda config, inputs, hidden_size: layer(inputs, hidden_size)


FAST_WEIGHTS = Arm("fast weights", fast_weights(), 5e-3, 0.1)


class Retriever(nn.Module):
    """One-hot tokens, a recurrent layer, and a small head that reads its last output."""

    def __init__(self, layer: nn.Module, vocabulary: int, head: int, classes: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.layer = layer
        width = int(layer.hidden_size)  # type: ignore[arg-type]
        self.head = nn.Sequential(nn.Linear(width, head), nn.ReLU(), nn.Linear(head, classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, classes) for tokens (N, T)."""
        return self.head(self.hidden(tokens)[-1])

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the layer puts out at every step, (T, N, H), for tokens (N, T)."""
        one_hot = F.one_hot(tokens.t(), self.vocabulary).to(torch.get_default_dtype())
        output, _ = self.layer(one_hot)
        return output


def build_network(config: RetrievalConfig, arm: Arm, hidden_size: int) -> Retriever:
    """An arm's network for the configuration's task, its parameters drawn."""
    task = config.task()
    layer = arm.build(config, task.vocabulary_size, hidden_size)
    return Retriever(layer, task.vocabulary_size, config.head_size, task.num_classes)


def schedule_of(config: RetrievalConfig, arm: Arm, hidden_size: int) -> Schedule:
    """How an arm is trained; what the configuration leaves open is the arm's."""
    return Schedule.of(
        config,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or arm.learning_rate_at(hidden_size),
        weight_decay=arm.weight_decay if config.weight_decay is None else config.weight_decay,
        shape=config.schedule,
    )


class RetrievalRun(Classification, Run):
    """A network that learns which digit came with the letter."""

    model: Retriever
    splits: Splits

    def __init__(self, config: RetrievalConfig, arm: Arm, unit: Unit, device: torch.device) -> None:
        assert unit.seed is not None
        self.config = config
        hidden_size = unit.options["hidden_size"]
        self.schedule = schedule_of(config, arm, hidden_size)
        super().__init__(
            build_network(config, arm, hidden_size),
            config.task().build(unit.seed),
            batch_size=config.batch_size,
            seed=unit.seed,
            device=device,
        )

    def test(self) -> dict[str, Any]:
        """The test accuracy, and the parameters of the recurrent layer."""
        layer = sum(p.numel() for p in self.model.layer.parameters())
        return {**super().test(), "layer_parameters": layer}


SECONDS = Column("seconds", "seconds", form="{:.1f}")
# Where the configuration leaves them open, the arm's; the same in every run of a network.
NETWORK = (
    Column("learning rate", "learning_rate", form="{:g}"),
    Column("decay", "weight_decay", form="{:g}"),
    Column("layer", "layer_parameters", form="{:,.0f}"),
    dataclasses.replace(PARAMETERS, head="whole"),
)


class RetrievalStudy(Study):
    """What the studies say alike: a section has the results, the networks, and every run."""

    runs, axes = RetrievalRun, (HIDDEN_SIZE,)

    def check(self, config: RetrievalConfig) -> None:
        if config.batch_size > config.train_size:
            raise ConfigError(
                f"batch_size must be at most train_size = {config.train_size}, "
                f"got {config.batch_size}"
            )

    def note(self, config: RetrievalConfig) -> str:
        return f"ceiling {100 * config.ceiling:.1f} %"

    def caption(self, config: RetrievalConfig) -> str:
        return (
            "Test accuracy, mean over seeds with its 95 % bootstrap interval; median number of "
            "updates to a validation accuracy (– where only some seeds reach it)."
        )

    def columns(self, config: RetrievalConfig) -> list[Column]:
        return [
            Column("accuracy %", "test_accuracy", scale=100),
            *(
                TextColumn(f"to {100 * level:g} %", functools.partial(_updates_to, level))
                for level in (0.5, 0.9, 0.99)
            ),
        ]

    def run_columns(self, config: RetrievalConfig) -> list[Column]:
        return [
            Column("validation accuracy", "validation_accuracy", scale=100, form="{:.2f}"),
            Column("test accuracy", "test_accuracy", scale=100, form="{:.3f}"),
            SECONDS,
        ]

    def tables(self, config: RetrievalConfig, results: Sequence[Result]) -> list[Table]:
        caption, columns = self.caption(config), self.columns(config)
        return [
            summary_table(self, config, results, caption, columns, ["R"]),
            self._network_table(config, results),
            run_table(results, self.run_caption(config), self.run_columns(config)),
        ]

    def _network_table(self, config: RetrievalConfig, results: Sequence[Result]) -> Table:
        rows = []
        for size in config.hidden_sizes:
            for name in config.arms:
                if values := list(by_seed(results, name, hidden_size=size).values()):
                    cells = [column.cell(values) for column in NETWORK]
                    state = f"{state_size(config, self.arms[name], size):,}"
                    row = [self.arms[name].label, str(size), *cells, state, SECONDS.cell(values)]
                    rows.append(row)
        return Table(
            caption=(
                "The networks: highest learning rate, weight decay, parameters of the recurrent "
                "layer and of the whole, numbers the layer carries when it has read a sequence "
                "(fast weights keep the vectors they wrote; as a matrix they would be R × R), mean "
                "seconds of training on one thread beside the other workers."
            ),
            columns=("network", "R", *(column.head for column in NETWORK), "state", SECONDS.head),
            rows=rows,
        )

    def learning_curves(
        self,
        config: RetrievalConfig,
        results: Sequence[Result],
        size: int,
        arms: Sequence[str] | None = None,
    ) -> Picture:
        """Validation accuracy of these arms or all against updates, at a hidden size."""
        arms = config.arms if arms is None else arms
        ceiling = 100 * config.ceiling
        panel = Panel(
            updates,
            validated("validation_accuracy", 100),
            {
                "xlabel": "updates",
                "ylabel": "validation accuracy (%)",
                "ylim": (0, 102),
                "title": f"Associative retrieval, K = {config.num_pairs}, R = {size}: every seed",
            },
            level=ceiling,
            level_label=f"binding-free ceiling {ceiling:.1f} %",
        )
        labels = ", ".join(self.arms[arm].label for arm in arms)
        curves = Curves(
            f"{self.name}-k{config.num_pairs}-r{size}",
            f"Validation accuracy against updates at R = {size} for {labels}; one line per seed, "
            f"with the binding-free ceiling at {ceiling:.1f} per cent.",
            "Validation accuracy while training, a line per seed. A cross ends the line of a run "
            "that did not finish.",
            [panel],
            unfinished=True,
        )
        return curves.picture(self, arms, results, hidden_size=size)

    def accuracies(self, config: RetrievalConfig, results: Sequence[Result], size: int) -> Picture:
        """Test accuracy of every run at a hidden size, a row per arm, with means and intervals."""
        rows = []
        for arm in config.arms:
            values = by_seed(results, arm, hidden_size=size).values()
            rows.append((self.arms[arm].label, [100 * v["test_accuracy"] for v in values]))
        figure = new_figure(7.6, 1.2 + 0.27 * len(rows))
        axes = figure.add_subplot()
        draw_dots(axes, rows)
        axes.axvline(100 * config.ceiling, color="0.35", linewidth=1, linestyle=DOTTED)
        axes.set(
            xlabel="test accuracy (%)",
            xlim=(0, 102),
            title=f"K = {config.num_pairs}, R = {size}; dotted: binding-free ceiling",
        )
        return Picture(
            name=f"{self.name}-accuracy-k{config.num_pairs}-r{size}",
            figure=figure,
            alt=f"Test accuracy of every run at R = {size}, a row for each of {len(rows)} "
            f"networks, with the binding-free ceiling at {100 * config.ceiling:.1f} per cent.",
            caption="Test accuracy: a dot per seed, the mean and its 95 % interval.",
        )


def _updates_to(level: float, runs: Sequence[Values]) -> str:
    """The median number of updates to a validation accuracy."""
    reached = [updates_to(values["curve"], level) for values in runs]
    known = [update for update in reached if update is not None]
    if not known:
        return "never"
    return f"{median(known):,.0f}" if len(known) == len(reached) else "–"


def state_size(config: RetrievalConfig, arm: Arm, hidden_size: int) -> int:
    """How many numbers a layer carries for one sequence, after its last token."""
    task = config.task()
    config = dataclasses.replace(config, inner_steps=min(config.inner_steps, 1))  # carry nothing
    device = "cpu" if hidden_size <= SMALL else "meta"  # slower, but holds and computes nothing
    with torch.random.fork_rng(devices=()), torch.device(device), torch.no_grad():
        layer = arm.build(config, task.vocabulary_size, hidden_size)
        _, state = layer(torch.zeros(task.length, 2, task.vocabulary_size))
    return _numbers(state) // 2  # another's memory needs two sequences


def _numbers(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel() if state.is_floating_point() else 0
    parts = vars(state).values() if dataclasses.is_dataclass(state) else state
    return sum(_numbers(part) for part in parts if part is not None)
