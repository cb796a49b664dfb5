"""What PyTorch's transforms, tracers and wrappers make of the layer and the cell.

One table: a row for each of them, for every backend right, or an error that says what can. The
truth comes from the reference by plain means. `docs/transforms.md` shows the same table.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fastweights import FastWeightsRNN, FastWeightsRNNCell
from fastweights.ops import dispatch
from tests.problems import KERNELS
from tests.tolerances import assert_close

# What torch says of itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.*:FutureWarning"),
]

T, B, IN, H = 3, 2, 3, 4
Gradients = dict[str, Tensor]


class Model(nn.Module):
    """The layer, or the cell step by step, as a function of one tensor."""

    def __init__(self, kind: str, backend: str) -> None:
        super().__init__()
        torch.manual_seed(7)
        made = FastWeightsRNN if kind == "layer" else FastWeightsRNNCell
        self.inner = made(IN, H, backend=backend, learn_write_rate=True, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.inner, FastWeightsRNN):
            return self.inner(x)[0]
        state, outputs = None, []
        for step in x.unbind(0):
            h, state = self.inner(step, state)
            outputs.append(h)
        return torch.stack(outputs)

    def loss(self, x: Tensor) -> Tensor:
        return self(x).square().sum()

    def parameters_apart(self) -> Gradients:
        return {name: p.detach().clone() for name, p in self.named_parameters()}


def _input() -> Tensor:
    return torch.randn(T, B, IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _direction() -> Tensor:
    return torch.randn(T, B, IN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


# The truth, by the reference and plain differentiation.


def _value(model: Model) -> Tensor:
    with torch.no_grad():
        return model(_input())


def _gradients(model: Model) -> Gradients:
    x = _input().requires_grad_()
    model.zero_grad()
    model.loss(x).backward()
    return {"x": x.grad, **{n: p.grad for n, p in model.named_parameters()}}


def _gradient_of_input(model: Model) -> Tensor:
    return _gradients(model)["x"]


def _jacobian(model: Model) -> Tensor:
    x = _input().requires_grad_()
    rows = [torch.autograd.grad(y, x, retain_graph=True)[0] for y in model(x).flatten()]
    return torch.stack(rows).reshape(T, B, H, T, B, IN)


def _tangent(model: Model) -> Tensor:
    return torch.einsum("tbhsci,sci->tbh", _jacobian(model), _direction())


def _hessian(model: Model) -> Tensor:
    x = _input().requires_grad_()
    (first,) = torch.autograd.grad(model.loss(x), x, create_graph=True)
    rows = [torch.autograd.grad(g, x, retain_graph=True)[0] for g in first.flatten()]
    return torch.stack(rows).reshape(T, B, IN, T, B, IN)


def _hessian_along(model: Model) -> Tensor:
    return torch.einsum("tbiscj,scj->tbi", _hessian(model), _direction())


def _per_sample(model: Model) -> Gradients:
    columns = []
    for i in range(B):
        model.zero_grad()
        model.loss(_input()[:, i : i + 1]).backward()
        columns.append({n: p.grad.clone() for n, p in model.named_parameters()})
    return {name: torch.stack([column[name] for column in columns]) for name in columns[0]}


def _shape(model: Model) -> Tensor:
    return torch.tensor(_value(model).shape)


# The transforms.


def _plain(model: Model) -> Gradients:
    return _gradients(model)


def _without_a_graph(model: Model) -> Tensor:
    with torch.inference_mode():
        inferred = model(_input()).clone()
    assert torch.equal(inferred, _value(model))
    return inferred


def _copied(model: Model) -> Gradients:
    return _gradients(copy.deepcopy(model))


def _called(model: Model) -> Gradients:
    x = _input().requires_grad_()
    own = {n: p.requires_grad_() for n, p in model.parameters_apart().items()}
    for p in model.parameters():  # which must not be used
        p.data.zero_()
    functional_call(model, own, (x,)).square().sum().backward()
    return {"x": x.grad, **{n: p.grad for n, p in own.items()}}


def _loss_of(model: Model) -> Callable[[Gradients, Tensor], Tensor]:
    return lambda parameters, x: functional_call(model, parameters, (x,)).square().sum()


def _func_grad(model: Model) -> Gradients:
    grads, dx = torch.func.grad(_loss_of(model), argnums=(0, 1))(model.parameters_apart(), _input())
    return {"x": dx, **grads}


def _vjp(model: Model) -> Gradients:
    y, pull = torch.func.vjp(
        lambda p, x: functional_call(model, p, (x,)), model.parameters_apart(), _input()
    )
    grads, dx = pull(2 * y)
    return {"x": dx, **grads}


def _jvp(model: Model) -> Tensor:
    return torch.func.jvp(model, (_input(),), (_direction(),))[1]


def _linearize(model: Model) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of its own graph's attributes
        return torch.func.linearize(model.requires_grad_(False), _input())[1](_direction())


def _func_hessian(model: Model) -> Tensor:
    return torch.func.hessian(model.loss)(_input())


def _vmap(model: Model) -> Tensor:
    alone = torch.func.vmap(lambda x: model(x[:, None])[:, 0], in_dims=1, out_dims=1)
    return alone(_input()).detach()


def _vmap_of_grad(model: Model) -> Gradients:
    each = torch.func.vmap(torch.func.grad(_loss_of(model)), in_dims=(None, 1))
    return each(model.parameters_apart(), _input()[:, :, None])


def _ensemble(model: Model) -> Gradients:
    """Three models that are the same: the gradients of each are those of one."""
    models = [copy.deepcopy(model) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    x = _input().requires_grad_()
    run = torch.func.vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))
    run(parameters, buffers).square().sum().backward()
    return {"x": x.grad / 3, **{n: p.grad[1] for n, p in parameters.items()}}


def _dual(model: Model) -> Tensor:
    found = []
    for frozen, graph in ((True, True), (False, True), (False, False)):
        model.requires_grad_(not frozen)
        with forward_ad.dual_level(), torch.set_grad_enabled(graph):
            dual = forward_ad.make_dual(_input(), _direction())
            found.append(forward_ad.unpack_dual(model(dual)).tangent.detach().clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    return found[0]


def _dual_then_grad(model: Model) -> Tensor:
    x = _input().requires_grad_()
    with forward_ad.dual_level():
        loss = model.loss(forward_ad.make_dual(x, _direction()))
        (gradient,) = torch.autograd.grad(loss, x)
        return forward_ad.unpack_dual(gradient).tangent.clone()


def _dual_cotangent(model: Model) -> Tensor:
    """The way back is linear: the tangent of what it gives is what it gives for the tangent."""
    x = _input().requires_grad_()
    y = model(x)
    with forward_ad.dual_level():
        cotangent = forward_ad.make_dual(torch.zeros_like(y), 2 * y.detach())
        (gradient,) = torch.autograd.grad(y, x, cotangent)
        return forward_ad.unpack_dual(gradient).tangent.clone()


def _dual_into_compiled(model: Model) -> Tensor:
    compiled = torch.compile(model.requires_grad_(False), backend="aot_eager")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(_input(), _direction())
        return forward_ad.unpack_dual(compiled(dual)).tangent.clone()


def _create_graph(model: Model) -> Tensor:
    """Also where a first derivative is all that anybody wants of it."""
    x = _input().requires_grad_()
    (first,) = torch.autograd.grad(model.loss(x), x, create_graph=True)
    return first.detach()


def _double_backward(model: Model) -> Tensor:
    return _hessian(model)


def _functional_hessian(model: Model) -> Tensor:
    return torch.autograd.functional.hessian(model.loss, _input())


def _batched(model: Model) -> Tensor:
    x = _input().requires_grad_()
    y = model(x)
    rows = torch.eye(y.numel(), dtype=y.dtype).reshape(-1, *y.shape)
    (found,) = torch.autograd.grad(y, x, rows, is_grads_batched=True)
    return found.reshape(T, B, H, T, B, IN)


def _functional_jacobian(model: Model) -> Tensor:
    return torch.autograd.functional.jacobian(model, _input(), vectorize=True)


def _functional_jacobian_forward(model: Model) -> Tensor:
    how = {"vectorize": True, "strategy": "forward-mode"}
    return torch.autograd.functional.jacobian(model, _input(), **how)


def _checkpointed(model: Model) -> Gradients:
    found = []
    for reentrant in (True, False):
        x = _input().requires_grad_()
        model.zero_grad()
        checkpoint.checkpoint(model.loss, x, use_reentrant=reentrant).backward()
        found.append({"x": x.grad, **{n: p.grad.clone() for n, p in model.named_parameters()}})
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name])
    return found[0]


def _hooked(model: Model) -> Gradients:
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.numpy(), torch.from_numpy):
        return _gradients(model)


def _anomaly(model: Model) -> Gradients:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is on
        with torch.autograd.detect_anomaly():
            return _gradients(model)


def _traced(model: Model) -> Gradients:
    """Recorded with other numbers, and another batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it takes for constant, and that it is deprecated
        recorded = torch.jit.trace(model, torch.zeros(T, B + 1, IN, dtype=torch.float64))
    x = _input().requires_grad_()
    model.zero_grad()
    recorded(x).square().sum().backward()
    return {"x": x.grad, **{n: p.grad for n, p in model.named_parameters()}}


