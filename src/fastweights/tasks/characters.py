"""Text as a sequence of characters: any UTF-8 file, in three parts that follow one another."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fastweights.files import read_bytes
from fastweights.tasks.streams import MAX_SEED, check_integer, stream

__all__ = ["Alphabet", "Text", "TextStreams", "load_text"]

TINY_SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
LONGEST = 256 * 2**20  # bytes
SHORTEST = 20  # characters, so that every part has at least two


@dataclass(frozen=True)
class Alphabet:
    """The characters that a text is made of; a token is a character's place among them.

    Args:
        characters: each once, in the order of their tokens.

    Raises:
        ValueError: there are none, or one comes twice.

    Example:
        >>> alphabet = Alphabet.of("hello")
        >>> alphabet.characters, alphabet.encode("hole")
        ('ehlo', tensor([1, 3, 2, 0]))
        >>> alphabet.encode("help")
        Traceback (most recent call last):
        ...
        ValueError: the text has 'p', not among the 4 known characters: 'ehlo'
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or len(set(self.characters)) < len(self.characters):
            raise ValueError(f"characters must be there, each once, got {self.characters!r}")

    @classmethod
    def of(cls, text: str) -> Alphabet:
        """The characters of a text in the order of their code points."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {character: token for token, character in enumerate(self.characters)}

    def encode(self, text: str) -> Tensor:
        """The tokens of a text, int64, shape (characters,).

        Raises:
            ValueError: the text has a character that is not in the alphabet.
        """
        if unknown := sorted(set(text) - set(self._tokens)):
            raise ValueError(
                f"the text has {', '.join(map(repr, unknown))}, not among the "
                f"{len(self)} known characters: {self.characters!r}"
            )
        return torch.tensor([self._tokens[c] for c in text], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """The text of tokens of shape (characters,)."""
        return "".join(self.characters[token] for token in tokens.tolist())


@dataclass(frozen=True, eq=False)
class Text:
    """A text in three parts that follow one another.

    Attributes:
        alphabet: of the whole text, so that every character can be predicted somehow.
        train: tokens of the first 80 %, int64, shape (characters,).
        validation: of the next 10 %.
        test: of the last 10 %.
    """

    alphabet: Alphabet
    train: Tensor
    validation: Tensor
    test: Tensor

    def digest(self) -> str:
        """SHA-256 of alphabet and parts (little-endian 64-bit integers), in hexadecimal."""
        total = hashlib.sha256(self.alphabet.characters.encode())
        for tokens in (self.train, self.validation, self.test):
            total.update(tokens.numpy().astype("<i8").tobytes())
        return total.hexdigest()


def load_text(path: str | os.PathLike[str] | None = None) -> Text:
    """A UTF-8 file as characters, as they are in the file.

    Args:
        path: the file. None: tiny Shakespeare, 1,115,394 characters of his plays, as
            ``tinyshakespeare/input.txt`` in the folder that the environment variable
            FASTWEIGHTS_DATA names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, shorter than 20 characters, longer than 256 MiB, or not UTF-8; or,
            without a path,
            the variable is not set or the SHA-256 of the file is not that of tiny Shakespeare.

    Source: tiny Shakespeare was put together by Karpathy for https://github.com/karpathy/char-rnn.

    Example:
        >>> load_text("no such file")
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no text file no such file
    """
    place = _tiny_shakespeare() if path is None else Path(path)
    if not place.is_file():
        raise FileNotFoundError(f"there is no text file {place}")
    content = read_bytes(place, limit=LONGEST, follow_links=True)
    if path is None and (found := hashlib.sha256(content).hexdigest()) != TINY_SHAKESPEARE:
        raise ValueError(
            f"{place} is not tiny Shakespeare: expected SHA-256 {TINY_SHAKESPEARE}, found {found}"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place} must be UTF-8, but byte {error.start} is {content[error.start]:#04x}"
        ) from None
    if len(text) < SHORTEST:
        raise ValueError(f"{place} must have at least {SHORTEST} characters, got {len(text)}")
    alphabet = Alphabet.of(text)
    tokens = alphabet.encode(text)
    first, second = len(text) * 8 // 10, len(text) * 9 // 10
    return Text(alphabet, tokens[:first], tokens[first:second], tokens[second:])


def _tiny_shakespeare() -> Path:
    value = os.environ.get("FASTWEIGHTS_DATA")
    if not value:
        raise ValueError(
            "path must be given, or the environment variable FASTWEIGHTS_DATA name a folder that "
            "holds tinyshakespeare/input.txt"
        )
    return Path(value) / "tinyshakespeare" / "input.txt"


@dataclass(frozen=True, eq=False)
class TextStreams:
    """A text cut into streams that are read side by side, a segment of each at a time.

    The next segment goes on where the last one stopped, so that the state of a recurrent layer can
    be carried over. The text is a ring, and every epoch cuts it at other places, which the seed and
    the epoch decide alone.

    Args:
        tokens: the text, int64, shape (characters,).
        streams: N, how many.
        length: L, characters of each in a segment.

    Raises:
        ValueError: the text is too short for a single segment.

    Example:
        >>> streams = TextStreams(torch.arange(10), streams=2, length=2)
        >>> inputs, targets = streams.segment(seed=0, epoch=0, number=1)
        >>> inputs.T.tolist(), targets.T.tolist()
        ([[1, 2], [6, 7]], [[2, 3], [7, 8]])
    """

    tokens: Tensor
    streams: int
    length: int

    def __post_init__(self) -> None:
        check_integer("streams", self.streams, 1)
        check_integer("length", self.length, 1)
        if not self.per_epoch:
            raise ValueError(
                f"{self.streams} streams in segments of {self.length} need a text of at least "
                f"{self.streams * self.length:,} characters, got {len(self.tokens):,}"
            )

    @property
    def per_epoch(self) -> int:
        """How many segments read the text once."""
        return len(self.tokens) // self.streams // self.length

    def segment(self, seed: int, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        """The characters of a segment and those that follow them.

        Args:
            seed: 0 … 2^64 − 1.
            epoch: 0 … 2^64 − 1.
            number: which segment of the epoch, 0 … ``per_epoch`` − 1.

        Returns:
            Inputs and targets, both of shape (L, N).
        """
        check_integer("seed", seed, 0, MAX_SEED)
        check_integer("number", number, 0, self.per_epoch - 1)
        size = len(self.tokens)
        start = int(stream(seed, "text", second=epoch).random_raw(1)[0]) % size
        along = torch.arange(self.length)[:, None] + start + number * self.length
        places = along + torch.arange(self.streams) * (size // self.streams)
        return self.tokens[places % size], self.tokens[(places + 1) % size]
