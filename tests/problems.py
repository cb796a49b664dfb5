"""Random calls of the recurrence, and everything they give: values, final state, gradients."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastweights.decay import (
    Decay,
    Exponential,
    Factorial,
    Free,
    PowerLaw,
    StepIndexed,
    SumOfExponentials,
)
from fastweights.ops.fast_weights import (
    InputProjection,
    LayerState,
    Options,
    SlowWeights,
    fast_weights,
)
from tests.oracle import DECAYS, WeightAt

__all__ = [
    "KERNELS",
    "RECURRENT",
    "STATIONARY",
    "Problem",
    "decay_named",
    "matrix_of",
    "oracle_decay",
    "problem",
    "run",
    "solve",
]

KERNELS = ["native"]  # the fused backends of the CPU

_DECAYS: dict[str, Callable[[], Decay]] = {
    "exponential": lambda: Exponential(0.9),
    "learned-exponential": lambda: Exponential(0.8, learnable=True),
    "exponentials": lambda: SumOfExponentials([0.5, 0.75, -0.25], [0.5, 0.96875, 1.0]),
    "no-decay": lambda: Exponential(1.0),
    "forgets-all": lambda: Exponential(0.0),
    "power-law": lambda: PowerLaw(0.5),
    "learned-power-law": lambda: PowerLaw(0.7, learnable=True),
    "factorial": lambda: Factorial(0.5),
    "learned-factorial": lambda: Factorial(0.3, learnable=True),
    "step-indexed": lambda: StepIndexed(0.5),
    "learned-step-indexed": lambda: StepIndexed(0.4, learnable=True),
    "free": lambda: Free(4, values=[0.5, -0.25, 0.75]),
    "learned-free": lambda: Free(6, values=[0.9, 0.5, 0.25, -0.5, 0.5], learnable=True),
    "only-the-newest": lambda: Free(1),
}
RECURRENT = [name for name in _DECAYS if "exponential" in name or "step" in name]
RECURRENT += ["no-decay", "forgets-all"]
STATIONARY = [name for name in _DECAYS if "step" not in name]


def decay_named(name: str) -> Decay:
    """The decay in double precision, its parameter a number that single precision holds."""
    decay = _DECAYS[name]()
    return decay.double()


def oracle_decay(decay: Decay) -> WeightAt:
    """The oracle's own decay of the same kind with the same parameter."""
    with torch.no_grad():
        if isinstance(decay, Exponential):
            return DECAYS["exponential"](float(decay.rate))
        if isinstance(decay, SumOfExponentials):
            return DECAYS["exponentials"](decay.shares.tolist(), decay.speeds.tolist())
        if isinstance(decay, Free):
            return DECAYS["free"](*decay.values.tolist())
        kinds = {PowerLaw: "power_law", Factorial: "factorial", StepIndexed: "step_indexed"}
        return DECAYS[kinds[type(decay)]](float(decay.exponent))


