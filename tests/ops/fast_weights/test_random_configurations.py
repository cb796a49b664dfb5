"""Whole calls drawn at random, every option at once: values and every gradient.

A table of pairs does not meet a fault that needs an option, a form and a length together. Here
all that a call can be is drawn at the same time, for whichever fused backends the CPU has, and
held against the reference in double precision.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastweights.ops.fast_weights import (
    InputProjection,
    LayerState,
    Options,
    SlowWeights,
    fast_weights,
)
from fastweights.ops.fast_weights.reference import memory_weights
from tests.problems import (
    KERNELS,
    RECURRENT,
    STATIONARY,
    Problem,
    components_of,
    decay_named,
    matrix_of,
    problem,
)
from tests.problems import solve as solve_problem
from tests.tolerances import TOLERANCES, assert_close

# What each fused backend of the CPU can run.
BACKENDS: dict[str, dict[str, Any]] = {
    "native": {
        "nonlinearity": ["relu", "tanh"],
        "attention": list(dict.fromkeys([*STATIONARY, *RECURRENT])),
        "chunked": [name for name in RECURRENT if name in STATIONARY],
    },
}
assert list(BACKENDS) == KERNELS
DTYPES = [torch.float64, torch.float32]
RESULTS = ("output", "hidden", "memory")


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One call of the recurrence, or several in a row; printed by a test that fails.

    Attributes:
        handed_over: the steps at which another call goes on from the state of the one before.
        detached: whether each of these states is cut from the graph.
        forms: of each call.
        features: of the input that C multiplies; 0 for a drive that is made elsewhere.
        write_rate: "number", "tensor" or "learned".
        norm: "none", "bare" without gain and bias, "gain", "bias" or "both".
        start: "none", "zeros", "history" or "matrix".
        clocks: "from zero", "later" for steps before those of the history, or "own" for each
            sample.
        resets: the steps before which samples forget everything, and which samples; None without.
        frozen: leaves that require no gradient.
        seen: the results that the loss depends on.
    """

    dtype: torch.dtype
    length: int
    batch: int
    width: int
    forms: tuple[str, ...]
    handed_over: tuple[int, ...]
    detached: tuple[bool, ...]
    chunk_size: int | None
    features: int
    input_bias: bool
    decay: str
    write_rate: str
    options: dict[str, Any]
    norm: str
    start: str
    carried: int
    clocks: str
    lengths: tuple[int, ...] | None
    resets: tuple[tuple[int, int], ...] | None
    frozen: tuple[str, ...]
    seen: tuple[str, ...]
    strided: bool
    threads: int
    seed: int


def _mostly_small(largest: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(1, 12), st.integers(1, 12), st.integers(1, largest))


@st.composite
def configurations(draw: st.DrawFn, backend: str) -> Configuration:
    """Every option, form, size and state, all at once."""
    can = BACKENDS[backend]
    length, batch, width = draw(_mostly_small(80)), draw(st.integers(1, 9)), draw(_mostly_small(70))
    memory = draw(st.sampled_from(["hebbian"] * 6 + ["static", "none"]))
    first = draw(st.sampled_from(["attention", "chunked"]))
    start = draw(st.sampled_from(["none", "zeros", "history", "history", "matrix"]))
    if memory != "hebbian" and start == "matrix":
        start = "zeros"
    if start == "matrix":
        first = "chunked"  # no other can go on from one
    handed_over = draw(st.just(()) | st.sets(st.integers(1, length), max_size=2).map(sorted))
    handed_over = tuple(step for step in handed_over if step < length)
    forms = (first,)
    for _ in handed_over:
        forms = (*forms, draw(st.sampled_from([forms[-1], "chunked"])))
    decay = draw(st.sampled_from(can["chunked" if "chunked" in forms else "attention"]))
    norm = draw(st.sampled_from(["none", "bare", "gain", "bias", "both", "both", "both"]))
    lengths = draw(st.none() | st.tuples(*[st.integers(0, length)] * batch))
    places = st.tuples(st.integers(0, length - 1), st.integers(0, batch - 1))
    resets = draw(st.none() | st.sets(places, max_size=6).map(lambda s: tuple(sorted(s))))
    return Configuration(
        dtype=draw(st.sampled_from(DTYPES)),
        length=length,
        batch=batch,
        width=width,
        forms=forms,
        handed_over=handed_over,
        detached=tuple(draw(st.booleans()) for _ in handed_over),
        chunk_size=draw(st.none() | st.integers(1, length + 2)),
        features=draw(st.sampled_from([0, 0, 1, 2, 5, 8, 20])),
        input_bias=draw(st.booleans()),
        decay=decay,
        write_rate=draw(st.sampled_from(["number", "tensor", "learned", "learned"])),
        options={
            "inner_steps": draw(st.sampled_from([0, 1, 1, 1, 2, 3])),
            "nonlinearity": draw(st.sampled_from(can["nonlinearity"])),
            "norm_preliminary": norm != "none" and draw(st.booleans()),
            # Layer norm of one feature has no gradient, only rounding, times 1 / √ε.
            "norm_eps": draw(st.sampled_from([1e-5, 1e-2])) if width > 1 else 1e-2,
            "write": draw(st.sampled_from(["before_read", "after_read"])),
            "query": draw(st.sampled_from(["preliminary", "previous"])),
            "memory": memory,
            "detach_writes": draw(st.booleans()),
        },
        norm=norm,
        start=start,
        carried=draw(_mostly_small(80)) if start in ("history", "matrix") else 0,
        clocks=draw(st.sampled_from(["from zero", "later", "own"])),
        lengths=lengths,
        resets=resets,
        frozen=draw(st.just(()) | st.sets(st.sampled_from(LEAVES)).map(lambda s: tuple(sorted(s)))),
        seen=draw(st.just(RESULTS) | st.sampled_from([(name,) for name in RESULTS])),
        strided=draw(st.booleans()),
        threads=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 2**16)),
    )


