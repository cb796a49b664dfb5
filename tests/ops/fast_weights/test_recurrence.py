"""How a call is checked, and which form and backend it gets."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from hypothesis import given as examples
from hypothesis import strategies as st

from fastweights.ops import dispatch
from fastweights.ops.fast_weights import LayerState, Options, SlowWeights, fast_weights
from fastweights.ops.fast_weights.recurrence import check_backend, check_form, chunk_size_for
from tests.problems import decay_named, problem, run
from tests.tolerances import assert_close


def _call(p, **how):
    return fast_weights(
        p.drive, p.weights, p.decay, p.write_rate, p.state, p.options, lengths=p.lengths, **how
    )


def _memory_kept(p, **how):
    after = _call(p, **how)[1]
    assert after.history is None or after.matrix is None
    return "history" if after.history is not None else "matrix"


def test_auto_goes_by_length_width_and_decay():
    assert _memory_kept(problem(105, 1, 5)) == "history"
    assert _memory_kept(problem(106, 1, 5)) == "matrix"  # a hundred more than the width
    assert _memory_kept(problem(3, 1, 5, carried=20)) == "history"
    assert _memory_kept(problem(3, 1, 5, carried=21)) == "matrix"  # four times the width
    assert _memory_kept(problem(3, 1, 100, carried=300)) == "history"
    assert _memory_kept(problem(3, 1, 100, carried=301)) == "matrix"  # twice, and a hundred
    assert _memory_kept(problem(150, 1, 5, decay="power-law")) == "history"
    assert _memory_kept(problem(20, 1, 5, decay="step-indexed")) == "history"
    assert _memory_kept(problem(21, 1, 5, decay="step-indexed")) == "matrix"
    assert _memory_kept(problem(150, 1, 5), form="attention") == "history"
    assert _memory_kept(problem(3, 1, 5), form="matrix") == "matrix"
    matrix = _call(problem(3, 1, 5), form="matrix")[1]
    assert _memory_kept(dataclasses.replace(problem(3, 1, 5), state=matrix)) == "matrix"


def test_the_kernels_choose_as_auto_does():
    assert _memory_kept(problem(105, 1, 5), backend="native") == "history"
    assert _memory_kept(problem(106, 1, 5), backend="native") == "matrix"


@pytest.mark.parametrize("form", ["matrix", "chunked"])
@pytest.mark.parametrize("decay", ["power-law", "factorial", "free"])
def test_a_form_that_cannot_carry_the_decay_says_why_and_what_to_use(form, decay):
    with pytest.raises(ValueError, match=rf"form='{form}' cannot carry .*form='attention'"):
        _call(problem(3, 1, 4, decay=decay), form=form)
    with pytest.raises(ValueError, match="last matrix times a number"):
        check_form(form, decay_named(decay))


def test_attention_cannot_go_on_from_a_matrix():
    p = problem(3, 1, 4)
    after = _call(p, form="matrix")[1]
    with pytest.raises(ValueError, match=r"form='attention'.*holds a matrix.*form='chunked'"):
        _call(dataclasses.replace(p, state=after), form="attention")


@pytest.mark.parametrize("decay", ["power-law", "factorial", "free"])
@pytest.mark.parametrize("form", ["auto", "attention"])
def test_a_matrix_that_the_decay_cannot_age(form, decay):
    after = _call(problem(3, 1, 4), form="matrix")[1]
    p = dataclasses.replace(problem(3, 1, 4, decay=decay), state=after)
    with pytest.raises(ValueError, match=r"state holds a matrix, and .* cannot age one"):
        _call(p, form=form)


def test_a_kernel_that_cannot_run_says_why():
    def refused(p, **how):
        with pytest.raises(ValueError, match=r"backend='native' cannot run") as caught:
            _call(p, backend="native", **how)
        return str(caught.value)

    assert "matrix form" in refused(problem(3, 1, 4), form="matrix")
    assert "bfloat16" in refused(problem(3, 1, 4).to(torch.bfloat16))
    assert "StepIndexed" in refused(problem(3, 1, 4, decay="step-indexed"), form="chunked")
    after = _call(problem(3, 1, 4), form="matrix")[1]
    lopsided = after._replace(matrix=after.matrix + torch.eye(4).roll(1, 0))
    p = dataclasses.replace(problem(3, 1, 4), state=lopsided)
    assert "not symmetric" in refused(p)
    assert_close(_call(p)[0], _call(p, form="matrix")[0])


def test_auto_falls_back_and_says_why_once(caplog):
    dispatch._say_once.cache_clear()
    p = problem(3, 1, 4).to(torch.bfloat16)
    with caplog.at_level(logging.INFO, logger="fastweights"):
        _call(p)
        _call(p)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "backend reference (native: it computes in float32 and float64" in record.getMessage()


@pytest.mark.parametrize("memory", ["static", "none"])
@pytest.mark.parametrize("form", ["matrix", "chunked", "attention", "auto"])
def test_without_writes_all_forms_are_one(form, memory):
    p = problem(5, 2, 4, memory=memory)
    assert torch.equal(_call(p, form=form)[0], run(p, backend="native")[0])


@examples(st.integers(1, 4096))
def test_chunks_of_sensible_size(width):
    assert 32 <= chunk_size_for(width) <= 128
    assert chunk_size_for(width) <= chunk_size_for(width + 1)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"form must be one of 'auto', .*, got 'fast'"):
        _call(problem(3, 1, 4), form="fast")
    with pytest.raises(ValueError, match=r"backend must be one of 'auto', .*, got 'cuda'"):
        _call(problem(3, 1, 4), backend="cuda")
    with pytest.raises(ValueError, match="backend must be one of"):
        check_backend("")


@pytest.mark.parametrize(("chunk_size", "error"), [(0, ValueError), (-3, ValueError)])
def test_impossible_chunks(chunk_size, error):
    with pytest.raises(error, match="chunk_size must be at least 1"):
        _call(problem(3, 1, 4), chunk_size=chunk_size, form="chunked")
    for kind in (True, 2.0, "4"):
        with pytest.raises(TypeError, match="chunk_size must be an integer"):
            _call(problem(3, 1, 4), chunk_size=kind)


def _broken():
    """Calls in which one tensor does not fit, and what the error says of it."""
    p = problem(3, 2, 4, carried=2)
    w, s, x = p.weights, p.state, torch.zeros

    def weights(**changes):
        return {"weights": w._replace(**changes)}

    def state(**changes):
        return {"state": s._replace(**changes)}

    wide = torch.float64
    shapes = {
        "drive": {"drive": x(3, 4, dtype=wide)},
        "drive ": {"drive": x(0, 2, 4, dtype=wide)},
        "weights.recurrent": weights(recurrent=x(4, 5, dtype=wide)),
        "weights.norm_weight": weights(norm_weight=x(5, dtype=wide)),
        "weights.norm_bias": weights(norm_bias=x(1, dtype=wide)),
        "weights.memory": weights(memory=x(3, 3, dtype=wide)),
        "write_rate": {"write_rate": x(1, dtype=wide)},
        "state.hidden": state(hidden=x(1, 4, dtype=wide)),  # would broadcast
        "state.steps": state(steps=x(1, dtype=torch.int64)),
        "state.history": state(history=x(2, 1, 4, dtype=wide)),
        "state.history ": state(history=x((), dtype=wide)),
        "state.matrix": state(history=None, matrix=x(2, 4, 3, dtype=wide)),
        "lengths": {"lengths": x(3, dtype=torch.int64)},
    }
    dtypes = {
        "weights.recurrent": weights(recurrent=x(4, 4)),
        "state.hidden": state(hidden=x(2, 4)),
        "state.steps": state(steps=x(2)),
        "lengths": {"lengths": x(2)},
    }
    devices = {
        "weights.recurrent": weights(recurrent=x(4, 4, dtype=wide, device="meta")),
        "state.history": state(history=s.history.to("meta")),
    }
    for changes, error, text in (
        (shapes, ValueError, "must have shape"),
        (dtypes, TypeError, "must be torch"),
        (devices, ValueError, "is on meta"),
    ):
        for name, change in changes.items():
            yield pytest.param(p, change, error, f"{name.strip()} {text}", id=f"{name}-{text}")


@pytest.mark.parametrize(("p", "change", "error", "message"), list(_broken()))
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_tensors_that_do_not_fit(p, change, error, message, backend):
    with pytest.raises(error, match=message.replace(".", r"\.")):
        _call(dataclasses.replace(p, **change), backend=backend)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_static_memory_needs_a_matrix(backend):
    p = problem(3, 2, 4)
    options = dataclasses.replace(p.options, memory="static")
    with pytest.raises(ValueError, match=r"weights\.memory must be given"):
        _call(dataclasses.replace(p, options=options), backend=backend)


def test_a_state_holds_one_kind_of_memory():
    p = problem(3, 2, 4, carried=1)
    both = p.state._replace(matrix=torch.zeros(2, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="a history or a matrix, not both"):
        _call(dataclasses.replace(p, state=both))


def test_the_empty_state():
    state = LayerState.zeros(2, 4, dtype=torch.float64, device="cpu")
    assert state.hidden.dtype == torch.float64
    assert state.steps.tolist() == [0, 0]
    weights = SlowWeights(torch.eye(4, dtype=torch.float64))
    output, after = fast_weights(
        torch.zeros(2, 2, 4, dtype=torch.float64), weights, decay_named("exponential"),
        torch.tensor(0.5), state, Options(),
    )  # fmt: skip
    assert (output == 0).all()
    assert after.steps.tolist() == [2, 2]