@dataclasses.dataclass
class Problem:
    """The arguments of ``fast_weights``."""

    drive: Tensor | InputProjection
    weights: SlowWeights
    decay: Decay
    write_rate: Tensor
    state: LayerState
    options: Options
    lengths: Tensor | None = None

    @property
    def source(self) -> Tensor:
        """What differs from step to step: the drive, or the input that it is a product of."""
        return self.drive.input if isinstance(self.drive, InputProjection) else self.drive

    def with_source(self, source: Tensor) -> Problem:
        """The same with another."""
        drive = (
            self.drive._replace(input=source) if isinstance(self.drive, InputProjection) else source
        )
        return dataclasses.replace(self, drive=drive)

    def leaves(self) -> dict[str, Tensor]:
        """Every tensor that a gradient can be asked for, by name."""
        factors = (
            self.drive._asdict()
            if isinstance(self.drive, InputProjection)
            else {"drive": self.drive}
        )
        named = {
            **factors,
            **{f"weights.{k}": v for k, v in self.weights._asdict().items()},
            "write_rate": self.write_rate,
            "state.hidden": self.state.hidden,
            "state.history": self.state.history,
            **{f"decay.{k}": v for k, v in self.decay.named_parameters()},
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, dtype: torch.dtype, device: str = "cpu") -> Problem:
        """The same numbers, copied, as leaves that require gradients."""

        def cast(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            return tensor.detach().to(device, dtype, copy=True).requires_grad_()

        state = self.state
        return dataclasses.replace(
            self,
            drive=InputProjection(*map(cast, self.drive))
            if isinstance(self.drive, InputProjection)
            else cast(self.drive),
            weights=SlowWeights(*map(cast, self.weights)),
            decay=copy.deepcopy(self.decay).to(device, dtype),
            write_rate=cast(self.write_rate),
            state=LayerState(cast(state.hidden), state.steps.to(device), cast(state.history)),
            lengths=None if self.lengths is None else self.lengths.to(device),
        )

    def part(self, samples: slice) -> Problem:
        """Some samples of the batch; without gradients."""
        state = self.state
        history = None if state.history is None else state.history[:, samples]
        return dataclasses.replace(
            self.with_source(self.source[:, samples]),
            state=LayerState(state.hidden[samples], state.steps[samples], history),
        )


def problem(
    length: int,
    batch: int,
    width: int,
    *,
    decay: str = "exponential",
    carried: int = 0,
    lengths: Sequence[int] | None = None,
    seed: int = 0,
    features: int = 0,
    input_bias: bool = True,
    **options: Any,
) -> Problem:
    """Numbers of moderate size that single precision holds exactly, in double precision.

    ``carried`` vectors were written before the first step. W is not diagonal, nor is A. With
    ``features`` the drive is still to be multiplied out.
    """
    generator = torch.Generator().manual_seed(seed + 7919 * length + 31 * batch + width)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    def rounded(x: Tensor) -> Tensor:
        return x.float().double()

    chosen = Options(**options)
    norm, static = chosen.layer_norm, chosen.memory == "static"
    # Without LN nothing holds h back, so W and A must: both well below 1.
    scale = 1.0 if norm else 0.5
    memories = carried > 0
    drive: Tensor | InputProjection = rounded(scale * draw(length, batch, width))
    if features:
        drive = InputProjection(
            rounded(draw(length, batch, features)),
            rounded(scale * draw(width, features) / features**0.5),
            rounded(0.3 * scale * draw(width)) if input_bias else None,
        )
    return Problem(
        drive=drive,
        weights=SlowWeights(
            recurrent=rounded(0.3 * scale * draw(width, width) / width**0.5),
            norm_weight=rounded(1 + 0.2 * draw(width)) if norm else None,
            norm_bias=rounded(0.2 * draw(width)) if norm else None,
            memory=rounded(0.3 * scale * draw(width, width) / width**0.5) if static else None,
        ),
        decay=decay_named(decay),
        write_rate=rounded(torch.tensor((0.3 if norm else 0.03) / width, dtype=torch.float64)),
        state=LayerState(
            hidden=rounded(draw(batch, width).relu()) if memories else draw(batch, width) * 0,
            steps=torch.full((batch,), carried),
            history=rounded(draw(carried, batch, width).relu()) if memories else None,
        ),
        options=chosen,
        lengths=None if lengths is None else torch.tensor(lengths),
    )


def matrix_of(state: LayerState, problem: Problem) -> Tensor:
    """A(t − 1) of a state, whichever way it is kept."""
    if state.matrix is not None:
        return state.matrix if state.matrix.dim() == 3 else state.matrix.sum(1)
    return components_of(state, problem).sum(1)


def components_of(state: LayerState, problem: Problem) -> Tensor:
    """The same from a history, by the exponentials of the decay, shape (B, M, H, H)."""
    hidden, history = state.hidden, state.history
    if history is None:
        batch, width = hidden.shape
        return hidden.new_zeros(batch, problem.decay.components, width, width)
    if problem.options.detach_writes:
        history = history.detach()
    newest = state.steps - 1
    ages = torch.arange(history.shape[0] - 1, -1, -1, device=history.device)[:, None]
    newest = newest.expand(len(ages), -1)
    if problem.decay.recurrent:
        weight = problem.decay.write_shares() * problem.decay.remaining(newest - ages, newest)
    else:
        weight = problem.decay.between(newest - ages, newest)[..., None]
    weight = problem.write_rate * weight.to(history.dtype)
    return torch.einsum("mbc,mbi,mbj->bcij", weight, history, history)


def run(
    problem: Problem,
    *,
    form: str = "attention",
    backend: str = "reference",
    chunk_size: int | None = None,
    from_matrix: bool = False,
) -> tuple[Tensor, LayerState, Tensor]:
    """Output, final state, and that state's memory as a matrix.

    ``from_matrix`` hands the state over as a matrix instead of the vectors.
    """
    state = problem.state
    if from_matrix:
        parts = components_of(state, problem)
        matrix = parts[:, 0] if parts.shape[1] == 1 else parts
        state = LayerState(state.hidden, state.steps, matrix=matrix)
    output, after = fast_weights(
        problem.drive,
        problem.weights,
        problem.decay,
        problem.write_rate,
        state,
        problem.options,
        lengths=problem.lengths,
        form=form,
        backend=backend,
        chunk_size=chunk_size,
    )
    return output, after, matrix_of(after, problem)


def solve(problem: Problem, **how: Any) -> dict[str, Tensor]:
    """What :func:`run` gives and every gradient, for random cotangents on all of it."""
    output, after, memory = run(problem, **how)
    results = {"output": output, "hidden": after.hidden, "memory": memory}
    generator = torch.Generator().manual_seed(5)
    loss = sum(
        (torch.randn(r.shape, generator=generator).to(r) * r).sum() for r in results.values()
    )
    leaves = problem.leaves()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        results[f"d {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {**results, "steps": after.steps}
