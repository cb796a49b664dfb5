"""The cases of the recurrence, and how much arithmetic its equations need."""

from __future__ import annotations

import dataclasses

from fastweights.training.config import ConfigError, nearest

__all__ = ["CASES", "INPUTS", "MODES", "OVERHEAD", "STEPS", "Case", "parse_case"]

INPUTS = 37  # features of the input: the alphabet of associative retrieval, one-hot
MODES = ("training", "forward")
_STATE = "+state"


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer of some width on a batch of sequences, written BATCHxLENGTHxWIDTH.

    With ``state`` it is a single step that goes on from a state, as one reaches it after many
    steps of streaming: the state holds a matrix for every sample.

    Example:
        >>> Case(128, 11, 50).name, Case(16, 1, 64, state=True).name
        ('128x11x50', '16x1x64+state')
    """

    batch: int
    length: int
    width: int
    state: bool = False

    @property
    def name(self) -> str:
        return f"{self.batch}x{self.length}x{self.width}" + _STATE * self.state

    def flops(self, mode: str) -> int:
        """Additions and multiplications that the equations need, S = 1.

        Only products count: C x(t), W h(t), and the reads and writes of the memory, each step in
        whichever form is cheaper. With m vectors written, the attention form takes 4·m·H forward
        (the scores, and their sum) and 8·m·H backward; the matrix form 4·H² forward (the write,
        and the read) and 8·H² backward; so it is 4·min(m, H)·H and twice that, and from a state
        always the matrix form. Training adds the gradients of C, W and h(t), and none of the
        input. What a form takes on top to remember or to work out again is not needed and not
        counted, nor is layer norm.

        Args:
            mode: "training", a forward and a backward pass, or "forward".

        Example:
            >>> Case(1, 1, 2).flops("forward") == 2 * 2 * 37 + 2 * 2 * 2 + 4 * 1 * 2
            True
        """
        h, t = self.width, self.length
        input_product, recurrent_product = 2 * h * INPUTS, 2 * h * h
        few = 0 if self.state else min(t, h)  # steps whose vectors are fewer than the features
        read = 4 * h * (few * (few + 1) // 2 + (t - few) * h)
        forward = t * (input_product + recurrent_product) + read
        backward = t * (input_product + 2 * recurrent_product) + 2 * read
        return self.batch * (forward + backward if mode == "training" else forward)


CASES = tuple(
    Case(*sizes)
    for sizes in (
        (128, 11, 20),
        (128, 11, 50),
        (128, 11, 100),
        (128, 24, 200),
        (128, 55, 50),
        (128, 55, 100),
        (128, 200, 100),
        (32, 512, 128),
        (8, 512, 128),
        (8, 4096, 128),
    )
)
OVERHEAD = Case(1, 1, 8)  # next to no arithmetic: what a call costs
STEPS = tuple(Case(batch, 1, 64, state=True) for batch in (1, 16, 256))


def parse_case(text: str) -> Case:
    """The case of a name, one of ours or any other.

    Raises:
        ConfigError: it is not three sizes; the message names the nearest known case.

    Example:
        >>> parse_case("128x11x50")
        Case(batch=128, length=11, width=50, state=False)
    """
    state = text.endswith(_STATE)
    sizes = text.removesuffix(_STATE).split("x")
    if len(sizes) == 3 and all(size.isdecimal() and int(size) > 0 for size in sizes):
        batch, length, width = map(int, sizes)
        if length == 1 or not state:
            return Case(batch, length, width, state)
    known = [case.name for case in (*CASES, OVERHEAD, *STEPS)]
    raise ConfigError(
        "a case is BATCHxLENGTHxWIDTH, each at least 1, or BATCHx1xWIDTH+state for a single step "
        f"with a state, got {text!r}: {nearest(text, known)}"
    )
