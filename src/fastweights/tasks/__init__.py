"""Tasks: one generator per file, each a function of (configuration, seed)."""

from fastweights.tasks.associative_retrieval import (
    AssociativeRetrieval,
    binding_free_ceiling,
    decode,
    encode,
)
from fastweights.tasks.characters import Alphabet, Text, TextStreams, load_text
from fastweights.tasks.data import Split, Splits, batch_indices, batches
from fastweights.tasks.mnist import Mnist, MnistSplit, load_mnist

__all__ = [
    "Alphabet",
    "AssociativeRetrieval",
    "Mnist",
    "MnistSplit",
    "Split",
    "Splits",
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
