"""Tasks: one generator per file, each a function of (configuration, seed)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastweights.tasks.associative_retrieval import (
    AssociativeRetrieval,
    binding_free_ceiling,
    decode,
    encode,
)
from fastweights.tasks.characters import Alphabet, Text, TextStreams, load_text
from fastweights.tasks.copying import RepeatCopy
from fastweights.tasks.data import Split, Splits, batch_indices, batches
from fastweights.tasks.mnist import Mnist, MnistSplit, load_mnist
from fastweights.tasks.sorting import PrioritySort
from fastweights.tasks.symbols import IGNORED, SymbolBatch

if TYPE_CHECKING:
    from fastweights.tasks.catch import Catch, CatchVector

__all__ = [
    "IGNORED",
    "Alphabet",
    "AssociativeRetrieval",
    "Catch",
    "CatchVector",
    "Mnist",
    "MnistSplit",
    "PrioritySort",
    "RepeatCopy",
    "Split",
    "Splits",
    "SymbolBatch",
    "Text",
    "TextStreams",
    "batch_indices",
    "batches",
    "binding_free_ceiling",
    "decode",
    "encode",
    "load_mnist",
    "load_text",
]


def __getattr__(name: str) -> Any:
    """The game of Catch is imported when somebody asks for it: it needs gymnasium."""
    if name in ("Catch", "CatchVector"):
        from fastweights.tasks import catch

        return getattr(catch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
