"""The recurrence as one function: checks its arguments, chooses form and backend, and runs."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from fastweights.arguments import check_integer
from fastweights.decay import Decay
from fastweights.ops.dispatch import choose_backend
from fastweights.ops.fast_weights import cpu, reference, triton_gpu
from fastweights.ops.fast_weights.call import Call, checked
from fastweights.ops.fast_weights.options import (
    FORMS,
    Drive,
    LayerState,
    Options,
    SlowWeights,
    multiplied,
)

# From so many steps beyond the width on, chunks are faster than attention on the CPU. Forward and
# backward of 32 samples, float32, one thread of a Zen 4: the two kernels take the same time at
# T ≈ 120, 155, 200, 200 and 285 for H = 32, 64, 100, 128 and 200 (at H = 16 beyond T = 64).
_CHUNKS_PAY_BEYOND = 100

__all__ = ["BACKENDS", "check_backend", "check_form", "chunk_size_for", "fast_weights"]

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
    if call.drive.device.type == "cpu" and decay.stationary:
        # A short call reads and writes whole matrices for few steps: not before the vectors are
        # many more numbers than they. For 13 matrices that was at 1.6 to 3 times as many, for one,
        # which is soon read beside the rest of a call, at 4.
        read = decay.components * width
        many = min(4 * read, 2 * read + _CHUNKS_PAY_BEYOND)
        chunks = length > read + _CHUNKS_PAY_BEYOND or carried > many
        return "chunked" if chunks else "attention"
    # Reading M vectors costs 2·M·H, reading the matrix H²; but the vectors need no H² of
    # memory per sample, so the history is kept a little beyond the point where it is cheaper.
    longest = 4 * decay.components * width
    on_gpu = call.drive.device.type == "cuda" and _why_not_triton(call, "attention") is None
    if on_gpu and decay.stationary:
        # There the chunked form is a loop in Python, which costs more than long reads do. Where
        # that turns has not been measured.
        longest = max(longest, 1024)
    return "attention" if carried + length <= longest else "chunked"


def fast_weights(
    drive: Tensor | Drive,
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
            :class:`Drive`, its factors.
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
    call, refused = checked(
        Call(drive, weights, decay, write_rate, state, options, lengths, resets)
    )
    drive, weights, decay, write_rate, state, options, lengths, resets = call
    chosen_form = _choose_form(call, form, backend)
    if options.memory != "hebbian":
        chosen_form = "attention"  # nothing is written, so all forms are one
    reasons: dict[str, Callable[[], str | None]] = {
        "native": lambda: refused or cpu.unsupported_reason(drive, decay, state, chosen_form),
        "triton": lambda: refused or _why_not_triton(call, chosen_form),
        "reference": lambda: None,
    }
    if drive.device.type == "cpu":
        # Triton's interpreter takes CPU tensors too, but it is the slowest: only when asked for.
        reasons["triton"] = reasons.pop("triton")
    name = choose_backend(backend, reasons, operation="fast_weights")
    size = chunk_size_for(drive.shape[-1]) if chunk_size is None else chunk_size
    if name == "native":
        return cpu.recurrence(*call, chunk_size=None if chosen_form == "attention" else size)
    if name == "triton":
        return triton_gpu.attention_form(multiplied(drive), *call[1:7])
    if state is None:
        state = LayerState.zeros(*drive.shape[1:], dtype=drive.dtype, device=drive.device)
    forms: dict[str, Callable[..., tuple[Tensor, LayerState]]] = {
        "attention": reference.attention_form,
        "matrix": reference.matrix_form,
        "chunked": functools.partial(reference.chunked_form, chunk_size=size),
    }
    run = forms[chosen_form]
    others = (weights, decay, write_rate, state, options, lengths)
    if resets is None:
        return run(multiplied(drive), *others)
    return reference.in_episodes(run, multiplied(drive), *others, resets)


def _why_not_triton(call: Call, form: str) -> str | None:
    if form != "attention":
        return f"it has the attention form, this call needs the {form} form"
    if call.resets is not None:
        return "resets are left to the reference"
    return triton_gpu.why_not(call.drive, call.state, call.options)
