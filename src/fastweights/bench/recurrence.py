"""The fast-weights layer against other recurrent layers and other ways to compute it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.bench.base import Disagreement, Settings, Unit
from fastweights.bench.cases import CASES, INPUTS, MODES, OVERHEAD, STEPS, Case, parse_case
from fastweights.bench.fresh import fresh_calls, fresh_install
from fastweights.bench.parts import parts_of
from fastweights.bench.peers import DECAY, OURS, PEERS, WRITE_RATE, check_peers
from fastweights.bench.recurrence_section import recurrence_section
from fastweights.bench.timing import FEWEST, interleaved, seconds_of, using_threads
from fastweights.nn import FastWeightsRNN, FastWeightsState
from fastweights.ops.fast_weights.recurrence import chunk_size_for
from fastweights.report.section import Section

__all__ = ["Recurrence"]

# Largest deviation from the reference in double precision, relative to the largest number of a
# tensor. In single precision the gradients of long sequences can be off by more than rounding:
# among millions of ReLUs some stand within rounding of their kink, and one that falls on its other
# side takes its whole gradient along. So every gradient is checked in double precision.
DOUBLE, SINGLE, SINGLE_GRADIENT = 1e-9, 5e-5, 2e-2
_SHORT = 32  # steps of the first trial of a peer that may be slow

Result = tuple[Tensor, ...]


class Recurrence:
    """The benchmark."""

    name = "recurrence"
    summary = "a fast-weights layer against nn.LSTM, nn.GRU, nn.RNN, eager loops and torch.mm"

    def units(self, settings: Settings) -> Sequence[Unit]:
        check_peers(settings.peers)
        cases = [parse_case(name) for name in settings.cases] or [*CASES, OVERHEAD, *STEPS]
        units = [
            Unit(
                key={"case": case.name, "threads": threads},
                weight=min(case.length, 512),
                measure=functools.partial(measure, case, threads, settings),
            )
            for case in cases
            for threads in settings.threads
        ]
        sequences = [case for case in cases if not case.state]
        if settings.fresh and sequences:  # kernels know no sizes: the first and the longest will do
            longest = max(sequences, key=lambda case: case.length)
            units += [
                Unit(
                    key={"case": case.name, "fresh": True},
                    weight=100,
                    measure=functools.partial(fresh_calls, case, settings.device),
                )
                for case in dict.fromkeys((sequences[0], longest))
            ]
        if settings.install:
            units.append(Unit({"case": "pip install", "install": True}, 500, fresh_install))
        return units

    def section(self, report: dict[str, Any]) -> Section:
        return recurrence_section(report)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A layer, its input, the gradient of its output, and what must come out.

    Attributes:
        layer: ours.
        double: ours in double precision, with the same parameters.
        x: one-hot, shape (T, B, inputs).
        cotangent: gradient of the output, shape (T, B, H).
        state: where the sequences start, in single precision; None for the beginning.
        expected: output and gradients of all parameters, by the reference in double precision.
    """

    layer: FastWeightsRNN
    double: FastWeightsRNN
    x: Tensor
    cotangent: Tensor
    state: FastWeightsState | None
    expected: Result


def measure(case: Case, threads: int, settings: Settings) -> dict[str, Any]:
    """Times of one case by mode and peer, those that compute the same checked before.

    On one thread of a CPU also the ``parts`` of a training step.

    Raises:
        Disagreement: our layer or an eager peer does not give the reference's numbers.
    """
    with using_threads(threads):
        problem = _problem(case, settings.device)
        names = list(settings.peers) or [name for name in PEERS if name != "compiled"]
        if settings.compile and "compiled" not in names:
            names.append("compiled")
        names = [name for name in names if PEERS[name].runs(case)]
        found = {mode: _measure_mode(case, problem, mode, names, settings) for mode in MODES}
        if settings.device == "cpu" and threads == 1:
            call = _call(problem.layer, problem.x, problem.cotangent, "training", problem.state)
            found["parts"] = parts_of(call, rounds=settings.rounds, budget=settings.budget)
        return found


