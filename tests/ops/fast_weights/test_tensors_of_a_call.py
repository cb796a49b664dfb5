"""What stands at a tensor's address, and whether anybody asked before a kernel reads it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from fastweights import FastWeightsRNN, decay
from fastweights.ops.fast_weights import InputProjection, LayerState, SlowWeights, fast_weights
from tests.problems import KERNELS, problem, run
from tests.tolerances import assert_close

# What torch says of its own kinds of tensors.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}:UserWarning")
    for what in ("Sparse CSR", "torch.quantize_per_tensor", "The PyTorch API of nested tensors")
]

FORMS = ["attention", "chunked"]
BACKENDS = [*KERNELS, "reference"]
HOWS = [{"form": form, "backend": backend} for form in FORMS for backend in BACKENDS]


def _given(**options):
    """With every tensor that a call can have."""
    options = {"features": 3, "carried": 2, "lengths": (5, 3), **options}
    return problem(5, 2, 4, **options).to(torch.float64)


def _changed(given, change):
    """The call with each of its floating-point tensors made anew, and the leaves beneath."""
    leaves = {}

    def each(name, tensor):
        if tensor is None:
            return None
        leaves[name] = tensor.detach().clone().requires_grad_()
        return change(leaves[name])

    drive = given.drive
    return leaves, dataclasses.replace(
        given,
        drive=InputProjection(*(each(n, x) for n, x in drive._asdict().items())),
        weights=SlowWeights(*(each(n, x) for n, x in given.weights._asdict().items())),
        write_rate=each("write_rate", given.write_rate),
        state=given.state._replace(
            hidden=each("state.hidden", given.state.hidden),
            history=each("state.history", given.state.history),
        ),
    )


def _negated_twice(x):
    """The same numbers, of which memory holds the opposite."""
    return torch._neg_view(-x)


def _strided(x):
    return x.t().contiguous().t() if x.dim() == 2 else x.flip(0).contiguous().flip(0)


class _Weights(nn.Parameter):
    """A subclass that changes nothing."""


LOOKS = {
    "negative bits": _negated_twice,
    "strides": lambda x: _strided(x) if x.dim() else x,
    "a subclass": lambda x: x.as_subclass(_Weights),
    "part of a complex number": lambda x: torch.complex(x, -x).conj().imag,
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("how", HOWS, ids=str)
def test_the_values_of_a_tensor_count_and_not_its_bits(look, how):
    given = _given()
    expected = torch.autograd.grad(run(given, **how)[0].square().sum(), given.leaves().values())
    leaves, same = _changed(given, LOOKS[look])
    output = run(same, **how)[0]
    assert_close(output, run(given, **how)[0])
    found = torch.autograd.grad(output.square().sum(), leaves.values())
    by_name = dict(zip(given.leaves(), expected, strict=True))
    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
        named = name if name in by_name else f"weights.{name}"
        assert leaf.shape == gradient.shape
        assert_close(gradient.as_subclass(torch.Tensor), by_name[named], name)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_zeros_that_were_only_promised(how):
    given = _given()
    promised, real = (
        dataclasses.replace(
            given,
            drive=given.drive._replace(input=zeros(given.drive.input)),
            state=given.state._replace(hidden=zeros(given.state.hidden)),
        )
        for zeros in (
            lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype),
            lambda x: torch.zeros(x.shape, dtype=x.dtype),
        )
    )
    assert_close(run(promised, **how)[0], run(real, **how)[0])


def _gradients(given, how, cotangent):
    given = given.to(torch.float64)
    output = run(given, **how)[0]
    leaves = given.leaves()
    return dict(
        zip(leaves, torch.autograd.grad(output, leaves.values(), cotangent(output)), strict=True)
    )


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize(
    ("looks", "plain"),
    [
        (lambda y: torch._neg_view(torch.ones_like(y)), lambda y: -torch.ones_like(y)),
        (lambda y: torch.ones(()).to(y).expand(y.shape), torch.ones_like),
        (lambda y: torch._efficientzerotensor(y.shape, dtype=y.dtype), torch.zeros_like),
        (lambda y: torch.eye(y.shape[-1]).to(y).expand(*y.shape[:1], -1, -1)[:, :2], None),
    ],
    ids=["negative", "expanded", "zero", "strided"],
)
def test_gradients_from_outside_too(looks, plain, how):
    given = _given()
    found = _gradients(given, how, looks)
    written_out = plain or (lambda y: looks(y).clone(memory_format=torch.contiguous_format))
    for name, tensor in _gradients(given, how, written_out).items():
        assert_close(found[name], tensor, name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", KERNELS)
def test_a_sparse_gradient(form, backend):
    given = _given(lengths=None)
    how = {"form": form, "backend": backend}
    found = _gradients(given, how, lambda y: torch.ones_like(y).to_sparse())
    for name, tensor in _gradients(given, how, torch.ones_like).items():
        assert_close(found[name], tensor, name)


REFUSED = {
    "sparse": (lambda x: x.to_sparse(), "dense tensor.*sparse_coo"),
    "sparse rows": (lambda x: x.to_sparse_csr(), "dense tensor.*sparse_csr"),
    "MKL-DNN": (lambda x: x.float().to_mkldnn(), "dense tensor.*_mkldnn|must be torch.float64"),
    "complex": (lambda x: x.to(torch.complex128), "must be torch.float64"),
    "integers": (lambda x: x.long(), "must be torch.float64"),
    "quantised": (
        lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
        "must be torch.float64",
    ),
    "an array": (lambda x: x.numpy(), "must be a tensor"),
    "a list": (lambda x: x.tolist(), "must be a tensor"),
}


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_tensor_of_another_kind_is_refused_by_name(kind, how):
    change, says = REFUSED[kind]
    given = problem(4, 2, 4, features=3, carried=2)
    for name in ("weights.recurrent", "state.hidden", "drive.bias"):
        part, field = name.split(".")
        if "rows" in kind and field == "bias":
            continue  # a vector has none
        whole = getattr(given, part)
        spoilt = whole._replace(**{field: change(getattr(whole, field))})
        with pytest.raises(TypeError, match=rf"{name} .*({says})"):
            run(dataclasses.replace(given, **{part: spoilt}), **how)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_what_is_multiplied_is_refused_too(how):
    given = problem(4, 2, 4, features=3)
    x = given.drive.input
    nested = torch.nested.nested_tensor([x[:, 0], x[:2, 0]])
    for source, says in (
        (x.to_sparse(), "drive.input must be a dense tensor"),
        (nested, "drive.input must have shape .* got nested"),
        (x.long(), "drive.input must be torch.float64 like drive"),
        (x.numpy(), "drive.input must be a tensor, got ndarray"),
    ):
        call = dataclasses.replace(given, drive=given.drive._replace(input=source))
        with pytest.raises((TypeError, ValueError), match=says):
            run(call, **how)
    integers = dataclasses.replace(
        problem(4, 2, 4),
        drive=torch.ones(4, 2, 4, dtype=torch.int64),
        weights=SlowWeights(torch.ones(4, 4, dtype=torch.int64)),
        state=None,
    )
    with pytest.raises(TypeError, match=r"drive must be floating-point, got torch\.int64"):
        run(integers, **how)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_the_layer_refuses_by_name(backend):
    layer = FastWeightsRNN(3, 4, backend=backend)
    x = torch.randn(5, 2, 3)
    ragged = [x[:, 0], x[:2, 0]]
    for spoilt, says in (
        (x.to_sparse(), "input must be a dense tensor .*sparse_coo.*pack_sequence"),
        (torch.nested.nested_tensor(ragged), "input must be a dense tensor .*nested.*pack_seq"),
        (torch.nested.nested_tensor(ragged, layout=torch.jagged), "dense tensor .*nested"),
        (x.to(torch.complex64), "input must be torch.float32"),
        (x.tolist(), "input must be a tensor"),
    ):
        with pytest.raises(TypeError, match=says):
            layer(spoilt)


# From one pass to the other


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_memory_that_was_freed(how):
    """As FSDP frees parameters between their uses; torch's own operations would crash."""
    given = _given()
    output = run(given, **how)[0]
    given.weights.recurrent.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"weights\.recurrent has no memory"):
        run(given, **how)
    if how["backend"] != "reference":
        with pytest.raises(RuntimeError, match=r"came back as one of .*, without numbers"):
            output.sum().backward()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", KERNELS)
