"""The attention and the matrix of a run, against the run itself and the explicit A(t)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastweights.ops.fast_weights.inspect import inspect_recurrence
from tests.oracle import fast_weight_matrix
from tests.pairwise import all_pairs
from tests.problems import RECURRENT, STATIONARY, oracle_decay, problem, run
from tests.tolerances import assert_close

CASES = {
    "decay": sorted({*RECURRENT, *STATIONARY}),
    "inner_steps": [0, 1, 2],
    "norm": [{}, {"norm_preliminary": True}, {"layer_norm": False}],
    "write": ["before_read", "after_read"],
    "query": ["preliminary", "previous"],
    "carried": [0, 3],
    "length": [1, 6],
}


def _inspect(p, output, **how):
    return inspect_recurrence(
        p.drive, output, p.weights, p.decay, p.write_rate, p.state, p.options, **how
    )


def _f(p, x):
    if p.options.layer_norm:
        x = F.layer_norm(x, x.shape[-1:], p.weights.norm_weight, p.weights.norm_bias, 1e-5)
    return x.relu()


@pytest.mark.parametrize("case", all_pairs(CASES), ids=lambda c: "-".join(map(str, c.values())))
def test_attention_makes_the_output_again(case):
    """Reading the written vectors with these weights, and nothing else, gives every h(t + 1)."""
    case = dict(case)
    p = problem(case.pop("length"), 3, 4, **case.pop("norm"), **case)
    output, _, _ = run(p)
    seen = _inspect(p, output)
    length, steps, carried = p.drive.shape[0], case["inner_steps"], case["carried"]
    assert seen.weights.shape == (3, steps, length, carried + length)
    hidden = torch.cat([p.state.hidden[None], output[:-1]])
    past = hidden[:0] if p.state.history is None else p.state.history
    assert torch.equal(seen.written, torch.cat([past, hidden]))
    z = F.linear(hidden, p.weights.recurrent) + p.drive
    v = hidden
    if case["query"] == "preliminary":
        v = _f(p, z) if p.options.norm_preliminary else z.relu()
    for s in range(steps):
        v = _f(p, z + torch.einsum("btm,mbh->tbh", seen.weights[:, s], seen.written))
    assert_close(v, output)


@pytest.mark.parametrize("case", all_pairs(CASES), ids=lambda c: "-".join(map(str, c.values())))
def test_matrices_are_a_of_t(case):
    case = dict(case)
    p = problem(case.pop("length"), 2, 4, **case.pop("norm"), **case)
    output, _, _ = run(p)
    matrices = _inspect(p, output).matrices()
    hidden = torch.cat([p.state.hidden[None], output[:-1]])
    past = hidden[:0] if p.state.history is None else p.state.history
    vectors = torch.cat([past, hidden]).detach().numpy()
    late = case["write"] == "after_read"
    for sample in range(2):
        written = list(enumerate(vectors[:, sample]))
        for t in range(len(hidden)):
            read_at = len(past) + t - late
            expected = np.zeros((4, 4))
            if read_at >= 0:
                expected = fast_weight_matrix(
                    written[: read_at + 1], read_at, oracle_decay(p.decay), p.write_rate.item()
                )
            assert_close(matrices[sample, t], torch.from_numpy(expected))


def test_what_is_not_yet_written_has_no_weight():
    p = problem(5, 2, 4, carried=2)
    weights = _inspect(p, run(p)[0]).weights
    future = torch.ones(5, 7).triu(3).bool()  # column 2 is h(0)
    assert (weights[:, 0][:, future] == 0).all()
    assert (weights[:, 0, torch.arange(5), torch.arange(5) + 2] != 0).any()


def test_without_a_batch_dimension():
    p = problem(5, 1, 4, carried=2)
    output = run(p)[0]
    batched, plain = _inspect(p, output), _inspect(p, output, unbatched=True)
    assert torch.equal(plain.weights, batched.weights[0])
    assert torch.equal(plain.matrices(), batched.matrices()[0])


def test_a_matrix_cannot_be_looked_into():
    p = problem(3, 1, 4)
    output, after, _ = run(p, form="matrix")
    p.state = after
    with pytest.raises(ValueError, match=r"state holds a matrix.*form='attention'"):
        _inspect(p, output)