def _scripted(model: Model) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(model)(_input())


def _onnx(model: Model, *, dynamo: bool) -> Tensor:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how = {"input_names": ["x"], "dynamo": dynamo}
        if dynamo:
            torch.onnx.export(model, (_input(),), **how, verbose=False).save(file)
        else:
            torch.onnx.export(model, (_input(),), file, **how)
    session = onnxruntime.InferenceSession(file.getvalue())
    return torch.from_numpy(session.run(None, {"x": _input().numpy()})[0])


def _onnx_dynamo(model: Model) -> Tensor:
    return _onnx(model.eval(), dynamo=True)


def _onnx_script(model: Model) -> Tensor:
    return _onnx(model.eval(), dynamo=False)


def _compiled(model: Model) -> Gradients:
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = _input().requires_grad_()
    model.zero_grad()
    compiled(x).square().sum().backward()
    return {"x": x.grad, **{n: p.grad for n, p in model.named_parameters()}}


def _compiled_grad(model: Model) -> Tensor:
    return torch.compile(torch.func.grad(model.loss), fullgraph=True, backend="aot_eager")(_input())


def _compiled_vmap(model: Model) -> Tensor:
    alone = torch.func.vmap(lambda x: model(x[:, None])[:, 0], in_dims=1, out_dims=1)
    return torch.compile(alone, fullgraph=True, backend="aot_eager")(_input()).detach()


