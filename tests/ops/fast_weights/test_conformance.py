"""Every form and backend against the reference in the attention form: values and gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.devices import TRITON_DEVICES
from tests.pairwise import all_pairs
from tests.problems import RECURRENT, STATIONARY, problem, run, solve
from tests.tolerances import assert_close

NORMS = {
    "no norm": {"layer_norm": False},
    "norm": {},
    "norm twice": {"norm_preliminary": True, "norm_eps": 0.01},
}
COMMON = {
    "length": [1, 2, 11, 63],
    "batch": [1, 3, 9],
    "dtype": [torch.float64, torch.float32],
    "inner_steps": [0, 1, 2, 3],
    "norm": list(NORMS),
    "write": ["before_read", "after_read"],
    "query": ["preliminary", "previous"],
    "detach_writes": [False, True],
    "ragged": [False, True],
}
MATRIX_FORMS = {
    **COMMON,
    "width": [3, 6],
    "form": ["matrix", "chunked"],
    "chunk_size": [None, 1, 4],
    "decay": RECURRENT,
    "start": ["nothing", "history", "matrix"],
    "nonlinearity": ["relu", "tanh"],
}
INPUTS = {
    "features": [0, 1, 7, 8, 20],  # 0: the product is made elsewhere
    "input_bias": [True, False],
}
NATIVE = {
    **COMMON,
    "width": [3, 5, 8, 13],  # rows are worked on eight at a time
    "decay": STATIONARY,
    "start": ["nothing", "history"],
    "memory": ["hebbian", "hebbian", "static", "none"],
    **INPUTS,
}
NATIVE_CHUNKED = {
    **COMMON,
    "length": [1, 2, 11, 31, 32, 33, 200],  # chunks have 32 steps unless asked
    "width": [3, 8, 13],  # strips of eight rows
    "chunk_size": [None, 1, 4, 300],
    "decay": [name for name in RECURRENT if name in STATIONARY],
    "start": ["nothing", "history", "matrix"],
    **INPUTS,
}
CLOCKS = {
    **COMMON,
    "inner_steps": [1, 2],
    "width": [3, 13],
    "decay": ["step-indexed", "learned-step-indexed"],
    "start": ["nothing", "history"],
    "clocks": ["one", "each its own"],
}
TRITON_CLOCKS = {**CLOCKS, "length": [1, 2, 17], "batch": [1, 2], "width": [5, 33]}
TRITON = {
    **COMMON,
    "length": [1, 2, 11, 17],
    "batch": [1, 2],
    "inner_steps": [0, 1, 2],
    "width": [5, 16, 20, 33],
    "decay": ["exponential", "learned-power-law", "learned-free"],
    "start": ["nothing", "history"],
    "memory": ["hebbian", "hebbian", "static", "none"],
    "nonlinearity": ["relu", "tanh"],
}


def _id(case):
    return "-".join(str(v).replace("torch.", "").replace(" ", "_") for v in case.values())


def _check(case, device="cpu", **how):
    case = dict(case)
    length, batch = case.pop("length"), case.pop("batch")
    clocks = case.pop("clocks", "one")
    dtype, norm, start = case.pop("dtype"), NORMS[case.pop("norm")], case.pop("start")
    lengths = None
    if case.pop("ragged"):  # from the full length down to nothing at all
        lengths = [max(0, length - i * (length // 2 + 1)) for i in range(batch)]
    given = problem(
        length,
        batch,
        case.pop("width"),
        carried=0 if start == "nothing" else 4,
        lengths=lengths,
        **norm,
        **case,
    )
    if clocks != "one":
        given = _with_own_clocks(given)
    _compare(given, dtype, device, from_matrix=start == "matrix", **how)


def _with_own_clocks(given):
    """Samples that have been at it for longer or shorter than the vectors they carry."""
    state, batch = given.state, given.drive.shape[1]
    steps = state.steps + 5 * torch.arange(batch)
    history = state.history
    if history is not None:
        steps[-1] = 1
        history = history.clone()
        history[:-1, -1] = 0
    return dataclasses.replace(given, state=state._replace(steps=steps, history=history))


def _compare(given, dtype, device="cpu", *, against="attention", **how):
    given = given.to(dtype)
    results = solve(given.to(dtype, device), **how)
    expected = solve(given.to(torch.float64), form=against)
    assert results.keys() == expected.keys()
    for name, tensor in results.items():
        assert tensor.dtype == (torch.int64 if name == "steps" else dtype)
        assert_close(tensor.cpu(), expected[name], name)


# The seed picks cases whose gradients do not cancel to nothing, so that float32 has the digits.
@pytest.mark.parametrize("case", all_pairs(MATRIX_FORMS, seed=4), ids=_id)
def test_matrix_and_chunked_forms(case):
    case = dict(case)
    _check(case, form=case.pop("form"), chunk_size=case.pop("chunk_size"))


@pytest.mark.parametrize("case", all_pairs(NATIVE, seed=4), ids=_id)
def test_native_backend(case):
    _check(case, form="attention", backend="native")


@pytest.mark.parametrize("case", all_pairs(CLOCKS, seed=4), ids=_id)
def test_native_backend_by_the_clock(case):
    _check(case, form="attention", backend="native")


@pytest.mark.parametrize("case", all_pairs(NATIVE_CHUNKED, seed=0), ids=_id)
def test_native_backend_in_chunks(case):
    case = dict(case)
    chunk_size = case.pop("chunk_size")
    _check(case, against="matrix", form="chunked", chunk_size=chunk_size, backend="native")


@pytest.mark.parametrize("device", TRITON_DEVICES)
@pytest.mark.parametrize("case", all_pairs(TRITON, seed=4), ids=_id)
def test_triton_backend(case, device):
    _check(case, device, form="attention", backend="triton")


@pytest.mark.parametrize("device", TRITON_DEVICES)
@pytest.mark.parametrize("case", all_pairs(TRITON_CLOCKS, seed=4), ids=_id)
def test_triton_backend_by_the_clock(case, device):
    _check(case, device, form="attention", backend="triton")


@pytest.mark.parametrize("device", TRITON_DEVICES)
@pytest.mark.parametrize("memory", ["hebbian", "static"])
def test_triton_backend_with_weights_that_stream(memory, device):
    """Beyond 128 features W does not stay on the chip."""
    given = problem(2, 2, 130, carried=1, memory=memory, norm_preliminary=True)
    for dtype in (torch.float64, torch.float32):
        _compare(given, dtype, device, backend="triton")


@pytest.mark.parametrize("device", TRITON_DEVICES)
@pytest.mark.parametrize("options", [{}, {"nonlinearity": "tanh", "inner_steps": 2}], ids=str)
def test_triton_backend_in_bfloat16(options, device):
    """Short: a unit that rounding takes to the other side of zero changes gradients by much."""
    given = problem(4, 2, 20, carried=2, seed=1, **options)
    _compare(given, torch.bfloat16, device, backend="triton")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("decay", ["exponential", "power-law"])
def test_one_feature(decay, dtype):
    given = problem(5, 3, 1, decay=decay, carried=2, layer_norm=False)
    hows = [{"backend": "native"}]
    if decay in RECURRENT:
        hows += [{"form": "matrix"}, {"form": "chunked", "chunk_size": 2}]
        hows += [{"form": "chunked", "chunk_size": 2, "backend": "native"}]
    for how in hows:
        _compare(given, dtype, **how)


GRADCHECK = {
    "how": [
        {"form": "attention"},
        {"form": "matrix"},
        {"form": "chunked", "chunk_size": 2},
        {"form": "attention", "backend": "native"},
        {"form": "chunked", "chunk_size": 2, "backend": "native"},
    ],
    "norm": list(NORMS),
    "inner_steps": [1, 2],
    "write": ["before_read", "after_read"],
    "query": ["preliminary", "previous"],
    "lengths": [None, (3, 1)],
}


def _outputs(given, how):
    """The call as a function of its leaves, for the checkers that nudge them in place."""

    def function(*_):
        output, after, memory = run(given, **how)
        return output, after.hidden, memory

    return function


@pytest.mark.parametrize("case", all_pairs(GRADCHECK), ids=_id)
def test_gradcheck(case):
    case = dict(case)
    how, norm = case.pop("how"), NORMS[case.pop("norm")]
    given = problem(3, 2, 4, decay="learned-exponential", carried=2, **norm, **case)
    given = given.to(torch.float64)
    assert torch.autograd.gradcheck(_outputs(given, how), tuple(given.leaves().values()))


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize(
    "decay", ["learned-power-law", "learned-factorial", "learned-free", "learned-step-indexed"]
)
def test_gradcheck_of_decays(decay, backend):
    given = problem(4, 1, 3, decay=decay, carried=3).to(torch.float64)
    how = {"form": "attention", "backend": backend}
    assert torch.autograd.gradcheck(_outputs(given, how), tuple(given.leaves().values()))


@pytest.mark.parametrize("how", GRADCHECK["how"][:3], ids=lambda how: how["form"])
def test_second_derivatives_of_the_reference(how):
    given = problem(2, 1, 3, decay="learned-exponential", carried=1).to(torch.float64)
    assert torch.autograd.gradgradcheck(_outputs(given, how), tuple(given.leaves().values()))
