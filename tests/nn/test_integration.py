"""The layer among the rest of PyTorch: copies, precisions, compilers, devices, processes."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence

from fastweights import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState, decay
from fastweights.ops.fast_weights import LayerState, fast_weights
from tests.tolerances import assert_close

L, N, IN, H = 6, 3, 4, 5
BACKENDS = ["native", "reference"]

# Imported by torch's own compiler, none of ours.
quiet_inductor = pytest.mark.filterwarnings("ignore:`torch.jit.*:DeprecationWarning")


def _rich(**changes):
    """A layer with everything that can be learned and saved."""
    options = {
        "num_layers": 2,
        "bidirectional": True,
        "learn_write_rate": True,
        "decay": decay.PowerLaw(learnable=True),
        **changes,
    }
    return FastWeightsRNN(IN, H, **options)


def _x(*shape, **kwargs):
    return torch.randn(*(shape or (L, N, IN)), **kwargs)


def _same(a, b):
    assert torch.equal(a[0], b[0])
    for name, tensor in a[1].tensors().items():
        assert torch.equal(tensor, b[1].tensors()[name])


# Copies


@pytest.mark.parametrize(
    "how",
    [
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
        lambda layer: _loaded(layer, _rich()),
    ],
    ids=["deepcopy", "pickle", "state_dict"],
)
def test_a_copy_gives_the_same_and_is_its_own(how):
    layer = _rich()
    x = _x()
    expected = layer(x)
    copied = how(layer)
    _same(copied(x), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(2)
    _same(layer(x), expected)
    assert not torch.equal(copied(x)[0], expected[0])


def _loaded(layer, other):
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    result = other.load_state_dict(torch.load(file, weights_only=True))
    assert not result.missing_keys
    assert not result.unexpected_keys
    return other


@pytest.mark.parametrize("memory", ["random", "learned", "identity"])
def test_the_matrix_of_a_control_is_saved_or_made_again(memory):
    layer = FastWeightsRNN(IN, H, memory=memory)
    x = _x()
    _same(_loaded(layer, FastWeightsRNN(IN, H, memory=memory))(x), layer(x))


def test_functional_call_and_function_transforms():
    layer = FastWeightsRNN(IN, H, backend="reference", dtype=torch.float64)
    x = _x(dtype=torch.float64)
    parameters = {n: p.detach() for n, p in layer.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(layer, parameters, (x,))[0].square().sum()

    loss(dict(layer.named_parameters())).backward()
    for name, gradient in torch.func.grad(loss)(parameters).items():
        assert_close(gradient, layer.get_parameter(name).grad, name)


def test_a_step_of_training_lowers_the_loss():
    """With every parameter moving, in an ordinary loop."""
    layer = _rich()
    x, y = _x(), _x(L, N, 2 * H)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    before = {n: p.detach().clone() for n, p in layer.named_parameters()}
    losses = []
    for _ in range(10):
        loss = F.mse_loss(layer(x)[0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(not torch.equal(p, before[n]) for n, p in layer.named_parameters())


# Precisions


@pytest.mark.parametrize("backend", BACKENDS)
def test_double(backend):
    layer = _rich(backend=backend)
    x = _x()
    single, _ = layer(x)
    double, state = layer.double()(x.double())
    assert double.dtype == state.hidden.dtype == state.history.dtype == torch.float64
    assert_close(single, double)
    made = _rich(backend=backend, dtype=torch.float64)
    assert made(x.double())[0].dtype == torch.float64


def test_bfloat16():
    wide = FastWeightsRNN(IN, 16, 2).bfloat16()
    x = _x(L, N, IN, dtype=torch.bfloat16)
    output, state = wide(x)
    assert output.dtype == state.hidden.dtype == state.history.dtype == torch.bfloat16
    exact = copy.deepcopy(wide).double()(x.double())[0]
    # every step rounds to 8 bits; what matters is that the sum of errors does not run away
    assert (output.double() - exact).norm() <= 0.05 * exact.norm()
    output.sum().backward()
    assert all(p.grad.dtype == torch.bfloat16 for p in wide.parameters())
    assert all(p.grad.isfinite().all() for p in wide.parameters())
    assert wide(x, state)[0].dtype == torch.bfloat16


def test_the_statistics_of_halves_are_kept_in_float32():
    """Of numbers near 100 that differ by units, 8 bits could tell neither mean nor variance."""
    layer = FastWeightsRNN(IN, 256, inner_steps=0, norm_preliminary=True).bfloat16()
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.bias_l0.copy_(100 + 4 * torch.randn(256))
    z = layer.bias_l0.detach().double()
    expected = F.layer_norm(z, (256,), eps=1e-5).relu()
    assert_close(layer(torch.zeros(1, 1, IN, dtype=torch.bfloat16))[0][0, 0], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast(backend):
    """C x in the lower precision, the recurrence in that of the parameters."""
    layer = FastWeightsRNN(IN, H, backend=backend)
    x = _x()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = layer(x)
        attention = layer.attention(x)
        drive = F.linear(x, layer.weight_ih_l0, layer.bias_l0)
        assert drive.dtype == torch.bfloat16
        assert torch.equal(layer(x.bfloat16())[0], output)
        assert layer(x, state)[0].dtype == torch.float32
        FastWeightsRNN(IN, H, 2, bidirectional=True)(x)[0].sum().backward()
        FastWeightsRNN(IN, H, dtype=torch.float64)(x.double())
        for bad in (x.double(), x.int()):
            with pytest.raises(TypeError, match=r"input must be torch\.float32"):
                layer(bad)
        with pytest.raises(TypeError, match=r"input must be torch\.float64"):
            FastWeightsRNN(IN, H, dtype=torch.float64)(x)
    assert output.dtype == state.hidden.dtype == torch.float32
    start = LayerState.zeros(N, H, dtype=torch.float32, device="cpu")
    weights, own = layer._slow_weights(layer._names[0]), layer._layer_decay(layer._names[0])
    expected, _ = fast_weights(
        drive.float(), weights, own, torch.tensor(0.5), start, layer._options, backend=backend
    )
    assert torch.equal(output, expected)
    z = F.linear(F.pad(output, (0, 0, 0, 0, 1, 0))[:-1], layer.weight_hh_l0) + drive.float()
    hidden = F.pad(output, (0, 0, 0, 0, 1, 0))[:-1]
    scores = torch.einsum("mnh,tnh->ntm", hidden, z.relu())
    ages = torch.arange(L)[:, None] - torch.arange(L)
    r = 0.5 * 0.95 ** ages.double() * (ages >= 0)
    assert_close(attention[:, 0], scores * r)
    (output.square().sum()).backward()
    assert layer.weight_ih_l0.grad.dtype == torch.float32


def test_a_sample_that_is_nan_stays_alone():
    layer = FastWeightsRNN(IN, H, 2)
    x = _x()
    clean = layer(x)[0]
    x[2, 1] = torch.nan
    output = layer(x)[0]
    assert output[2:, 1].isnan().any()
    assert torch.equal(output[:, [0, 2]], clean[:, [0, 2]])


# Devices


@pytest.mark.parametrize("how", [{}, {"form": "matrix"}, {"memory": "random"}], ids=str)
def test_meta(how):
    """Shapes without numbers, and filled in later."""
    layer = _rich(device="meta", **{"decay": 0.9, **how} if "form" in how else how)
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    output, state = layer(torch.empty(L, N, IN, device="meta"))
    assert output.shape == (L, N, 2 * H)
    assert output.device.type == state.hidden.device.type == "meta"


@pytest.mark.parametrize("own", [decay.Free(4), decay.Exponential(0.9, learnable=True)], ids=repr)
def test_from_meta_to_a_real_device(own):
    layer = FastWeightsRNN(IN, H, device="meta", decay=own, memory="hebbian")
    layer.to_empty(device="cpu")
    torch.manual_seed(0)
    layer.reset_parameters()
    torch.manual_seed(0)
    plain = FastWeightsRNN(IN, H, decay=own)
    x = _x()
    assert torch.equal(layer(x)[0], plain(x)[0])
    with torch.device("meta"):
        assert FastWeightsRNN(IN, H).weight_hh_l0.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("form", ["attention", "matrix", "chunked"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cuda(form, dtype):
    layer = _rich(form=form, decay=decay.Exponential(0.9, learnable=True), dtype=dtype)
    there = copy.deepcopy(layer).cuda()
    x = _x(dtype=dtype)
    expected, state = layer.double()(x.double())
    output, on_cuda = there(x.cuda())
    assert {t.device.type for t in on_cuda.tensors().values()} == {"cuda"}
    assert_close(output.cpu(), expected)
    assert_close(on_cuda.to("cpu").hidden, state.hidden)
    expected.square().sum().backward()
    output.square().sum().backward()
    for name, parameter in there.named_parameters():
        assert_close(parameter.grad.cpu(), layer.get_parameter(name).grad, name)
    again, _ = there(x.cuda(), on_cuda)
    assert_close(again.cpu(), layer(x.double(), state)[0])
    packed, _ = there(pack_sequence([x[:4, 0].cuda(), x[:, 1].cuda()], enforce_sorted=False))
    alone, _ = layer(x[:4, 0].double())
    assert_close(packed.data.cpu()[packed.unsorted_indices.cpu()[:1]], alone[:1])
    with pytest.raises(ValueError, match="input is on cpu"):
        there(x)
    with pytest.raises(ValueError, match="it runs on CPU tensors, got cuda"):
        FastWeightsRNN(IN, H, backend="native", device="cuda")(torch.zeros(L, N, IN, device="cuda"))


# Compilers


class _Model(nn.Module):
    """The layer in a place, with a state in and out."""

    def __init__(self, **options):
        super().__init__()
        self.first = nn.Linear(IN, IN)
        self.layer = FastWeightsRNN(IN, H, **options)
        self.last = nn.Linear(H * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x, state=None):
        output, state = self.layer(self.first(x).relu(), state)
        return self.last(output), state


def _compiled_equals_eager(model, compiled, batches=(N,)):
    for batch in batches:
        x = _x(3, batch, IN)
        results = {}
        _, start = model(x)
        for name, call in (("eager", model), ("compiled", compiled)):
            model.zero_grad()
            output, state = call(x, start.detach())
            (output.square().sum() + state.hidden.sum()).backward()
            gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
            results[name] = {"output": output, **state.tensors(), **gradients}
        for name, expected in results["eager"].items():
            assert_close(results["compiled"][name], expected, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"backend": "auto"},
        {"backend": "native", "num_layers": 2, "bidirectional": True, "learn_write_rate": True},
        {"backend": "reference", "decay": decay.PowerLaw(learnable=True)},
        {"backend": "reference", "form": "matrix"},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_compile(options):
    """One graph without breaks, forward and backward."""
    torch._dynamo.reset()
    model = _Model(**options)
    _compiled_equals_eager(model, torch.compile(model, fullgraph=True, backend="aot_eager"))


@pytest.mark.slow
def test_compile_for_batches_of_any_size():
    torch._dynamo.reset()
    model = _Model(backend="native")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    _compiled_equals_eager(model, compiled, batches=(N, 7, 40))


@pytest.mark.slow
@quiet_inductor
@pytest.mark.skipif(not shutil.which("g++"), reason="torch's compiler needs g++")
def test_compile_with_inductor():
    torch._dynamo.reset()
    model = _Model(backend="native")
    _compiled_equals_eager(model, torch.compile(model, fullgraph=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grad", [True, False])
def test_export(backend, grad):
    """Any batch size, also beyond one block of lanes; saved and loaded."""
    model = _Model(backend=backend)
    with torch.set_grad_enabled(grad):
        batch = torch.export.Dim("batch")
        program = torch.export.export(model, (_x(),), dynamic_shapes=({1: batch},))
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file)
        for n in (N, 2, 40):
            x = _x(L, n, IN)
            output, state = loaded.module()(x)
            expected, other = model(x)
            assert_close(output, expected)
            assert isinstance(state, FastWeightsState)
            assert_close(state.history, other.history)


def test_export_of_any_length():
    """The kernel is one op, whatever the length; the reference unrolls its loop."""
    layer = FastWeightsRNN(IN, H, form="attention", backend="native")
    length = torch.export.Dim("length")
    program = torch.export.export(layer, (_x(),), dynamic_shapes=({0: length},))
    x = _x(50, N, IN)
    assert_close(program.module()(x)[0], layer(x)[0])


def test_the_cell_compiles_in_a_loop():
    torch._dynamo.reset()
    cell = FastWeightsRNNCell(IN, H)

    def loop(x):
        state, outputs = None, []
        for step in x.unbind(0):
            h, state = cell(step, state)
            outputs.append(h)
        return torch.stack(outputs)

    x = _x(3, N, IN)
    compiled = torch.compile(loop, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), loop(x))


# Processes


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """DistributedDataParallel over gloo, each process with half of the batch."""
    script = """
        import os
        import sys
        import torch
        from torch import distributed
        from torch.nn.parallel import DistributedDataParallel

        from fastweights import FastWeightsRNN, decay

        def train(name, run, rank):
            layer = FastWeightsRNN(
                4, 5, 2, dtype=torch.float64, memory=name,
                learn_write_rate=name == "hebbian",
                decay=decay.Exponential(0.9, learnable=name == "hebbian"),
            )
            if rank == 0:
                layer.load_state_dict(run["parameters"])
            parallel = DistributedDataParallel(layer)
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            x = run["x"][:, rank::2]
            for _ in range(3):
                optimizer.zero_grad()
                parallel(x)[0].square().mean().backward()
                optimizer.step()
            return layer.state_dict()

        rank, folder = int(sys.argv[1]), sys.argv[2]
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
        )
        torch.manual_seed(rank)  # DDP hands out the parameters and buffers of rank 0
        for name, run in torch.load(f"{folder}/start.pt", weights_only=True).items():
            torch.save(train(name, run, rank), f"{folder}/{name}-{rank}.pt")
        distributed.barrier()
        distributed.destroy_process_group()
        os._exit(0)  # Gloo's threads may abort the interpreter's end; see optim/ddp_worker.py
    """
    start = {}
    for memory in ("hebbian", "random"):
        learned = memory == "hebbian"
        layer = FastWeightsRNN(
            4, 5, 2, dtype=torch.float64, memory=memory, learn_write_rate=learned,
            decay=decay.Exponential(0.9, learnable=learned),
        )  # fmt: skip
        x = _x(L, 6, 4, dtype=torch.float64)
        parameters = {k: v.clone() for k, v in layer.state_dict().items()}
        start[memory] = {"parameters": parameters, "x": x}
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            layer(x)[0].square().mean().backward()
            optimizer.step()
        start[memory]["end"] = layer.state_dict()
    inputs = {m: {"parameters": s["parameters"], "x": s["x"]} for m, s in start.items()}
    torch.save(inputs, tmp_path / "start.pt")
    (tmp_path / "worker.py").write_text(textwrap.dedent(script))
    workers = [
        subprocess.Popen(
            [sys.executable, tmp_path / "worker.py", str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
    for memory, expected in start.items():
        ends = [torch.load(tmp_path / f"{memory}-{r}.pt", weights_only=True) for r in range(2)]
        for name, value in expected["end"].items():
            assert torch.equal(ends[0][name], ends[1][name]), name
            assert_close(ends[0][name], value, f"{memory} {name}")


def test_import_is_light():
    """The layer does not drag in the compiler before it is used, nor the laboratory ever."""
    code = """
        import sys
        import fastweights, torch
        heavy = {"scipy", "matplotlib", "rich", "typer", "jinja2", "pydantic"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        layer = fastweights.FastWeightsRNN(3, 4, backend="reference")
        layer(torch.zeros(2, 1, 3))
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        fastweights.FastWeightsRNN(3, 4)(torch.zeros(2, 1, 3))
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
