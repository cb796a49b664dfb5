"""The recurrence as plain loops: the specification that every fast version is tested against.

Ba, Hinton, Mnih, Leibo & Ionescu (2016), with z(t) = W h(t) + drive(t) and drive = C x + b:

    A(t)      = λ A(t−1) + η h(t) h(t)ᵀ
    h_0(t+1)  = f(z(t))
    h_s(t+1)  = f(LN[z(t) + A(t) h_{s−1}(t+1)])      s = 1 … S
    h(t+1)    = h_S(t+1)

The three forms differ only in how A(t) is kept:

    matrix      one H × H matrix per sample
    attention   the vectors written so far: A(t) v = η Σ_τ r(t−τ) h(τ) (h(τ)·v)
    chunked     a matrix up to the start of the chunk, vectors within it

A state from outside of the graph is a constant in all of them: ``constant_before``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fastweights.decay import Decay
from fastweights.ops.dispatch import forward_mode_is_on, in_a_graph
from fastweights.ops.fast_weights.options import LayerState, Options, SlowWeights

__all__ = [
    "attention_form",
    "chunked_form",
    "constant_before",
    "fold",
    "forget",
    "in_episodes",
    "inner_loop",
    "matrix_form",
    "memory_weights",
    "right_aligned",
    "steps_after",
    "trimmed",
]

Read = Callable[[Tensor], Tensor]


def _activation(x: Tensor, options: Options) -> Tensor:
    return torch.relu(x) if options.nonlinearity == "relu" else torch.tanh(x)


def _normalised(x: Tensor, weights: SlowWeights, options: Options) -> Tensor:
    """LN over the features of one sample; torch keeps the statistics of halves in float32."""
    if not options.layer_norm:
        return x
    return F.layer_norm(
        x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps=options.norm_eps
    )


def inner_loop(
    z: Tensor, hidden: Tensor, read: Read, weights: SlowWeights, options: Options
) -> Tensor:
    """h(t+1) from z(t) and h(t)."""
    if options.query == "previous":
        v = hidden
    elif options.norm_preliminary:
        v = _activation(_normalised(z, weights, options), options)
    else:
        v = _activation(z, options)
    for _ in range(options.inner_steps):
        v = _activation(_normalised(z + read(v), weights, options), options)
    return v


def _fixed_read(weights: SlowWeights, options: Options) -> Read:
    """The controls: a matrix that does not depend on the sequence in the place of A(t)."""
    matrix = weights.memory
    if options.memory == "none" or matrix is None:
        return torch.zeros_like
    return lambda v: F.linear(v, matrix)


def _alive(t: int, lengths: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """The new value, but the old one for samples whose sequence has ended before step t."""
    if lengths is None:
        return new
    return torch.where((t < lengths).reshape(-1, *[1] * (new.dim() - 1)), new, old)


def _stack(outputs: list[Tensor], drive: Tensor, lengths: Tensor | None) -> Tensor:
    if not outputs:
        return drive
    stacked = torch.stack(outputs)
    if lengths is None:
        return stacked
    steps = torch.arange(len(outputs), device=drive.device)
    return stacked.masked_fill((steps[:, None] >= lengths)[:, :, None], 0.0)


def steps_after(steps: Tensor, length: int, lengths: Tensor | None) -> Tensor:
    """The step counts after a call over ``length`` steps."""
    return steps + (length if lengths is None else lengths)


def matrix_form(
    drive: Tensor,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState,
    options: Options,
    lengths: Tensor | None = None,
) -> tuple[Tensor, LayerState]:
    """The recurrence with an explicit A(t) per sample, B·H² numbers.

    Args:
        drive: C x + b, shape (T, B, H).
        weights: the slow weights.
        decay: r; must be recurrent.
        write_rate: η, a number or a scalar tensor.
        state: h(t) and A(t − 1); a history in it is folded into the matrix.
        options: what to compute.
        lengths: steps of each sample, int64, shape (B,); None for all T.

    Returns:
        h(t+1) for every step, shape (T, B, H), zero after a sample's end; and the state after
        each sample's last step, its memory as a matrix.
    """
    hidden = state.hidden
    hebbian = options.memory == "hebbian"
    cut = constant_before(state, decay, write_rate)
    matrix = _apart(fold(state, decay, write_rate, options, cut=cut)) if hebbian else None
    shares = decay.write_shares().to(hidden)
    fixed_read = _fixed_read(weights, options)
    outputs = []
    for t in range(drive.shape[0]):
        z = F.linear(hidden, weights.recurrent) + drive[t]
        if matrix is None:
            new = inner_loop(z, hidden, fixed_read, weights, options)
        else:
            h = hidden.detach() if options.detach_writes else hidden
            now = state.steps + t
            factor = decay.remaining(now - 1, now).to(matrix.dtype)
            written = factor[:, :, None, None] * matrix + write_rate * torch.einsum(
                "m,bi,bj->bmij", shares, h, h
            )
            current = written if options.write == "before_read" else matrix

            def read(v: Tensor, current: Tensor = current) -> Tensor:
                return torch.einsum("bmij,bj->bi", current, v)

            new = inner_loop(z, hidden, read, weights, options)
            matrix = _alive(t, lengths, written, matrix)
        hidden = _alive(t, lengths, new, hidden)
        outputs.append(hidden)
    steps = steps_after(state.steps, drive.shape[0], lengths)
    carried = None if matrix is None else _together(matrix)
    return _stack(outputs, drive, lengths), LayerState(hidden, steps, matrix=carried)


def attention_form(
    drive: Tensor,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState,
    options: Options,
    lengths: Tensor | None = None,
) -> tuple[Tensor, LayerState]:
    """The recurrence with the written vectors kept instead of A(t); exact for every decay.

    Arguments and results as for :func:`matrix_form`, but the state's memory is a history. A
    matrix in the incoming state (memories older than its history) is read as well, if the decay
    is recurrent, and handed on untouched.
    """
    length = drive.shape[0]
    hidden, matrix = state.hidden, state.matrix
    hebbian = options.memory == "hebbian"
    written: list[Tensor] = []
    if state.history is not None and hebbian:
        past = state.history.detach() if options.detach_writes else state.history
        written = list(past.unbind(0))
    fixed_read = _fixed_read(weights, options)
    carried = len(written)
    cut = constant_before(state, decay, write_rate) if carried else None
    outputs = []
    for t in range(length):
        z = F.linear(hidden, weights.recurrent) + drive[t]
        if not hebbian:
            new = inner_loop(z, hidden, fixed_read, weights, options)
        else:
            h = hidden.detach() if options.detach_writes else hidden
            visible = [*written, h] if options.write == "before_read" else written
            written = [*written, h]
            newest = state.steps + len(visible) - carried - 1
            read = _attention_read(
                visible, newest, matrix, state.steps - carried - 1, decay, write_rate, cut
            )
            new = inner_loop(z, hidden, read, weights, options)
        hidden = _alive(t, lengths, new, hidden)
        outputs.append(hidden)
    history = torch.stack(written) if written else None
    if history is not None:
        history = trimmed(right_aligned(history, length, lengths), decay)
    steps = steps_after(state.steps, length, lengths)
    return _stack(outputs, drive, lengths), LayerState(hidden, steps, history, matrix, cut)


def _attention_read(
    visible: list[Tensor],
    newest: Tensor,
    matrix: Tensor | None,
    matrix_step: Tensor,
    decay: Decay,
    write_rate: Tensor | float,
    cut: Tensor | None,
) -> Read:
    """v ↦ A v, with A the sum over ``visible``, the last of which was written at ``newest``."""
    memories = torch.stack(visible) if visible else None
    age = torch.arange(len(visible) - 1, -1, -1, device=newest.device)[:, None]

    def read(v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        if memories is not None:
            now = newest.expand(len(visible), -1)
            scales = memory_weights(newest - age, now, decay, write_rate, cut).to(v.dtype)
            scores = torch.einsum("mbh,bh->mb", memories, v)
            total = torch.einsum("mb,mb,mbh->bh", scales, scores, memories)
        if matrix is not None:
            remaining = decay.remaining(matrix_step, newest).to(v.dtype)
            total = total + torch.einsum("bm,bmij,bj->bi", remaining, _apart(matrix), v)
        return total

    return read


def constant_before(state: LayerState, decay: Decay, write_rate: Tensor | float) -> Tensor | None:
    """The step, for each sample, before which what was written is a constant; None if all moves.

    What a state remembers is A(t − 1), which was scaled by η when it was written and has faded
    since. If the state comes from outside of the graph (it was detached, loaded, or made without
    gradients), that is a constant, however it is kept. So a history from there is one too, η and
    the decay until then included: neither gets a gradient through it. What it fades from there on
    is part of the graph. A decay that is not recurrent has no A(t − 1) that fades as a whole; it
    weighs each vector anew by its age, so there only η is a constant.

    Later calls carry the step on in their states, as long as these are in the graph.
    """
    learned = isinstance(write_rate, Tensor) or decay.fixed is None
    if state.history is None or not learned:
        return None
    if not (torch.is_grad_enabled() or forward_mode_is_on()):
        return None
    if in_a_graph(state.hidden) or in_a_graph(state.history):
        return state.constant_before
    return state.steps


def memory_weights(
    written: Tensor,
    newest: Tensor,
    decay: Decay,
    write_rate: Tensor | float,
    cut: Tensor | None,
) -> Tensor:
    """η r at step ``newest`` of what was ``written`` then, a constant before the step ``cut``."""
    if cut is None:
        return write_rate * decay.between(written, newest)
    if decay.recurrent:
        return _weights_by_matrix(written, newest, decay, write_rate, cut).sum(-1)
    constant = write_rate.detach() if isinstance(write_rate, Tensor) else write_rate
    return torch.where(written < cut, constant, write_rate) * decay.between(written, newest)


def _weights_by_matrix(
    written: Tensor,
    newest: Tensor,
    decay: Decay,
    write_rate: Tensor | float,
    cut: Tensor | None,
) -> Tensor:
    """:func:`memory_weights` in each of the decay's matrices, one in a last dimension."""
    shares = write_rate * decay.write_shares().to(written.device)
    weights = shares * decay.remaining(written, newest)
    if cut is None:
        return weights
    last = (cut - 1).expand(written.shape)  # the step that the constant memory is as of
    constant = (shares * decay.remaining(torch.minimum(written, last), last)).detach()
    faded = constant * decay.remaining(last, torch.maximum(newest, last))
    return torch.where((written < cut)[..., None], faded, weights)