def test_parameters_that_were_cast_between_the_passes(form, backend):
    layer = FastWeightsRNN(3, 4, form=form, backend=backend)
    output, _ = layer(torch.randn(5, 2, 3))
    layer.double()
    with pytest.raises(RuntimeError, match=r"torch\.float32, on cpu .* torch\.float64, on cpu"):
        output.sum().backward()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize(
    "unpack",
    [
        lambda x: x.bfloat16(),
        lambda x: x.to("meta"),
        lambda x: x[..., :1],
        lambda x: torch._neg_view(x),
    ],
    ids=["dtype", "device", "shape", "bits"],
)
def test_hooks_that_give_back_something_else(unpack, form, backend):
    layer = FastWeightsRNN(3, 4, form=form, backend=backend)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, unpack):
        output, _ = layer(torch.randn(5, 2, 3))
    with pytest.raises(RuntimeError, match=r"was saved for the backward pass .* came back"):
        output.sum().backward()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", KERNELS)
def test_a_program_made_without_gradients_says_so(form, backend):
    layer = FastWeightsRNN(3, 4, form=form, backend=backend)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        program = torch.export.export(layer, (x,)).module()
    assert_close(program(x)[0], layer(x)[0].double())
    with pytest.raises(RuntimeError, match="kept nothing for a backward pass"):
        program(x)[0].sum().backward()