def _grad_of_compiled(model: Model) -> Tensor:
    compiled = torch.compile(model, backend="aot_eager")
    return torch.func.grad(lambda x: compiled(x).square().sum())(_input())


def _exported(model: Model) -> Gradients:
    """Asked for a gradient that the call it was made from did not want."""
    program = torch.export.export(model, (torch.zeros_like(_input()),)).module()
    x = _input().requires_grad_()
    program(x).square().sum().backward()
    return {"x": x.grad, **{n: p.grad for n, p in program.named_parameters()}}


def _exported_batched(model: Model) -> Tensor:
    return _batched(torch.export.export(model, (torch.zeros_like(_input()),)).module())


def _exported_vmap(model: Model) -> Tensor:
    with torch.no_grad():
        program = torch.export.export(model, (torch.zeros_like(_input()),)).module()
        return torch.func.vmap(program)(torch.stack([_input(), 2 * _input()]))[0]


def _faked(model: Model) -> Tensor:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(_input()).requires_grad_()
        y = model(x)
        y.sum().backward()
    assert x.grad.shape == x.shape
    assert y.device.type == "cpu"
    return torch.tensor(y.shape)


def _made_fx(model: Model) -> Tensor:
    def gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(model.loss(x), x)[0]

    found = []
    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(gradient, tracing_mode=mode, _allow_non_fake_inputs=True)
        found.append(graph(_input().requires_grad_())(_input()))
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])
    return found[0]


def _flops(model: Model) -> Tensor:
    with FlopCounterMode(display=False) as counter:
        model.loss(_input()).backward()
    return torch.tensor(counter.get_total_flops())


