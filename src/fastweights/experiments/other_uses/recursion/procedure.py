"""The procedure that calls itself, written once in Python and once as what a network must learn.

``visit`` reads a tree in prefix order and writes each node between its two subtrees and again after
them::

    visit:  x = read                     START
            if x is a leaf: return                      DONE
            visit                        HOLD x    (resumes at MID x)
            write x                      MID x
            visit                        NEXT x    (resumes at END x)
            write x                      END x
            return                       DONE

The caller's stage and its x are needed after each call, so a network that comes back to the wrong
stage, or with the wrong x, writes something wrong.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "Act",
    "Stage",
    "Step",
    "Transition",
    "chain",
    "count_states",
    "course",
    "full_tree",
    "resume_states",
    "state_number",
    "transitions",
]


class Stage(enum.IntEnum):
    """Where in the program a network is; from HOLD on there is a local variable x too."""

    MAIN = 0
    START = 1
    DONE = 2
    HALT = 3
    HOLD = 4
    MID = 5
    NEXT = 6
    END = 7


class Act(enum.IntEnum):
    """What a network does besides going to its next state."""

    GO = 0
    CALL = 1
    RETURN = 2
    STOP = 3


_ACTS = {
    Stage.MAIN: Act.CALL,
    Stage.HOLD: Act.CALL,
    Stage.NEXT: Act.CALL,
    Stage.DONE: Act.RETURN,
    Stage.HALT: Act.STOP,
}
_NEXT = {
    Stage.MAIN: Stage.HALT,
    Stage.DONE: Stage.DONE,  # what returns goes nowhere by itself
    Stage.HALT: Stage.HALT,
    Stage.HOLD: Stage.MID,
    Stage.MID: Stage.NEXT,
    Stage.NEXT: Stage.END,
    Stage.END: Stage.DONE,
}
_WRITING = (Stage.MID, Stage.END)
LEAF = None

Tree = list[int | None]  # nodes numbered in prefix order, None for a leaf


class Step(NamedTuple):
    """One step of a run: the stage, the node whose symbol is x, what stands next on the tape."""

    stage: Stage
    node: int | None
    seen: int | None

    @property
    def act(self) -> Act:
        return _ACTS.get(self.stage, Act.GO)

    @property
    def writes(self) -> bool:
        return self.stage in _WRITING


class Transition(NamedTuple):
    """What the slow weights have to know: numbers of states, symbols and acts."""

    state: int
    seen: int
    next_state: int
    act: int
    write: int


def chain(depth: int) -> Tree:
    """A tree whose every right child is a leaf: ``depth`` callers wait at its end.

    Example:
        >>> chain(3)
        [0, 1, None, None, None]
    """
    return [*range(depth - 1), *[LEAF] * depth]


def full_tree(depth: int) -> Tree:
    """A tree with every node down to this depth: ``depth`` callers wait at its leaves.

    Example:
        >>> full_tree(3)
        [0, 1, None, None, 2, None, None]
    """
    numbers = iter(range(2**depth))

    def grow(left: int) -> Tree:
        if left == 1:
            return [LEAF]
        node = next(numbers)
        return [node, *grow(left - 1), *grow(left - 1)]

    return grow(depth)


def course(tree: Tree) -> list[Step]:
    """Every step of a run, by Python's own stack.

    Example:
        >>> [step.stage.name for step in course(chain(1))]
        ['MAIN', 'START', 'DONE', 'HALT']
    """
    at = 0

    def step(stage: Stage, node: int | None = None) -> Step:
        return Step(stage, node, tree[at] if at < len(tree) else LEAF)

    def visit() -> Iterator[Step]:
        nonlocal at
        node = tree[at]
        yield step(Stage.START)
        at += 1
        if node is not LEAF:
            yield step(Stage.HOLD, node)
            yield from visit()
            yield step(Stage.MID, node)
            yield step(Stage.NEXT, node)
            yield from visit()
            yield step(Stage.END, node)
        yield step(Stage.DONE)

    return [step(Stage.MAIN), *visit(), step(Stage.HALT)]


def count_states(symbols: int) -> int:
    """How many states there are: four stages without x and four with it."""
    return 4 + 4 * symbols


def state_number(stage: Stage, symbol: int, symbols: int) -> int:
    """The number of a state; ``symbol`` does not matter before HOLD."""
    return int(stage) if stage < Stage.HOLD else 4 + (stage - Stage.HOLD) * symbols + symbol


def resume_states(symbols: int) -> list[int]:
    """The states that a return may lead to."""
    return [
        int(Stage.HALT),
        *(state_number(s, x, symbols) for s in _WRITING for x in range(symbols)),
    ]


def transitions(symbols: int) -> list[Transition]:
    """All of them, ``symbols`` standing for a leaf on the tape and for nothing written."""
    rows = []
    for stage in Stage:
        for x in range(1 if stage < Stage.HOLD else symbols):
            for seen in range(symbols + 1):
                if stage == Stage.START:
                    after, y = (Stage.DONE, 0) if seen == symbols else (Stage.HOLD, seen)
                else:
                    after, y = _NEXT[stage], x
                rows.append(
                    Transition(
                        state_number(stage, x, symbols),
                        seen,
                        state_number(after, y, symbols),
                        _ACTS.get(stage, Act.GO),
                        x if stage in _WRITING else symbols,
                    )
                )
    return rows