LEAVES = (
    "bias",
    "decay",
    "drive",
    "input",
    "norm_bias",
    "norm_weight",
    "recurrent",
    "state.hidden",
    "state.memory",
    "static",
    "weight",
    "write_rate",
)


class _Tensors:
    """The numbers of a configuration, in some precision, as leaves."""

    def __init__(self, drawn: Configuration, dtype: torch.dtype, nudge: int) -> None:
        self._drawn, self._dtype = drawn, dtype
        self._nudge = torch.Generator().manual_seed(nudge) if nudge else None
        self._generator = torch.Generator().manual_seed(drawn.seed)
        self.leaves: dict[str, Tensor] = {}

    def leaf(self, name: str, *shape: int, scale: float = 1.0, at: float = 0.0) -> Tensor:
        """Numbers that single precision holds exactly; drawn whether or not they are asked for."""
        numbers = at + scale * torch.randn(*shape, generator=self._generator)
        return self.given(name, numbers)

    def given(self, name: str, numbers: Tensor) -> Tensor:
        tensor = numbers.to(self._dtype, copy=True)
        if self._nudge:
            tensor *= 1 + 2**-23 * torch.randn(tensor.shape, generator=self._nudge).to(tensor)
        tensor.requires_grad_(name not in self._drawn.frozen)
        self.leaves[name] = tensor
        if self._drawn.strided and tensor.dim() > 1:  # the same numbers in another order of memory
            order = (tensor.dim() - 1, *range(tensor.dim() - 1))
            back = (*range(1, tensor.dim()), 0)
            return tensor.permute(order).contiguous().permute(back)
        return tensor


def build(
    drawn: Configuration, dtype: torch.dtype, nudge: int = 0
) -> tuple[Problem, dict[str, Tensor]]:
    """The call, and everything that it can be differentiated by.

    ``nudge`` is the seed of random changes in the last bits of single precision, 0 for none.
    """
    tensors = _Tensors(drawn, dtype, nudge)
    length, batch, width = drawn.length, drawn.batch, drawn.width
    normed, static = drawn.norm != "none", drawn.options["memory"] == "static"
    # Without layer norm nothing holds h back, so W and A must, however many memories there are.
    scale = 1.0 if normed else 0.5
    eta = 0.3 / width if normed else 0.1 / (width * (drawn.carried + length) ** 0.5)
    drive: Tensor | InputProjection
    if drawn.features:
        drive = InputProjection(
            tensors.leaf("input", length, batch, drawn.features),
            tensors.leaf("weight", width, drawn.features, scale=scale / drawn.features**0.5),
            tensors.leaf("bias", width, scale=0.3 * scale) if drawn.input_bias else None,
        )
    else:
        drive = tensors.leaf("drive", length, batch, width, scale=scale)
    matrix_scale = 0.3 * scale / width**0.5
    gain, bias = drawn.norm in ("gain", "both"), drawn.norm in ("bias", "both")
    weights = SlowWeights(
        recurrent=tensors.leaf("recurrent", width, width, scale=matrix_scale),
        norm_weight=tensors.leaf("norm_weight", width, scale=0.2, at=1.0) if gain else None,
        norm_bias=tensors.leaf("norm_bias", width, scale=0.2) if bias else None,
        memory=tensors.leaf("static", width, width, scale=matrix_scale) if static else None,
    )
    decay = decay_named(drawn.decay).to(dtype)
    for name, parameter in decay.named_parameters():
        parameter.requires_grad_("decay" not in drawn.frozen)
        tensors.leaves[f"decay.{name}"] = parameter
    write_rate: Tensor | float = torch.tensor(eta).item()
    if drawn.write_rate != "number":
        write_rate = tensors.given("write_rate", torch.tensor(eta))
        if drawn.write_rate == "tensor":
            tensors.leaves.pop("write_rate").requires_grad_(False)
    options = Options(layer_norm=normed, **drawn.options)
    problem = Problem(drive, weights, decay, write_rate, None, options)  # type: ignore[arg-type]
    if drawn.start != "none":
        problem.state = _state(drawn, tensors, problem)
    if drawn.lengths is not None:
        problem.lengths = torch.tensor(drawn.lengths)
    return problem, tensors.leaves


