"""Networks that read text a character at a time: their settings, and what they cost."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fastweights.nn import FastWeightsRNN

Positive = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=4096)]


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Settings of the study; see docs/language.md for how they were chosen.

    Seeds are ``first_seed``, ``first_seed`` + 1, …; settings were chosen on seeds below 300.
    ``text`` is a UTF-8 file, or None for tiny Shakespeare. ``hidden_size`` is that of fast weights;
    the others match their parameters or their multiply-adds. An update reads ``segment`` characters
    of ``streams`` places in the text. Where ``learning_rate`` is None, each arm has its own.
    """

    text: str | None = None
    arms: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "fast-weights",
        "layer-norm-rnn",
        "lstm-parameters",
        "lstm-compute",
        "gru-parameters",
        "gru-compute",
    )
    hidden_size: Width = 128
    num_layers: Annotated[int, Field(ge=1, le=64)] = 2
    embedding_size: Width = 64
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 300
    streams: Positive = 32
    segment: Positive = 64
    updates: Positive = 1_000
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 100
    gradient_clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    evaluate_every: Positive = 200
    decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.9
    write_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.003


class CharacterModel(nn.Module):
    """An embedding, recurrent layers, and a linear map to the logits of the next character.

    Args:
        kind: of the recurrent layers: "fast-weights", "layer-norm-rnn", "lstm" or "gru".
        vocabulary: how many characters there are.
        hidden_size: of every layer.
        config: the other settings.

    Example:
        >>> model = CharacterModel("fast-weights", 65, 32, LanguageConfig())
        >>> tokens = torch.zeros(7, 2, dtype=torch.int64)  # (characters, texts)
        >>> logits, state = model(tokens)
        >>> logits.shape, state.matrix.shape
        (torch.Size([7, 2, 65]), torch.Size([2, 2, 32, 32]))
    """

    def __init__(
        self, kind: str, vocabulary: int, hidden_size: int, config: LanguageConfig
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(vocabulary, config.embedding_size)
        self.layers = _layers(kind, hidden_size, config)
        self.output = nn.Linear(hidden_size, vocabulary)
        self.multiply_adds = multiply_adds(kind, vocabulary, hidden_size, config)

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits (L, N, characters) for tokens (L, N), and the state to go on from."""
        hidden, state = self.layers(self.embedding(tokens), state)
        return self.output(hidden), state


def _layers(kind: str, hidden_size: int, config: LanguageConfig) -> nn.Module:
    inputs, layers = config.embedding_size, config.num_layers
    if kind in ("lstm", "gru"):
        return (nn.LSTM if kind == "lstm" else nn.GRU)(inputs, hidden_size, layers)
    layer = FastWeightsRNN(
        inputs,
        hidden_size,
        layers,
        decay=config.decay,
        write_rate=config.write_rate,
        memory="hebbian" if kind == "fast-weights" else "none",
        # The memory goes from segment to segment as a matrix, however long the text.
        form="chunked" if kind == "fast-weights" else "auto",
    )
    with torch.no_grad():  # an embedding's entries are about 1, and so are those of its product
        layer.get_parameter("weight_ih_l0").div_(math.sqrt(inputs))
    return layer


def multiply_adds(kind: str, vocabulary: int, hidden_size: int, config: LanguageConfig) -> int:
    """Multiply-adds for one character, reading and predicting; what grows with H alone is left out.

    Per layer with I inputs: 4 H (I + H) for an LSTM, 3 H (I + H) for a GRU, H (I + H) for a
    layer-norm RNN. Fast weights add 2 H² to let A decay and to write into it, H² to read it. The
    output takes H times the number of characters, the embedding nothing.

    Example:
        >>> config = LanguageConfig(embedding_size=10, num_layers=2)
        >>> multiply_adds("lstm", 65, 20, config) == 4 * 20 * (10 + 20) + 4 * 20 * 40 + 20 * 65
        True
    """
    products = {"lstm": 4, "gru": 3}.get(kind, 1)
    memory = 3 * hidden_size**2 if kind == "fast-weights" else 0
    widths = [config.embedding_size, *[hidden_size] * (config.num_layers - 1)]
    layers = sum(products * hidden_size * (inputs + hidden_size) + memory for inputs in widths)
    return layers + hidden_size * vocabulary


@functools.cache
def count_parameters(kind: str, vocabulary: int, hidden_size: int, config: LanguageConfig) -> int:
    """The parameters of a network, which is not made for it.

    Example:
        >>> config = LanguageConfig(embedding_size=10, num_layers=1)
        >>> count_parameters("gru", 65, 20, config) == 650 + 3 * 20 * (10 + 20 + 2) + 21 * 65
        True
    """
    with torch.device("meta"):
        model = CharacterModel(kind, vocabulary, hidden_size, config)
    return sum(p.numel() for p in model.parameters())


def matched_width(
    kind: str,
    vocabulary: int,
    config: LanguageConfig,
    cost: Callable[[str, int, int, LanguageConfig], int],
) -> int:
    """The hidden size at which a network's cost comes closest to that of fast weights.

    Args:
        kind: of its recurrent layers.
        vocabulary: how many characters there are.
        config: the hidden size of fast weights, and the other settings.
        cost: `multiply_adds` or `count_parameters`.
    """
    wanted = cost("fast-weights", vocabulary, config.hidden_size, config)
    widths = range(1, 2 * config.hidden_size + 1)
    return min(widths, key=lambda width: abs(cost(kind, vocabulary, width, config) - wanted))