def _apart(matrix: Tensor) -> Tensor:
    """The matrices of a state as (B, components, H, H)."""
    return matrix[:, None] if matrix.dim() == 3 else matrix


def _together(matrices: Tensor) -> Tensor:
    """The inverse of :func:`_apart`: a single matrix has no dimension for it."""
    return matrices[:, 0] if matrices.shape[1] == 1 else matrices


def right_aligned(history: Tensor, length: int, lengths: Tensor | None) -> Tensor:
    """Move each sample's memories to the end, zeros to the front."""
    if lengths is None:
        return history
    source = torch.arange(history.shape[0], device=history.device)[:, None] - (length - lengths)
    index = source.clamp(min=0)[:, :, None].expand_as(history)
    return history.gather(0, index).masked_fill((source < 0)[:, :, None], 0.0)


def trimmed(history: Tensor, decay: Decay) -> Tensor:
    """Without the memories that are forgotten by the next step; kept whole below the horizon."""
    if decay.horizon is None or history.shape[0] < decay.horizon:
        return history
    # After-read timing still reads the newest memory at age 0, so `horizon` of them can matter.
    return history[history.shape[0] - decay.horizon :]


def chunked_form(
    drive: Tensor,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState,
    options: Options,
    lengths: Tensor | None = None,
    *,
    chunk_size: int,
) -> tuple[Tensor, LayerState]:
    """The recurrence in chunks: attention within one, a matrix carried between them.

    Arguments and results as for :func:`matrix_form`. Memory for training grows with
    T·H + (T / chunk_size)·H² per sample.
    """
    if options.memory != "hebbian":
        return matrix_form(drive, weights, decay, write_rate, state, options, lengths)
    cut = constant_before(state, decay, write_rate)
    matrix = fold(state, decay, write_rate, options, cut=cut)
    state = LayerState(state.hidden, state.steps, matrix=matrix)
    outputs = []
    for start in range(0, drive.shape[0], chunk_size):
        chunk = drive[start : start + chunk_size]
        left = None if lengths is None else (lengths - start).clamp(0, chunk.shape[0])
        output, after = attention_form(chunk, weights, decay, write_rate, state, options, left)
        outputs.append(output)
        matrix = fold(after, decay, write_rate, options, matrix_step=state.steps - 1)
        state = LayerState(after.hidden, after.steps, matrix=matrix)
    return torch.cat(outputs) if outputs else drive, state


