"""The recurrence as one function: checks its arguments, chooses form and backend, and runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastweights.arguments import check_integer
from fastweights.decay import Decay
from fastweights.ops.dispatch import (
    are_plain,
    choose_backend,
    dispatch_is_traced,
    forward_mode_is_on,
)
from fastweights.ops.fast_weights import cpu, reference, triton_gpu
from fastweights.ops.fast_weights.call import Call, checked
from fastweights.ops.fast_weights.options import (
    FORMS,
    InputProjection,
    LayerState,
    Options,
    SlowWeights,
    project,
)

# From so many steps beyond the width on, chunks are faster than attention on the CPU. Forward and
# backward of 32 samples, float32, one thread of a Zen 4: the two kernels take the same time at
# T ≈ 120, 155, 200, 200 and 285 for H = 32, 64, 100, 128 and 200 (at H = 16 beyond T = 64).
_CHUNKS_PAY_BEYOND = 100

__all__ = [
    "BACKENDS",
    "check_backend",
    "check_form",
    "chunk_size_for",
    "fast_weights",
    "run",
]

BACKENDS = ("auto", "native", "triton", "reference")


def check_backend(backend: str) -> None:
    """Raise if ``backend`` is unknown."""
    if backend not in BACKENDS:
        raise ValueError(
            f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}"
        )


def check_form(form: str, decay: Decay) -> None:
    """Raise if ``form`` is unknown or cannot carry ``decay``.

    Example:
        >>> from fastweights.decay import Exponential, PowerLaw
        >>> check_form("chunked", Exponential(0.9))
        >>> check_form("chunked", PowerLaw(0.5))
        Traceback (most recent call last):
        ...
        ValueError: form='chunked' cannot carry PowerLaw(exponent=0.5, learnable=False): ...
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}, got {form!r}")
    if form in ("matrix", "chunked") and not decay.recurrent:
        raise ValueError(
            f"form={form!r} cannot carry {decay}: its sum over memories is not the last matrix "
            "times a number. Use form='attention' (or 'auto'), an exponential decay, or for a "
            "power law its as_exponentials()"
        )


