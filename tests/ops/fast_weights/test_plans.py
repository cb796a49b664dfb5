"""A call is planned once for all of its kind; what no longer fits its plan is seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastweights import FastWeightsRNN
from fastweights.decay import Exponential
from fastweights.ops.fast_weights import LayerState, cpu, fast_weights, recurrence
from tests.problems import problem, run
from tests.tolerances import assert_close


@pytest.fixture(autouse=True)
def no_plans():
    recurrence._PLANS.clear()
    cpu._SYMMETRIC.clear()


def test_calls_of_a_kind_are_planned_once(monkeypatch) -> None:
    planned = []
    unplanned = recurrence._run_unplanned
    monkeypatch.setattr(
        recurrence, "_run_unplanned", lambda *call: planned.append(call) or unplanned(*call)
    )
    layer = FastWeightsRNN(3, 4)
    other = FastWeightsRNN(3, 4, decay=0.5)
    for _ in range(3):
        output, state = layer(torch.randn(5, 2, 3))
        other(torch.randn(5, 2, 3))[0].sum().backward()
    assert len(planned) == 1
    layer(torch.randn(6, 2, 3))
    layer(torch.randn(5, 2, 3).double().float()[:, :1])
    assert len(planned) == 3
    for _ in range(4):  # the history grows, and the plan stays
        output, state = layer(torch.randn(1, 2, 3), state)
    assert len(planned) == 4
    assert output.shape == (1, 2, 4)


@pytest.mark.parametrize("form", ["attention", "chunked"])
@pytest.mark.parametrize(
    ("name", "other", "error", "message"),
    [
        ("weight_hh_l0", torch.zeros(4, 5), ValueError, r"weights.recurrent must .* \(4, 4\)"),
        ("weight_ih_l0", torch.zeros(4, 2), ValueError, r"drive.weight must have shape \(H, 3\)"),
        ("bias_l0", torch.zeros(5), ValueError, r"drive.bias must have shape \(4,\), got \(5,\)"),
        ("norm_weight_l0", torch.zeros(1), ValueError, r"norm_weight must have shape \(4,\)"),
        ("norm_bias_l0", torch.zeros(4).double(), TypeError, "norm_bias must be torch.float32"),
        ("bias_l0", torch.zeros(4, device="meta"), ValueError, "drive.bias is on meta"),
    ],
)
def test_a_parameter_that_was_replaced(form, name, other, error, message) -> None:
    layer, x = FastWeightsRNN(3, 4, form=form), torch.randn(5, 2, 3)
    layer(x)
    layer(x)
    if not other.is_meta:
        getattr(layer, name).data = other
        with pytest.raises(error, match=message):
            layer(x)
    setattr(layer, name, nn.Parameter(other))
    with pytest.raises(error, match=message):
        layer(x)


@pytest.mark.parametrize("form", ["attention", "chunked"])
@pytest.mark.parametrize("part", ["hidden", "steps"])
def test_a_state_that_does_not_fit_the_plan(form, part) -> None:
    layer, x = FastWeightsRNN(3, 4, form=form), torch.randn(5, 2, 3)
    _, state = layer(x)
    layer(x, state)
    wrong = {"hidden": state.hidden[:, :1], "steps": state.steps[:1]}[part]
    tensors = {**state.tensors(), part: wrong}
    with pytest.raises(ValueError, match=rf"state\.{part} must have shape"):
        layer(x, type(state)(**tensors))


def test_lengths_and_resets_are_looked_at_every_time() -> None:
    given = problem(4, 2, 3)
    weights, options = given.weights, given.options

    def call(**how):
        return fast_weights(given.drive, weights, given.decay, 0.1, None, options, **how)

    lengths, resets = torch.tensor([4, 2]), torch.zeros(4, 2, dtype=torch.bool)
    for _ in range(2):
        call(lengths=lengths, resets=resets)
    with pytest.raises(TypeError, match=r"lengths must be torch\.int64"):
        call(lengths=lengths.int(), resets=resets)
    with pytest.raises(ValueError, match=r"resets must have shape \(4, 2\)"):
        call(lengths=lengths, resets=resets[:3])


def test_plans_do_not_outlive_their_number() -> None:
    layer = FastWeightsRNN(1, 1)
    with torch.no_grad():
        for batch in range(1, 1100):
            layer(torch.zeros(1, batch, 1))
    assert 0 < len(recurrence._PLANS) <= 1024


# The kernels keep one half of a matrix


def _chunked(matrix: torch.Tensor):
    given = problem(3, matrix.shape[0], 4)
    state = LayerState(torch.zeros(len(matrix), 4).double(), given.state.steps, matrix=matrix)
    weights, options = given.weights, given.options
    return fast_weights(
        given.drive, weights, Exponential(0.9), 0.1, state, options, backend="native"
    )


def test_a_matrix_that_was_changed_is_compared_with_its_transpose_again() -> None:
    _, after = _chunked(torch.zeros(2, 4, 4, dtype=torch.float64))
    assert cpu.is_symmetric(after.matrix)
    with torch.no_grad():
        after.matrix[1, 0, 2] += 1
    assert not cpu.is_symmetric(after.matrix)
    with pytest.raises(ValueError, match="not symmetric"):
        _chunked(after.matrix)


def test_a_part_of_a_symmetric_matrix_need_not_be_symmetric() -> None:
    torch.manual_seed(0)
    whole = torch.randn(2, 8, 8)
    whole = whole + whole.mT
    assert cpu.is_symmetric(whole)
    assert cpu.is_symmetric(whole[1:])
    for part in (whole[:, :4, 4:], whole.flatten()[4:68].view(1, 8, 8), whole.view(8, 4, 4)):
        assert not cpu.is_symmetric(part)


def test_other_memory_at_the_same_place_is_looked_at() -> None:
    for _ in range(20):
        matrix = torch.zeros(1, 16, 16)
        assert cpu.is_symmetric(matrix)
        del matrix
        lopsided = torch.ones(1, 16, 16).triu()
        assert not cpu.is_symmetric(lopsided)


def test_matrices_are_not_kept_alive() -> None:
    for _ in range(200):
        cpu.is_symmetric(torch.zeros(1, 4, 4))
    assert len(cpu._SYMMETRIC) <= 64


def test_in_inference_mode_too() -> None:
    given = problem(5, 2, 4)
    with torch.inference_mode():
        output, _, _ = run(given, form="chunked", backend="native")
        after = run(given, form="chunked", backend="native")[1]
        assert cpu.is_symmetric(after.matrix)
    assert_close(output, run(given)[0])
