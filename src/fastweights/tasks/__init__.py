"""Tasks: one generator per file, each a function of (configuration, seed)."""

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

__all__ = [
    "IGNORED",
    "Alphabet",
    "AssociativeRetrieval",
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
