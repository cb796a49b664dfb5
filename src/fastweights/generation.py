"""New text from a trained network, a character at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastweights.experiments.language import ARMS
from fastweights.experiments.language_model import LanguageConfig
from fastweights.files import has_checksum, is_there, printable, read_json
from fastweights.lab.plan import RUN
from fastweights.tasks import Alphabet
from fastweights.training.checkpoint import load_model, read_progress
from fastweights.training.config import ConfigError, from_dict
from fastweights.training.metrics import read_validations

CHECKPOINT = "checkpoint.safetensors"


def generate(
    folder: Path,
    prompt: str,
    *,
    length: int,
    temperature: float,
    seed: int,
    show: Callable[[str], object],
    note: Callable[[str], object],
) -> None:
    """Continue a text with the best network of a run, a character at a time.

    Args:
        folder: of a run of language, or of one network of it.
        prompt: where the text begins.
        length: how many characters to add.
        temperature: of the draws; see `stream_text`.
        seed: of the draws.
        show: takes the prompt, then each character as it is made, made printable.
        note: takes a line that names the network, where the folder is that of a run.

    Raises:
        ConfigError: the folder has no network, or the text cannot be continued, and nothing is
            shown; or the network's weights turn out to be of no use.
    """
    home = best_network(folder)
    model, alphabet = load_network(home)
    characters = stream_text(
        model, alphabet, prompt, length=length, temperature=temperature, seed=seed
    )
    if home != folder:
        note(f"The best of {folder}: {home.name}")
    show(prompt)
    try:
        for character in characters:
            show(printable(character))
    except FloatingPointError as error:
        raise ConfigError(f"{home / CHECKPOINT} is of no use: {error}") from None
    finally:
        show("\n")


def best_network(folder: Path) -> Path:
    """The folder of the network that predicts validation text best, of a run or of one network.

    Raises:
        ConfigError: the folder holds no network that has learned to predict text, or a file in it
            is damaged or leads elsewhere.
    """
    try:
        alone = is_there(folder / CHECKPOINT) or is_there(folder / "config.json")
        candidates = [folder] if alone else sorted(folder.glob("units/*"))
        found = [(bits, home) for home in candidates if (bits := _bits(home, folder)) is not None]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not found:
        raise ConfigError(
            f"{folder} holds no trained network; a run of `fastweights run language` does, or one "
            "of the folders below its units"
        )
    return min(found)[1]


def _bits(home: Path, root: Path) -> float | None:
    """Bits per character at the last validation; None if there was none.

    Raises:
        ValueError: a file is damaged, or leads elsewhere.
    """
    has_checkpoint = is_there(home / CHECKPOINT, root)  # and no link leads to it
    points = read_validations(home, checksum=_has_checksums(home))
    if not has_checkpoint:
        # A kill may come between a validation's line and its checkpoint, but not twice.
        if len(points) > 1 or is_there(home / "result.json", root):
            raise ValueError(f"{home / CHECKPOINT} is missing: this network was trained")
        return None
    bits = points[-1].get("validation_bits") if points else None
    return bits if isinstance(bits, int | float) else None


def _has_checksums(home: Path) -> bool:
    """Whether the files of a network have to have checksums, as the description of its run has.

    Raises:
        ValueError: the description is damaged, or leads elsewhere.
    """
    description = home.absolute().parent.parent / RUN
    return is_there(description) and has_checksum(description)


def load_network(home: Path) -> tuple[nn.Module, Alphabet]:
    """A trained network with the characters it knows.

    Raises:
        ConfigError: the folder's files are not those of a network that predicts text.
    """
    try:
        checksum = _has_checksums(home)
        described = read_json(home / "config.json", checksum=checksum)
        config = from_dict(LanguageConfig, described["config"])
        alphabet = Alphabet(read_progress(home / CHECKPOINT)["alphabet"])
        _check_size(config, len(alphabet), (home / CHECKPOINT).stat().st_size)
        model = ARMS[described["arm"]].build(len(alphabet), config)
        load_model(home / CHECKPOINT, model, checksum=checksum)
    except FileNotFoundError as error:
        raise ConfigError(f"{home} does not hold a network that predicts text: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{home} does not hold a network that predicts text: {reason}") from None
    return model.eval(), alphabet


def _check_size(config: LanguageConfig, vocabulary: int, stored: int) -> None:
    """See that a description asks for no more than its checkpoint holds, before anything is made.

    Raises:
        ValueError: it does; every parameter takes more than a byte.
    """
    hidden, embedding = config.hidden_size, config.embedding_size
    least = hidden * (hidden * config.num_layers + embedding) + vocabulary * embedding
    if least > stored:
        raise ValueError(f"config.json asks for {least} parameters, its checkpoint has fewer")


def stream_text(
    model: nn.Module,
    alphabet: Alphabet,
    prompt: str,
    *,
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """The characters that follow a prompt, one at a time.

    What the network remembers has one size, so a character costs the same however many were before.

    Args:
        model: maps tokens (L, N) and a state to logits (L, N, characters) and a state.
        alphabet: of its characters.
        prompt: where the text begins, at least one character.
        length: how many characters to make.
        temperature: logits are divided by it; 0 takes the likeliest character always.
        seed: of the draws.

    Raises:
        ConfigError: the prompt is empty or has a character that the network does not know, or a
            number is out of range.
        FloatingPointError: on the way, the network's weights are of no use.

    Example:
        >>> from fastweights.experiments.language_model import CharacterModel
        >>> model = CharacterModel("fast-weights", 2, 4, LanguageConfig())
        >>> len("".join(stream_text(model.eval(), Alphabet("ab"), "abba", length=5)))
        5
    """
    if not prompt:
        raise ConfigError("the prompt must have at least one character")
    if length < 0:
        raise ConfigError(f"length must be at least 0, got {length}")
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature must be at least 0 and finite, got {temperature}")
    try:
        tokens = alphabet.encode(prompt)
    except ValueError as error:
        raise ConfigError(f"prompt: {error}") from None
    return _characters(model, alphabet, tokens[:, None], length, temperature, seed)


def _characters(
    model: nn.Module,
    alphabet: Alphabet,
    tokens: torch.Tensor,
    length: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    generator = torch.Generator().manual_seed(seed)
    state: Any = None
    for _ in range(length):
        with torch.no_grad():
            logits, state = model(tokens, state)
        if not logits.isfinite().all():
            raise FloatingPointError("what the network puts out is no longer finite")
        if temperature:
            chances = ((logits[-1] - logits[-1].max()) / temperature).softmax(-1)
            tokens = torch.multinomial(chances, 1, generator=generator)
        else:
            tokens = logits[-1:].argmax(-1)
        yield alphabet.decode(tokens[0])