def _state(drawn: Configuration, tensors: _Tensors, problem: Problem) -> LayerState:
    batch, width, carried = drawn.batch, drawn.width, drawn.carried
    steps = torch.full((batch,), carried)
    if drawn.clocks != "from zero":
        steps = steps + 5
    if drawn.clocks == "own":
        steps = steps + 3 * torch.arange(batch)
    if drawn.start == "zeros":
        hidden = tensors.given("state.hidden", torch.zeros(batch, width))
        return LayerState(hidden, steps)
    generator = torch.Generator().manual_seed(drawn.seed + 1)
    past = torch.randn(carried + 1, batch, width, generator=generator).relu()
    if drawn.clocks == "own":
        steps[-1] = min(carried, 1)  # began later than the others
        past[: carried - 1, -1] = 0
    hidden = tensors.given("state.hidden", past[-1])
    if drawn.start == "history":
        return LayerState(hidden, steps, tensors.given("state.memory", past[:-1]))
    with torch.no_grad():
        exact = dataclasses.replace(problem, decay=copy.deepcopy(problem.decay).double())
        parts = components_of(LayerState(past[-1].double(), steps, past[:-1].double()), exact)
    parts = parts[:, 0] if parts.shape[1] == 1 else parts
    half = tensors.given("state.memory", (parts / 2).float())
    return LayerState(hidden, steps, matrix=half + half.mT)  # kernels know one half of it


def _parts(
    problem: Problem, resets: Tensor | None, ends: tuple[int, ...]
) -> Iterator[tuple[Tensor | InputProjection, Tensor | None, Tensor | None]]:
    """The drive, the lengths and the resets of each call."""
    total, lengths = problem.source.shape[0], problem.lengths
    for first, last in itertools.pairwise((0, *ends, total)):
        drive = problem.with_source(problem.source[first:last]).drive
        left = None if lengths is None else (lengths - first).clamp(0, last - first)
        yield drive, left, None if resets is None else resets[first:last]


def _resets(drawn: Configuration) -> Tensor | None:
    if drawn.resets is None:
        return None
    resets = torch.zeros(drawn.length, drawn.batch, dtype=torch.bool)
    for step, sample in drawn.resets:
        resets[step, sample] = True
    return resets


def run(drawn: Configuration, problem: Problem, backend: str | None) -> dict[str, Tensor]:
    """Output, hidden vector and memory; by the plainest form of the reference without a backend."""
    plain = "matrix" if drawn.decay in RECURRENT else "attention"
    state, outputs = problem.state, []
    handed_over = ("kept", *("cut" if cut else "in the graph" for cut in drawn.detached))
    parts = _parts(problem, _resets(drawn), drawn.handed_over)
    calls = zip(parts, drawn.forms, handed_over, strict=True)
    for (drive, lengths, resets), form, how in calls:
        if how == "cut":
            state = LayerState(*(x if x is None else x.detach() for x in state[:4]))
        elif how == "in the graph" and torch.is_grad_enabled():
            # Else nobody can tell that it was not cut.
            assume(state.hidden.requires_grad or not _learned(problem))
        output, state = fast_weights(
            drive,
            problem.weights,
            problem.decay,
            problem.write_rate,
            state,
            problem.options,
            lengths=lengths,
            resets=resets,
            form=form if backend else plain,
            backend=backend or "reference",
            chunk_size=drawn.chunk_size,
        )
        outputs.append(output)
    return {
        "output": torch.cat(outputs),
        "hidden": state.hidden,
        "memory": _memory(state, problem),
        "steps": state.steps,
    }


def _learned(problem: Problem) -> bool:
    tensors = [problem.write_rate, *problem.decay.parameters()]
    return any(isinstance(x, Tensor) and x.requires_grad for x in tensors)