def fold(
    state: LayerState,
    decay: Decay,
    write_rate: Tensor | float,
    options: Options,
    *,
    matrix_step: Tensor | None = None,
    cut: Tensor | None = None,
) -> Tensor:
    """A(t − 1) as a state holds it, (B, H, H) or (B, components, H, H), history and all.

    Args:
        state: the state before step t.
        decay: r; recurrent.
        write_rate: η.
        options: for ``detach_writes``.
        matrix_step: the step that ``state.matrix`` belongs to, shape (B,), when a history
            follows it; None if the state holds only one of the two.
        cut: of ``constant_before``, for a state that comes from an earlier call.
    """
    hidden, steps, history, matrix, _ = state
    newest = steps - 1
    if matrix is None:
        batch, width = hidden.shape
        matrices = hidden.new_zeros(batch, decay.components, width, width)
    else:
        matrices = _apart(matrix)
        if matrix_step is not None:
            left = decay.remaining(matrix_step, newest).to(matrix.dtype)
            matrices = left[:, :, None, None] * matrices
    if history is None or history.shape[0] == 0:
        return _together(matrices)
    h = history.detach() if options.detach_writes else history
    age = torch.arange(h.shape[0] - 1, -1, -1, device=h.device)[:, None]
    now = newest.expand(h.shape[0], -1)
    weights = _weights_by_matrix(newest - age, now, decay, write_rate, cut).to(h.dtype)
    return _together(matrices + torch.einsum("mbc,mbi,mbj->bcij", weights, h, h))


