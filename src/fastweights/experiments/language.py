"""Language: the next character of a text, which the article of 2016 asks for.

"It would be interesting to try and replace LSTM with fast weight RNN in language tasks."
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.experiments.language_model import (
    CharacterModel,
    LanguageConfig,
    count_parameters,
    matched_width,
    multiply_adds,
)
from fastweights.lab.curves import Curves, Panel, updates, validated
from fastweights.lab.experiment import Result, Unit
from fastweights.lab.findings import PARAMETERS, SECONDS, Column, Contrast, Values, by_seed
from fastweights.lab.study import Arm, Run, Study
from fastweights.report.section import Claim, Picture
from fastweights.report.statistics import mean_interval
from fastweights.report.verdicts import BOUND_RULE, Bound
from fastweights.tasks import Text, TextStreams, load_text
from fastweights.training.config import ConfigError
from fastweights.training.recurrent import CarriedState
from fastweights.training.schedule import Schedule

# Validation loss in nats of Transformers on the same tenth of the text, trained on the nine before
# it: the README of https://github.com/karpathy/nanoGPT. Their parameters, in millions, are by our
# count from the layers and widths that it gives, without the embedding of positions.
TRANSFORMERS = ((0.80, 1.88), (10.65, 1.4697))


Cost = Callable[[str, int, int, LanguageConfig], int]


def _network(kind: str, cost: Cost | None = None) -> Callable[[int, LanguageConfig], nn.Module]:
    """A network as wide as the configuration says, or as costs what that of fast weights costs."""

    def build(vocabulary: int, config: LanguageConfig) -> CharacterModel:
        width = config.hidden_size
        if cost is not None:
            width = matched_width(kind, vocabulary, config, cost)
        return CharacterModel(kind, vocabulary, width, config)

    return build


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "fast-weights": Arm("fast weights", _network("fast-weights"), 2e-2),
        "layer-norm-rnn": Arm("layer-norm RNN", _network("layer-norm-rnn"), 2e-2),
        "lstm-parameters": Arm("LSTM, equal parameters", _network("lstm", count_parameters), 4e-2),
        "lstm-compute": Arm("LSTM, equal compute", _network("lstm", multiply_adds), 4e-2),
        "gru-parameters": Arm("GRU, equal parameters", _network("gru", count_parameters), 2e-2),
        "gru-compute": Arm("GRU, equal compute", _network("gru", multiply_adds), 1e-2),
    }
)


def bits_per_character(
    model: nn.Module, tokens: Tensor, device: torch.device, streams: int = 16, length: int = 256
) -> tuple[float, float]:
    """How well a text is predicted: bits for a character, and the share of right guesses.

    The text is read in streams side by side, each with its state carried from end to end, from
    nothing; every character counts once but the first, and fewer than ``streams`` at the end.

    Args:
        model: maps tokens (L, N) and a state to logits (L, N, characters) and a state.
        tokens: the text, shape (characters,).
        device: where the model is.
        streams: how many; fewer if the text is so short.
        length: characters of each that are read at a time.
    """
    streams = min(streams, len(tokens) - 1)
    steps = (len(tokens) - 1) // streams
    places = torch.arange(steps)[:, None] + torch.arange(streams) * steps
    nats, right, state = 0.0, 0, None
    model.eval()
    with torch.no_grad():
        for rows in places.split(length):
            logits, state = model(tokens[rows].to(device), state)
            targets = tokens[rows + 1].to(device)
            flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            nats += float(flat)
            right += int((logits.argmax(-1) == targets).sum())
    model.train()
    return nats / places.numel() / math.log(2), right / places.numel()


def _read(config: LanguageConfig) -> tuple[Text, TextStreams]:
    text = load_text(config.text)
    return text, TextStreams(text.train, config.streams, config.segment)


class LanguageRun(Run):
    """Truncated back-propagation: the state is carried from segment to segment, no gradient is."""

    def __init__(self, config: LanguageConfig, arm: Arm, unit: Unit, device: torch.device) -> None:
        assert unit.seed is not None
        self.config, self.seed, self.device = config, unit.seed, device
        self.text, self.streams = _read(config)
        self.model = arm.build(len(self.text.alphabet), config).to(device)
        self.carried: CarriedState = CarriedState()
        self.about = {"alphabet": self.text.alphabet.characters}
        self.schedule = Schedule.of(
            config,
            batch_size=config.streams,
            learning_rate=config.learning_rate or arm.learning_rate_at(config.hidden_size),
            weight_decay=config.weight_decay,
        )

    def loss(self, update: int) -> Tensor:
        epoch, number = divmod(update, self.streams.per_epoch)
        inputs, targets = self.streams.segment(self.seed, epoch, number)
        state = self.carried.value if number else None
        logits, state = self.model(inputs.to(self.device), state)
        self.carried.keep(state)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten().to(self.device))

    def validate(self) -> dict[str, float]:
        bits, accuracy = bits_per_character(self.model, self.text.validation, self.device)
        return {"validation_bits": bits, "validation_accuracy": accuracy}

    def test(self) -> dict[str, Any]:
        assert isinstance(self.model, CharacterModel)
        bits, accuracy = bits_per_character(self.model, self.text.test, self.device)
        state = [t for t in self.carried.tensors().values() if t.is_floating_point()]
        return {
            "test_bits": bits,
            "test_accuracy": accuracy,
            "characters": self.config.updates * self.config.streams * self.config.segment,
            "hidden_size": self.model.hidden_size,
            "multiply_adds": self.model.multiply_adds,
            "state": sum(t.numel() for t in state) // self.config.streams,
        }


def long() -> LanguageConfig:
    """Two layers of 256 and fifteen times the updates; hours."""
    return LanguageConfig(hidden_size=256, updates=15_000, evaluate_every=1_000)


class Language(Study):
    """The study; ``quick``, two layers of 128 fast weights, takes minutes on two cores."""

    name = "language"
    title = "The next character"
    summary = "Fast weights in the place of an LSTM on text, at equal parameters and compute"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {"quick": LanguageConfig, "long": long}
    )
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "long": 3})
    arms, runs = ARMS, LanguageRun

    def check_files(self, config: LanguageConfig) -> None:
        """See that the text can be read, and cut into as many streams as are wanted.

        Raises:
            ConfigError: it cannot.
        """
        try:
            _read(config)
        except (OSError, ValueError) as error:
            raise ConfigError(f"text: {error}") from None

    def heading(self, config: LanguageConfig) -> str:
        return f"{self.title} of {_name(config)}"

    def intro(self, config: LanguageConfig) -> str:
        return (
            "A network reads a text and predicts each next character. Layers of fast weights "
            "stand beside LSTMs and GRUs that have as many parameters, or take as many "
            "multiply-adds for a character, and beside the same network without a memory. "
            f"The first 80 % of {_name(config)} are for training, the next 10 % for choosing "
            "settings, the last 10 % for the result."
        )

    def notes(self, config: LanguageConfig) -> list[str]:
        return [
            BOUND_RULE,
            f"{config.num_layers} recurrent layers above an embedding of "
            f"{config.embedding_size}; {config.updates:,} updates of {config.streams} streams "
            f"of {config.segment} characters, the state carried from segment to segment and "
            "the gradient stopped between them. Write rate, decay and learning rates were "
            "chosen on validation data in short runs, each learning rate among three.",
            "The published Transformers were trained on the first 90 % and measured on samples "
            "of the last 10 %, on which theirs were also chosen.",
        ]

    def caption(self, config: LanguageConfig) -> str:
        return (
            "Bits per character of the last tenth of the text and the share of its characters that "
            "were guessed right, mean over seeds with 95 % bootstrap interval. Width, parameters, "
            "multiply-adds per character (matrix products only), numbers carried from character to "
            "character, mean seconds of training on one thread beside the other workers."
        )

    def columns(self, config: LanguageConfig) -> list[Column]:
        return [
            Column("H", "hidden_size", form="{:.0f}"),
            PARAMETERS,
            Column("multiply-adds", "multiply_adds", form="{:,.0f}"),
            Column("state", "state", form="{:,.0f}"),
            Column("bits", "test_bits", digits=3),
            Column("right %", "test_accuracy", scale=100, digits=1),
            SECONDS,
        ]

    def run_caption(self, config: LanguageConfig) -> str:
        return "Every run, in bits per character."

    def run_columns(self, config: LanguageConfig) -> list[Column]:
        return [
            Column("validation", "validation_bits", form="{:.3f}"),
            Column("test", "test_bits", form="{:.3f}"),
            SECONDS,
        ]

    def contrasts(self, config: LanguageConfig) -> list[Contrast]:
        return [
            Contrast(
                f"fast weights need fewer bits per character than the {ARMS[arm].label}: "
                "difference (holds if the whole interval is below 0)",
                "fast-weights",
                arm,
                "test_bits",
                rule=Bound(at_most=0),
                published="asked, not measured",
                digits=3,
            )
            for arm in config.arms
            if arm != "fast-weights"
        ]

    def claims(self, config: LanguageConfig, results: Sequence[Result]) -> list[Claim]:
        """Fast weights beside every other network, and beside published Transformers."""
        found = list(super().claims(config, results))
        ours = list(by_seed(results, "fast-weights").values())
        if ours and config.text is None:
            interval = mean_interval([values["test_bits"] for values in ours])
            size = ours[0]["parameters"] / 1e6
            found += [
                Claim(
                    f"fast weights of {size:.2f} M parameters beside a Transformer of "
                    f"{millions:.2f} M (nanoGPT): bits per character",
                    f"{nats / math.log(2):.2f}",
                    interval.text(3),
                    interval.n,
                    "fewer bits" if interval.mean < nats / math.log(2) else "more bits",
                )
                for millions, nats in TRANSFORMERS
            ]
        return found

    def pictures(self, config: LanguageConfig, results: Sequence[Result]) -> list[Picture]:
        """Bits per character against what was read, and against what it took to read it."""
        labels = ", ".join(ARMS[arm].label for arm in config.arms)

        def read(values: Values) -> list[float]:
            """Millions of characters."""
            return [update * config.streams * config.segment / 1e6 for update in updates(values)]

        def spent(values: Values) -> list[float]:
            """Thousands of millions of multiply-adds."""
            return [millions * values["multiply_adds"] / 1e3 for millions in read(values)]

        def grid(axes: Axes) -> None:
            axes.grid(color="0.92")
            axes.set_axisbelow(True)

        bits = validated("validation_bits")
        words = {
            "xlabel": "characters read (millions)",
            "ylabel": "bits per character of the validation text",
        }
        curves = Curves(
            "language",
            "Bits per character of validation text against characters read and against "
            f"multiply-adds, a line per seed, for {labels}.",
            "Bits per character of the validation text while training, a line per seed: against "
            "the characters that were read, and against the multiply-adds that it took to read "
            "them (forward; training takes about three times as many).",
            [
                Panel(read, bits, words, finish=grid),
                Panel(
                    spent,
                    bits,
                    {"xlabel": "multiply-adds, forward (thousands of millions)"},
                    finish=grid,
                ),
            ],
            size=(9.2, 4.2),
            legend_columns=3,
        )
        return [curves.picture(self, config.arms, results)]


def _name(config: LanguageConfig) -> str:
    return "tiny Shakespeare" if config.text is None else config.text
