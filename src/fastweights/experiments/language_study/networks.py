"""The networks that read text, and what they cost."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fastweights.experiments.language_study.config import LanguageConfig
from fastweights.nn import FastWeightsRNN

__all__ = ["ARMS", "Arm", "CharacterModel", "build", "multiply_adds"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A network to train.

    Attributes:
        label: what people call it.
        kind: of its recurrent layers: "fast-weights", "layer-norm-rnn", "lstm" or "gru".
        matches: what it has as much of as fast weights: "width", "parameters" or "compute".
        learning_rate: that suits it.
    """

    label: str
    kind: str
    matches: str
    learning_rate: float


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "fast-weights": Arm("fast weights", "fast-weights", "width", 2e-2),
        "layer-norm-rnn": Arm("layer-norm RNN", "layer-norm-rnn", "width", 2e-2),
        "lstm-parameters": Arm("LSTM, equal parameters", "lstm", "parameters", 4e-2),
        "lstm-compute": Arm("LSTM, equal compute", "lstm", "compute", 4e-2),
        "gru-parameters": Arm("GRU, equal parameters", "gru", "parameters", 2e-2),
        "gru-compute": Arm("GRU, equal compute", "gru", "compute", 1e-2),
    }
)


class CharacterModel(nn.Module):
    """An embedding, recurrent layers, and a linear map to the logits of the next character.

    Args:
        kind: of the recurrent layers, as in `Arm`.
        vocabulary: characters.
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
        self.embedding = nn.Embedding(vocabulary, config.embedding_size)
        self.layers = _layers(kind, hidden_size, config)
        self.output = nn.Linear(hidden_size, vocabulary)

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


def build(arm: Arm, vocabulary: int, config: LanguageConfig) -> CharacterModel:
    """The network of an arm, as wide as comes closest to what it matches."""
    return CharacterModel(arm.kind, vocabulary, _width(arm, vocabulary, config), config)


def _width(arm: Arm, vocabulary: int, config: LanguageConfig) -> int:
    if arm.matches == "width":
        return config.hidden_size
    cost: Callable[[str, int, int, LanguageConfig], int]
    cost = _parameters if arm.matches == "parameters" else multiply_adds
    wanted = cost("fast-weights", vocabulary, config.hidden_size, config)
    widths = range(1, 2 * config.hidden_size + 1)
    return min(widths, key=lambda width: abs(cost(arm.kind, vocabulary, width, config) - wanted))


@functools.cache
def _parameters(kind: str, vocabulary: int, hidden_size: int, config: LanguageConfig) -> int:
    with torch.device("meta"):
        model = CharacterModel(kind, vocabulary, hidden_size, config)
    return sum(p.numel() for p in model.parameters())