def _measure_mode(
    case: Case, problem: Problem, mode: str, names: Sequence[str], settings: Settings
) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], object]] = {}
    for name in (OURS, *names):
        same = name == OURS or PEERS[name].same
        if name != OURS and (reason := _too_much(name, case, problem.layer, mode, settings)):
            found[name] = {"skipped": reason}
            continue
        net = _build(name, problem.layer)
        state = _state_for(name, problem.state)
        call = _call(net, problem.x, problem.cotangent, mode, state)
        found[name] = {}
        if name == "compiled":
            found[name]["compile_seconds"] = seconds_of(call, settings.device)
        if same and name != "compiled" and mode == "training":
            net_in_double = _build(name, problem.double)
            inputs = (problem.x.double(), problem.cotangent.double(), mode, _double(state))
            exact = _call(net_in_double, *inputs)()
            error = _checked(name, exact, problem.expected, DOUBLE, DOUBLE)
            found[name]["error_in_double"] = error
        if same:
            result = call()
            error = _checked(name, result, problem.expected, SINGLE, SINGLE_GRADIENT)
            found[name]["error"] = error
        if mode == "training" and name != "compiled":
            found[name]["kept_bytes"] = _kept_bytes(net, problem.x, state)
            if name == OURS:
                found[name]["matrix_bytes"] = _matrix_bytes(case, net, problem.x, problem.state)
        calls[name] = call
    # A product of square matrices with as much arithmetic: the ceiling for a case of this size.
    flops = case.flops(mode)
    size = round((flops / 2) ** (1 / 3))
    square = torch.ones(size, size, device=settings.device)
    calls["mm"] = lambda: torch.mm(square, square)
    times = interleaved(
        calls, rounds=settings.rounds, budget=settings.budget, device=settings.device
    )
    mm = {"size": size, "milliseconds": times.pop("mm")}
    for name, milliseconds in times.items():
        found[name]["milliseconds"] = milliseconds
    return {"flops": flops, "mm": mm, "peers": found}


def _build(name: str, layer: FastWeightsRNN) -> Any:
    return layer if name == OURS else PEERS[name].build(layer)


def _state_for(name: str, state: FastWeightsState | None) -> Any:
    """What a peer starts from where our layer starts from ``state``."""
    convert = None if name == OURS else PEERS[name].state
    return state if state is None or convert is None else convert(state)


def _double(state: FastWeightsState | None) -> FastWeightsState | None:
    return None if state is None else state.to(torch.float64)