def chunk_size_for(hidden_size: int) -> int:
    """Steps per chunk: few, but so many that the kept matrices take about 2·H numbers per step."""
    return max(32, min(hidden_size // 4, 128))


def _choose_form(call: Call, form: str, backend: str) -> str:
    decay, state = call.decay, call.state
    check_form(form, decay)
    matrix, history = (None, None) if state is None else (state.matrix, state.history)
    if matrix is not None and not decay.recurrent:
        raise ValueError(
            f"state holds a matrix, and {decay} cannot age one: its memories fade each at its own "
            "pace. Keep the history: run from the start with this decay"
        )
    if form == "attention" and matrix is not None:
        raise ValueError(
            "form='attention' cannot continue from a state that holds a matrix, because the "
            "vectors that made it are gone; use form='chunked', 'matrix' or 'auto'"
        )
    if form != "auto":
        return form
    if not decay.recurrent:
        return "attention"
    if matrix is not None:
        return "chunked"
    if backend == "triton":
        return "attention"  # the one form it has
    length, _, width = call.drive.shape
    carried = 0 if history is None else history.shape[0]
    on_gpu = call.drive.device.type == "cuda" and _not_by_triton(call, "attention") is None
    pays = _chunks_pay(decay, length, width, carried, call.drive.device.type, on_gpu=on_gpu)
    return "chunked" if pays else "attention"


def _chunks_pay(
    decay: Decay, length: int, width: int, carried: int, device: str, *, on_gpu: bool = False
) -> bool:
    """Whether chunks are faster than attention; ``on_gpu`` says that Triton can have the latter."""
    read = decay.components * width
    if device == "cpu" and decay.stationary:
        # A short call reads and writes whole matrices for few steps: not before the vectors are
        # many more numbers than they. For 13 matrices that was at 1.6 to 3 times as many, for one,
        # which is soon read beside the rest of a call, at 4.
        many = min(4 * read, 2 * read + _CHUNKS_PAY_BEYOND)
        return length > read + _CHUNKS_PAY_BEYOND or carried > many
    # Reading M vectors costs 2·M·H, reading the matrix H²; but the vectors need no H² of
    # memory per sample, so the history is kept a little beyond the point where it is cheaper.
    longest = 4 * read
    if on_gpu and decay.stationary:
        # There the chunked form is a loop in Python, which costs more than long reads do. Where
        # that turns has not been measured.
        longest = max(longest, 1024)
    return carried + length > longest


def fast_weights(
    drive: Tensor | InputProjection,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState | None,
    options: Options,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    form: str = "auto",
    backend: str = "auto",
    chunk_size: int | None = None,
) -> tuple[Tensor, LayerState]:
    """Run the fast-weights recurrence over a sequence.

    Args:
        drive: the input's contribution C x(t) + b for every step, shape (T, B, H), T ≥ 1; or a
            :class:`InputProjection`, its factors.
        weights: the slow weights (see :class:`SlowWeights`).
        decay: r, see :mod:`fastweights.decay`.
        write_rate: η, a number or a scalar tensor.
        state: h(t) and the memory to start from; None to start from nothing. From outside of the
            graph it is a constant: see ``constant_before``.
        options: what to compute.
        lengths: steps of each sample, int64, shape (B,), each in 0 … T; None for all T.
        resets: which samples forget everything, h and the memory, before which step; bool, shape
            (T, B). Resets after a sample's end do nothing.
        form: "attention", "matrix", "chunked", or "auto": on the CPU "chunked" for an exponential
            decay over more than H + 100 steps, or when more than 4·H or 2·H + 100 vectors are
            carried (with C·H for H in a sum of C exponentials); for a step-indexed one when there
            would be more than 4·H vectors in the end.
        backend: "native" (CPU), "triton" (CUDA), "reference", or "auto" for the fastest that
            supports the call.
        chunk_size: steps per chunk of the chunked form; None chooses by width.

    Returns:
        h(t+1) for every step, shape (T, B, H), zero after a sample's end; and the state after
        each sample's last step.

    Raises:
        ValueError: an unknown form or backend, or one that cannot run this call, with the reason;
            a tensor whose shape or device does not fit the others.
        TypeError: a tensor whose dtype does not fit the others.

    Source: Ba, Hinton, Mnih, Leibo & Ionescu (2016), equations 1 and 2.

    Example:
        >>> import torch
        >>> from fastweights.decay import Exponential
        >>> drive = torch.randn(5, 2, 4)
        >>> state = LayerState.zeros(2, 4, dtype=drive.dtype, device=drive.device)
        >>> output, state = fast_weights(
        ...     drive, SlowWeights(0.05 * torch.eye(4)), Exponential(0.95), torch.tensor(0.5),
        ...     state, Options(),
        ... )
        >>> output.shape, state.history.shape
        (torch.Size([5, 2, 4]), torch.Size([5, 2, 4]))
    """
    check_backend(backend)
    if chunk_size is not None:
        chunk_size = check_integer("chunk_size", chunk_size)
    call = Call(drive, weights, decay, write_rate, state, options, lengths, resets)
    return run(call, form, backend, chunk_size)


def run(
    call: Call, form: str = "auto", backend: str = "auto", chunk_size: int | None = None
) -> tuple[Tensor, LayerState]:
    """Run a call of the recurrence; as :func:`fast_weights`, which checks the names before.

    How a call is run is planned once for all calls of its kind. A later one has to be certain to
    fit that plan; if it is not, or if anybody follows its operations, all of it is looked at.
    """
    key = None
    if not (dispatch_is_traced() or forward_mode_is_on()):
        key = _kind_of(call, form, backend, chunk_size)
        plan = _PLANS.get(key)
        if plan is not None and _fits(call, plan):
            if plan.backend != "native":
                return _run_planned(call, plan)
            matrix = None if call.state is None else call.state.matrix
            if matrix is None or plan.form != "chunked" or cpu.is_symmetric(matrix):
                return cpu.recurrence(call, plan.chunk_size, direct=True)
    return _run_unplanned(call, form, backend, chunk_size, key)


class Plan(NamedTuple):
    """How to run all calls of a kind.

    Attributes:
        form: "attention", "chunked" or "matrix".
        backend: "native", "triton" or "reference".
        chunk_size: steps of a chunk, None in the attention form.
        shapes: of the tensors of the drive's dtype, in the order in which `_fits` asks for them;
            of a history without its length, which can differ.
        samples: (B,), of ``lengths`` and ``state.steps``.
    """

    form: str
    backend: str
    chunk_size: int | None
    shapes: tuple[tuple[int, ...], ...]
    samples: tuple[int, ...]


_PLANS: dict[Any, Plan] = {}
_PLAIN = frozenset((Tensor, nn.Parameter))


def _kind_of(call: Call, form: str, backend: str, chunk_size: int | None) -> Any:
    """What a plan depends on, or None if a tensor that decides is no ordinary one."""
    drive, weights, decay, _, state, options, _, resets, layered = call
    source, weight, _ = drive if isinstance(drive, InputProjection) else (drive, None, None)
    recurrent, _, _, fixed = weights
    history = matrix = None
    if type(source) not in _PLAIN or type(recurrent) not in _PLAIN:
        return None
    if source.is_nested or recurrent.is_nested or source.dim() != 3:  # the nested have no shape
        return None
    long = False
    if state is not None:
        _, _, history, matrix, _ = state
        if history is not None:
            if layered or type(history) not in _PLAIN or history.dim() != 3:
                return None
            sizes = source.shape[0], recurrent.shape[-1], history.shape[0]
            long = _chunks_pay(decay, *sizes, source.device.type)
    return (
        source.shape, weight is None, recurrent.shape, recurrent.dtype, source.device,
        state is None, history is None, long, matrix is None, fixed is None, resets is None,
        layered, options.memory, decay.stationary, decay.recurrent, decay.components, form,
        backend, chunk_size,
    )  # fmt: skip


def _fits(call: Call, plan: Plan) -> bool:
    """Whether the tensors certainly are what a call of this plan must have."""
    drive, weights, _, write_rate, state, _, lengths, resets, _ = call
    source, weight, bias = drive if isinstance(drive, InputProjection) else (drive, None, None)
    recurrent, gain, norm_bias, fixed = weights
    dtype, device, shapes = recurrent.dtype, source.device, plan.shapes
    hidden = history = matrix = None
    if state is not None:
        hidden, steps, history, matrix, cut = state
        counts, samples = (steps, cut, lengths), plan.samples
        if not are_plain(counts, (samples, samples, samples), torch.int64, device):
            return False
        if history is not None:
            shapes = (*shapes[:-1], (history.shape[0], *shapes[-1]))
    elif lengths is not None and not are_plain((lengths,), (plan.samples,), torch.int64, device):
        return False
    if resets is not None and not are_plain((resets,), (source.shape[:2],), torch.bool, device):
        return False
    if isinstance(write_rate, Tensor):
        if not are_plain((write_rate,), ((),), write_rate.dtype, device):
            return False
    elif not (type(write_rate) is float and math.isfinite(write_rate)):
        return False
    tensors = (source, weight, bias, recurrent, gain, norm_bias, fixed, hidden, matrix, history)
    return are_plain(tensors, shapes, dtype, device)


def _plan(call: Call, form: str, backend: str, chunk_size: int | None, layered: bool) -> Plan:
    """For a call whose tensors fit together."""
    drive = call.drive
    _, batch, width = drive.shape
    source = drive.input if isinstance(drive, InputProjection) else drive
    features = source.shape[2]
    one = (1,) if layered else ()
    parts = () if call.decay.components == 1 else (call.decay.components,)
    square, vector = (width, width), (width,)
    if form == "attention":
        chunk_size = None
    elif chunk_size is None:
        chunk_size = chunk_size_for(width)
    shapes = (
        tuple(source.shape), (width, features), vector, square, vector, vector, square,
        (*one, batch, width), (*one, batch, *parts, *square), (batch, width),
    )  # fmt: skip
    return Plan(form, backend, chunk_size, shapes, (batch,))


def _run_unplanned(
    call: Call, form: str, backend: str, chunk_size: int | None, key: Any
) -> tuple[Tensor, LayerState]:
    """The same for a call of which nothing is known; its plan is kept by ``key``."""
    layered = call.layered
    call, refused = checked(call.without_layer() if layered else call)
    chosen_form = _choose_form(call, form, backend)
    if call.options.memory != "hebbian":
        chosen_form = "attention"  # nothing is written, so all forms are one
    reasons: dict[str, Callable[[], str | None]] = {
        "native": lambda: (
            refused or cpu.unsupported_reason(call.drive, call.decay, call.state, chosen_form)
        ),
        "triton": lambda: refused or _not_by_triton(call, chosen_form),
        "reference": lambda: None,
    }
    if call.drive.device.type == "cpu":
        # Triton's interpreter takes CPU tensors too, but it is the slowest: only when asked for.
        reasons["triton"] = reasons.pop("triton")
    name = choose_backend(backend, reasons, operation="fast_weights")
    plan = _plan(call, chosen_form, name, chunk_size, layered)
    if key is not None and refused is None and (name != "reference" or backend == name):
        if len(_PLANS) >= 1024:
            _PLANS.clear()
        _PLANS[key] = plan
    result = _run_planned(call, plan)
    if not layered:
        return result
    return result[0], _with_layer(result[1])


def _with_layer(state: LayerState) -> LayerState:
    """With the dimension that a ``layered`` call has in front."""
    return LayerState(*(x if x is None or x is state.steps else x[None] for x in state))  # type: ignore[arg-type]


def _run_planned(call: Call, plan: Plan) -> tuple[Tensor, LayerState]:
    """By whichever backend."""
    if call.layered:
        output, after = _run_planned(call.without_layer(), plan)
        return output, _with_layer(after)
    drive, weights, decay, write_rate, state, options, lengths, resets, _ = call
    if plan.backend == "native":
        direct = not dispatch_is_traced() and _are_plain_types(call)
        return cpu.recurrence(call, plan.chunk_size, direct=direct)
    if plan.backend == "triton":
        return triton_gpu.attention_form(project(drive), *call[1:7])
    if state is None:
        state = LayerState.zeros(*drive.shape[1:], dtype=drive.dtype, device=drive.device)
    forms: dict[str, Callable[..., tuple[Tensor, LayerState]]] = {
        "attention": reference.attention_form,
        "matrix": reference.matrix_form,
        "chunked": functools.partial(reference.chunked_form, chunk_size=plan.chunk_size or 1),
    }
    run = forms[plan.form]
    others = (weights, decay, write_rate, state, options, lengths)
    if resets is None:
        return run(project(drive), *others)
    return reference.in_episodes(run, project(drive), *others, resets)


def _are_plain_types(call: Call) -> bool:
    """Whether no tensor is of a subclass."""
    kinds: list[type] = []

    def note(x: Tensor) -> Tensor:
        kinds.append(type(x))
        return x

    call.map(note)
    return _PLAIN.issuperset(kinds)


def _not_by_triton(call: Call, form: str) -> str | None:
    if form != "attention":
        return f"it has the attention form, this call needs the {form} form"
    if call.resets is not None:
        return "resets are left to the reference"
    return triton_gpu.unsupported_reason(call.drive, call.state, call.options)