def forget(state: LayerState, which: Tensor) -> LayerState:
    """The state, but of nothing for the samples that ``which`` names, bool of shape (B,)."""
    hidden, steps, history, matrix, constant_before = state
    return LayerState(
        hidden.masked_fill(which[:, None], 0.0),
        steps.masked_fill(which, 0),
        None if history is None else history.masked_fill(which[:, None], 0.0),
        None
        if matrix is None
        else matrix.masked_fill(which.reshape(-1, *[1] * (matrix.dim() - 1)), 0.0),
        None if constant_before is None else constant_before.masked_fill(which, 0),
    )


def in_episodes(
    form: Callable[..., tuple[Tensor, LayerState]],
    drive: Tensor,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState,
    options: Options,
    lengths: Tensor | None,
    resets: Tensor,
) -> tuple[Tensor, LayerState]:
    """Any of the forms, from one reset to the next.

    Arguments and results as for :func:`matrix_form`; ``resets``, bool of shape (T, B), says which
    samples forget everything before which step. Resets after a sample's end do nothing.
    """
    length = drive.shape[0]
    if lengths is not None:
        resets = resets & (torch.arange(length, device=drive.device)[:, None] < lengths)
    starts = sorted({0, *resets.any(1).nonzero()[:, 0].tolist()})
    outputs = []
    for start, end in zip(starts, [*starts[1:], length], strict=True):
        left = None if lengths is None else (lengths - start).clamp(0, end - start)
        state = forget(state, resets[start])
        piece = drive[start:end]
        output, state = form(piece, weights, decay, write_rate, state, options, left)
        outputs.append(output)
    return torch.cat(outputs), state