def test_a_tensor_that_outlived_its_transform():
    layer = FastWeightsRNN(3, 4)
    x = torch.randn(5, 2, 3)
    kept = []
    torch.func.grad(lambda x: (kept.append(x), layer(x)[0].sum())[1])(x)
    assert_close(layer(kept[0])[0], layer(x)[0])  # only a wrapper, of the same numbers
    torch.func.vmap(lambda x: (kept.append(x), x)[1])(x)
    with pytest.raises(RuntimeError, match="escaped"):
        layer(kept[1])


# Devices

DECAYS = [
    0.9,
    decay.Exponential(0.9, learnable=True),
    decay.SumOfExponentials([0.5, 0.5], [0.5, 0.9]),
    decay.StepIndexed(0.5),
    decay.PowerLaw(0.5),
    decay.Free(3),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("own", DECAYS, ids=str)
def test_another_default_device(own, backend):
    """Which meta stands for here; what it is must not matter to tensors that have one."""
    forms = ["attention", "matrix", "chunked"] if decay.as_decay(own).recurrent else ["attention"]
    x = torch.randn(5, 2, 3)
    packed = pack_sequence([x[:, 0], x[:3, 1]])
    for form in forms:
        layer = FastWeightsRNN(3, 4, 2, decay=own, form=form, backend=backend)

        def everything(layer=layer):
            layer.zero_grad()
            output, state = layer(x)
            again, after = layer(x, state)
            ragged, _ = layer(packed)
            (again.sum() + after.hidden.sum() + ragged.data.sum()).backward()
            gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
            return [output, again, ragged.data, *after.tensors().values(), *gradients]

        expected = everything()
        with torch.device("meta"):
            found = everything()
        for tensor, same in zip(found, expected, strict=True):
            assert tensor.device.type == "cpu"
            assert torch.equal(tensor, same)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_a_call_on_two_devices_is_refused(how):
    given = problem(4, 2, 4, carried=2)
    elsewhere = given.state._replace(history=given.state.history.to("meta"))
    with pytest.raises(ValueError, match=r"state\.history is on meta, but drive is on cpu"):
        run(dataclasses.replace(given, state=elsewhere), **how)


def test_the_check_is_the_same_for_an_empty_batch():
    """Whose tensors have no address."""
    for backend in BACKENDS:
        output, state = fast_weights(
            torch.zeros(3, 0, 4), SlowWeights(torch.eye(4)), decay.Exponential(0.9), 0.5,
            LayerState.zeros(0, 4, dtype=torch.float32, device="cpu"), problem(1, 1, 1).options,
            backend=backend,
        )  # fmt: skip
        assert output.shape == (3, 0, 4)
        assert state.steps.shape == (0,)