def _memory(state: LayerState, problem: Problem) -> Tensor:
    """A(t − 1) of a state, in whichever way it is kept, and with the gradients of a next call."""
    if state.history is None or state.constant_before is None:
        return matrix_of(state, problem)
    history = state.history.detach() if problem.options.detach_writes else state.history
    ages = torch.arange(len(history) - 1, -1, -1)[:, None]
    newest = (state.steps - 1).expand(len(history), -1)
    given = (problem.decay, problem.write_rate, state.constant_before)
    weights = memory_weights(newest - ages, newest, *given).to(history)
    return torch.einsum("mb,mbi,mbj->bij", weights, history, history)


def solve(
    drawn: Configuration, dtype: torch.dtype, backend: str | None, *, nudge: int = 0
) -> dict[str, Tensor]:
    """What :func:`run` gives, and the gradient of every leaf."""
    call, leaves = build(drawn, dtype, nudge)
    results = run(drawn, call, backend)
    generator = torch.Generator().manual_seed(5)
    cotangents = {
        name: torch.randn(results[name].shape, generator=generator).to(dtype) for name in RESULTS
    }
    loss = sum((cotangents[name] * results[name]).sum() for name in drawn.seen)
    asked = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    found: tuple[Tensor | None, ...] = (None,) * len(asked)
    if asked and isinstance(loss, Tensor) and loss.requires_grad:
        found = torch.autograd.grad(loss, list(asked.values()), allow_unused=True)
    for (name, leaf), gradient in zip(asked.items(), found, strict=True):
        results[f"d {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return results


class _Kinks(TorchFunctionMode):
    """Notes what every ReLU of the reference sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.relu:
            self.seen.append(args[0].detach())
        return func(*args, **(kwargs or {}))


def expected_of(drawn: Configuration) -> dict[str, Tensor]:
    """By the reference in double precision; no example where rounding may decide.

    In single precision a unit may come to lie on the other side of zero, and sums may lose their
    digits. Where the reference itself does not come close to the truth, or the truth is another as
    soon as the last bits of its inputs are, no kernel need be right.
    """
    with _Kinks() as exact:
        truth = solve(drawn, torch.float64, None)
    assume(all(tensor.isfinite().all() for tensor in truth.values()))
    if drawn.dtype == torch.float64:
        return truth
    with _Kinks() as rounded:
        single = solve(drawn, torch.float32, None)
    for other in (single, *(solve(drawn, torch.float64, None, nudge=i) for i in (1, 2))):
        for name, tensor in truth.items():
            worst = (other[name] - tensor).abs().max().item() if tensor.numel() else 0.0
            scale = max(1e-3, tensor.abs().max().item()) if tensor.numel() else 0.0
            assume(worst <= 0.15 * TOLERANCES[torch.float32] * scale)
    for a, b in zip(exact.seen, rounded.seen, strict=True):
        near = a.abs() <= 8 * (b - a).abs().max()
        assume(not bool((near & (a != 0)).any()))
    return truth


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(drawn: Configuration, backend: str) -> None:
    """Values without a graph and with one, and all gradients."""
    with _threads(1):  # what it does is too small to share
        expected = expected_of(drawn)
    with _threads(drawn.threads):
        results = solve(drawn, drawn.dtype, backend)
        with torch.no_grad():
            plain = run(drawn, build(drawn, drawn.dtype)[0], backend)
    assert results.keys() == expected.keys()
    for name, tensor in results.items():
        assert tensor.dtype == (torch.int64 if name == "steps" else drawn.dtype), name
        assert_close(tensor, expected[name], name)
    for name, tensor in plain.items():
        assert_close(tensor, expected[name], f"{name} without a graph")


def _check_many(backend: str, **how: Any) -> None:
    """Pass if every one of the configurations drawn does; the least that fails is printed."""
    healthy = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

    @settings(deadline=None, suppress_health_check=healthy, **how)
    @given(configurations(backend))
    def every(drawn: Configuration) -> None:
        check(drawn, backend)

    every()


@pytest.mark.parametrize("backend", BACKENDS)
def test_some_hundreds(backend):
    """The same every time."""
    _check_many(backend, max_examples=300, derandomize=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_norm_of_its_own_for_the_preliminary_vector(backend):
    """The gradient once was wrong where it met one inner step and eight steps of a sequence."""
    given = problem(12, 2, 50, norm_preliminary=True, features=3).to(torch.float64)
    expected = solve_problem(given, form="attention")
    for form in ("attention", "chunked"):
        for name, tensor in solve_problem(given, form=form, backend=backend).items():
            assert_close(tensor, expected[name], f"{name} of the {form} form")


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", BACKENDS)
def test_ten_thousand(backend):
    """Others every time."""
    _check_many(backend, max_examples=10_000, derandomize=False)