class _Log(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def _logged(model: Model) -> Gradients:
    with _Log() as log:
        found = _gradients(model)
    ours = [name for name in log.seen if name.startswith("fastweights")]
    assert bool(ours) == (model.inner.backend != "reference"), "the mode must see what runs"
    return found


def _wrapped(model: Model) -> Tensor:
    both = model(TwoTensor(_input(), 2 * _input()))
    assert not torch.equal(both.a, both.b)
    return both.a.detach()


class _Named(torch.Tensor):
    """A subclass that changes nothing."""


def _subclassed(model: Model) -> Gradients:
    x = _input().as_subclass(_Named).requires_grad_()
    model.zero_grad()
    model.loss(x).backward()
    return {"x": x.grad, **{n: p.grad for n, p in model.named_parameters()}}


@dataclasses.dataclass(frozen=True)
class Transform:
    """A row of the table.

    Attributes:
        name: as a user writes it.
        run: what it gives for a model.
        truth: the same by the reference and plain means.
        kernels: whether a kernel does it; else "auto" falls back to the reference.
        refused: where nobody can know beforehand, so that "auto" runs the kernel and its error
            names what can: "kernels", or "all" where no backend can.
        says: what the message of an error must hold.
    """

    name: str
    run: Callable[[Model], Any]
    truth: Callable[[Model], Any]
    kernels: bool = False
    refused: str = ""
    says: str = "backend='reference'"


TABLE = [
    Transform("forward, `.backward()`", _plain, _gradients, True),
    Transform("`torch.no_grad`, `torch.inference_mode`", _without_a_graph, _value, True),
    Transform("`copy.deepcopy`", _copied, _gradients, True),
    Transform("`torch.func.functional_call`", _called, _gradients, True),
    Transform("`torch.func.grad`", _func_grad, _gradients),
    Transform("`torch.func.vjp`", _vjp, _gradients),
    Transform("`torch.func.jvp`", _jvp, _tangent),
    Transform("`torch.func.linearize`", _linearize, _tangent),
    Transform("`torch.func.jacrev`", lambda m: torch.func.jacrev(m)(_input()), _jacobian),
    Transform("`torch.func.jacfwd`", lambda m: torch.func.jacfwd(m)(_input()), _jacobian),
    Transform("`torch.func.hessian`", _func_hessian, _hessian),
    Transform("`torch.func.vmap`", _vmap, _value),
    Transform("`vmap(grad(…))`: gradients of each sample", _vmap_of_grad, _per_sample),
    Transform("`vmap` over models (`stack_module_state`), `.backward()`", _ensemble, _gradients),
    Transform("`forward_ad.make_dual`: forward-mode differentiation", _dual, _tangent),
    Transform("`make_dual`, then `torch.autograd.grad`", _dual_then_grad, _hessian_along),
    Transform(
        "`torch.autograd.grad` of a dual `grad_outputs`",
        _dual_cotangent,
        _gradient_of_input,
        refused="kernels",
    ),
    Transform("`create_graph=True`, not differentiated again", _create_graph, _gradient_of_input,
              True),
    Transform("`create_graph=True`, differentiated again", _double_backward, _hessian,
              refused="kernels"),
    Transform("`torch.autograd.functional.hessian`", _functional_hessian, _hessian,
              refused="kernels"),
    Transform("`torch.autograd.grad(…, is_grads_batched=True)`", _batched, _jacobian, True),
    Transform("`torch.autograd.functional.jacobian(…, vectorize=True)`", _functional_jacobian,
              _jacobian, True),
    Transform("the same, `strategy=\"forward-mode\"`", _functional_jacobian_forward, _jacobian),
    Transform("`torch.utils.checkpoint`", _checkpointed, _gradients, True),
    Transform("`saved_tensors_hooks`", _hooked, _gradients, True),
    Transform("`torch.autograd.detect_anomaly`", _anomaly, _gradients, True),
    Transform("`torch.compile(…, fullgraph=True)`", _compiled, _gradients, True),
    Transform("`torch.compile` of `torch.func.grad`", _compiled_grad, _gradient_of_input),
    Transform("`torch.compile` of `torch.func.vmap`", _compiled_vmap, _value),
    Transform("`torch.func.grad` of a compiled layer", _grad_of_compiled, _gradient_of_input),
    Transform("forward-mode differentiation of a compiled layer", _dual_into_compiled, _tangent,
              refused="kernels"),
    Transform("`torch.export.export`, and `.backward()` through the program", _exported,
              _gradients, True),
    Transform("`is_grads_batched=True` through an exported program", _exported_batched, _jacobian,
              True),
    Transform("`torch.func.vmap` of an exported program", _exported_vmap, _value, True),
    Transform("`make_fx`", _made_fx, _gradient_of_input, True),
    Transform("`torch.jit.trace`", _traced, _gradients),
    Transform("`torch.jit.script`", _scripted, _value, refused="all", says=r"torch\.export"),
    Transform("`torch.onnx.export(…, dynamo=True)`", _onnx_dynamo, _value),
    Transform("`torch.onnx.export(…, dynamo=False)`", _onnx_script, _value),
    Transform("`FakeTensorMode`", _faked, _shape, True),
    Transform("`FlopCounterMode`", _flops, _flops),
    Transform("any other `TorchDispatchMode`", _logged, _gradients, True),
    Transform("subclasses with `__torch_dispatch__` or `__torch_function__`", _wrapped, _value),
    Transform("subclasses without", _subclassed, _gradients, True),
]  # fmt: skip


def _outcome(row: Transform, backend: str) -> str:
    if row.refused == "all":
        return "an error that names what can"
    if backend == "reference":
        return "right"
    if row.refused == "kernels" or (backend == "kernel" and not row.kernels):
        return "an error that names the reference"
    return "right, by the kernel" if row.kernels else "right, by the reference"


def _same(found: Any, truth: Any) -> None:
    if isinstance(truth, dict):
        assert found.keys() == truth.keys()
        for name, tensor in truth.items():
            assert_close(found[name].as_subclass(Tensor), tensor, name)
    else:
        assert_close(found.detach(), truth.detach())


def _cases() -> list[Any]:
    """Every row; those that compile take seconds, so of the cell only what "auto" does."""
    cases = []
    for row, kind in itertools.product(TABLE, ("layer", "cell")):
        slow = any(name in row.name for name in ("compile", "export", "make_fx"))
        for backend in ["auto"] if slow and kind == "cell" else ["auto", *KERNELS, "reference"]:
            name = f"{row.name.replace('`', '')}-{kind}-{backend}"
            cases.append(pytest.param(row, kind, backend, id=name.replace("…", "...")))
    return cases


@pytest.mark.parametrize(("row", "kind", "backend"), _cases())
def test_the_table(row, kind, backend):
    torch._dynamo.reset()
    model = Model(kind, backend)
    expected = _outcome(row, "kernel" if backend in KERNELS else backend)
    if expected.startswith("right"):
        _same(row.run(model), row.truth(Model(kind, "reference")))
    else:
        with pytest.raises(Exception, match=row.says):
            row.run(model)


def test_the_page_shows_the_table():
    page = Path(__file__).parents[3] / "docs" / "transforms.md"
    backends = ("auto", "kernel", "reference")
    lines = ['| | `backend="auto"` | a kernel by name | `backend="reference"` |']
    lines += ["| --- | --- | --- | --- |"]
    for row in TABLE:
        lines.append(f"| {row.name} | {' | '.join(_outcome(row, b) for b in backends)} |")
    assert "\n".join(lines) in page.read_text(encoding="utf-8"), "\n".join(lines)


def test_auto_says_once_why_it_falls_back(caplog):
    dispatch._say_once.cache_clear()
    model = Model("layer", "auto")
    with caplog.at_level(logging.INFO, logger="fastweights"):
        for _ in range(3):
            torch.func.grad(model.loss)(_input())
    (record,) = caplog.records
    assert "backend reference" in record.getMessage()
    assert "torch.func and vmap do not see into a kernel" in record.getMessage()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch's compiler needs g++")
@pytest.mark.parametrize("backend", KERNELS)
def test_a_program_compiled_ahead_of_time(backend, tmp_path):
    model = Model("layer", backend)
    with torch.no_grad():
        program = torch.export.export(model, (torch.zeros_like(_input()),))
        where = str(tmp_path / "model.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=where)
        found = torch._inductor.aoti_load_package(where)(_input())
    _same(found, _value(Model("layer", "reference")))