@functools.lru_cache(maxsize=1)  # the same for every number of threads
def _problem(case: Case, device: str) -> Problem:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(INPUTS, (case.length, case.batch), generator=generator)
    cotangent = torch.randn(case.length, case.batch, case.width, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = FastWeightsRNN(INPUTS, case.width, decay=DECAY, write_rate=WRITE_RATE)
    layer.to(device)
    x, cotangent = F.one_hot(tokens, INPUTS).float().to(device), cotangent.to(device)
    state = _streamed(layer, case, generator) if case.state else None
    truth = FastWeightsRNN(
        INPUTS, case.width, decay=DECAY, write_rate=WRITE_RATE, backend="reference"
    )
    truth.load_state_dict(layer.state_dict())
    truth.to(device, torch.float64)
    outputs, gradients = [], []
    for part in _slices(case, x.device):
        start = _double(None if state is None else state[part])
        output, *grads = _call(
            truth, x[:, part].double(), cotangent[:, part].double(), "training", start
        )()
        outputs.append(output)
        gradients.append(grads)
    summed = (torch.stack(parts).sum(0) for parts in zip(*gradients, strict=True))
    double = copy.deepcopy(layer).double()
    return Problem(layer, double, x, cotangent, state, (torch.cat(outputs, 1), *summed))


def _streamed(layer: FastWeightsRNN, case: Case, generator: torch.Generator) -> FastWeightsState:
    """The state that holds a matrix, after as many steps as it takes the layer to get there."""
    state, device = None, layer.get_parameter("weight_hh_l0").device
    while state is None or state.matrix is None:
        tokens = torch.randint(INPUTS, (case.width, case.batch), generator=generator)
        with torch.no_grad():
            state = layer(F.one_hot(tokens, INPUTS).float().to(device), state)[1]
    return state


def _slices(case: Case, device: torch.device) -> Iterator[slice]:
    """A few samples at a time, because the reference keeps every vector it ever read."""
    per_sample = 24 * case.width * case.length * min(case.length, 2 * case.width)
    samples = max(1, int(0.25 * _memory(device) / per_sample))
    return (slice(first, first + samples) for first in range(0, case.batch, samples))


def _call(
    net: Any, x: Tensor, cotangent: Tensor, mode: str, state: Any = None
) -> Callable[[], Result]:
    """One pass: the output, and in training the gradients of all parameters.

    Args:
        net: a layer, or a cell for a single step.
        x: shape (T, B, inputs).
        cotangent: gradient of the output, shape (T, B, H).
        mode: "training" or "forward".
        state: to start from, as ``net`` takes it.
    """
    parameters = list(net.parameters())
    if isinstance(net, nn.RNNCellBase):
        x, cotangent = x[0], cotangent[0]
    inputs = (x,) if state is None else (x, state)

    def forward() -> Tensor:
        output = net(*inputs)
        return output if isinstance(output, Tensor) else output[0]

    def forward_only() -> Result:
        with torch.no_grad():
            return (forward(),)

    def training() -> Result:
        output = forward()
        return (output.detach(), *torch.autograd.grad(output, parameters, cotangent))

    return training if mode == "training" else forward_only


def _checked(
    name: str, result: Result, expected: Result, allowed_output: float, allowed_gradient: float
) -> float:
    """The largest deviation, relative to the largest number of its tensor."""
    worst = 0.0
    for i, (ours, truth) in enumerate(zip(result, expected, strict=False)):
        largest = truth.abs().max().clamp(min=1e-3)  # a single step gives W no gradient at all
        error = ((ours - truth).abs().max() / largest).item()
        allowed = allowed_gradient if i else allowed_output
        if not error <= allowed:
            what = f"gradient {i}" if i else "output"
            raise Disagreement(
                f"{name}: {what} is off by {error:.2g} of its largest number, allowed {allowed:g}"
            )
        worst = max(worst, error)
    return worst


def _too_much(
    name: str, case: Case, layer: FastWeightsRNN, mode: str, settings: Settings
) -> str | None:
    """Why this peer is not timed in this case, or None.

    Tried on sequences of twice the length each time: a longer one costs at least in proportion.
    """
    peer = PEERS[name]
    if peer.longest is not None:
        return None if case.length <= peer.longest else f"unrolls {case.length} steps"
    memory = _memory(torch.device(settings.device))
    length = _SHORT
    while length < case.length:
        x = torch.zeros(length, case.batch, INPUTS, device=settings.device)
        cotangent = torch.zeros(length, case.batch, case.width, device=settings.device)
        net = peer.build(layer)
        times = case.length / length
        if mode == "training" and (kept := times * _kept_bytes(net, x)) > memory:
            return f"keeps at least {kept / 1e9:.0f} GB"
        seconds = times * seconds_of(_call(net, x, cotangent, mode), settings.device)
        if FEWEST * seconds > settings.budget:
            return f"takes at least {seconds:.2g} s"
        length *= 2
    return None


def _memory(device: torch.device) -> float:
    """Bytes that a network may keep: a quarter of what there is."""
    if device.type == "cpu":
        return 0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0.25 * torch.cuda.mem_get_info(device)[1]


def _matrix_bytes(
    case: Case, layer: FastWeightsRNN, x: Tensor, state: FastWeightsState | None = None
) -> int:
    """How much of that are the matrices at the starts of chunks, if there are chunks.

    Of each one half is stored, and of the first the whole, unless it came with the state.
    """
    with torch.no_grad():
        if layer(x, state)[1].matrix is None:
            return 0
    chunks = -(-case.length // chunk_size_for(case.width))
    halves = chunks * case.width * (case.width + 1) // 2
    return 4 * case.batch * (halves + (case.width**2 if state is None else 0))


def _kept_bytes(net: Any, x: Tensor, state: Any = None) -> int:
    """What a forward pass keeps for the backward one, parameters, input and state apart."""
    kept: dict[int, int] = {}
    x = x[0] if isinstance(net, nn.RNNCellBase) else x
    inputs = (x,) if state is None else (x, state)

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = net(*inputs)  # alive until all is counted, so that no address comes twice
    for tensor in (x, *_tensors(state), *net.parameters()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    del output
    return sum(kept.values())


def _tensors(state: Any) -> Sequence[Tensor]:
    """Of our state, of an LSTM's or of a GRU's."""
    if isinstance(state, FastWeightsState):
        return list(state.tensors().values())
    return () if state is None else (state,) if isinstance(state, Tensor) else tuple(state)
