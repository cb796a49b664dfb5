"""Modules made on the meta device and filled later are the modules they stand for."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastweights.nn
from fastweights import FastWeightsRNN, FastWeightsRNNCell, decay
from fastweights.nn import AttentionLSTM, LayerNormLSTM, LayerNormRNN, irnn

L, N, IN, H = 4, 2, 5, 7

DECAYS: dict[str, Callable[[], decay.Decay]] = {
    "exponential": lambda: decay.Exponential(0.9),
    "exponential learned": lambda: decay.Exponential(0.9, learnable=True),
    "sum of exponentials": lambda: decay.SumOfExponentials([0.75, 0.25], [0.9, 0.5]),
    "power law": lambda: decay.PowerLaw(0.7),
    "power law learned": lambda: decay.PowerLaw(0.7, learnable=True),
    "power law as exponentials": lambda: decay.PowerLaw(0.7).as_exponentials(0.05, 100),
    "factorial": lambda: decay.Factorial(0.3),
    "factorial learned": lambda: decay.Factorial(0.3, learnable=True),
    "step-indexed": lambda: decay.StepIndexed(0.4),
    "step-indexed learned": lambda: decay.StepIndexed(0.4, learnable=True),
    "free": lambda: decay.Free(3, values=[0.5, 0.25]),
    "free learned": lambda: decay.Free(3, learnable=True),
}

Make = Callable[..., nn.Module]


def _with(make: Callable[[], decay.Decay]) -> Make:
    return lambda **where: FastWeightsRNN(IN, H, decay=make(), **where)


MODULES: dict[str, Make] = {
    **{f"layer, {name}": _with(make) for name, make in DECAYS.items()},
    **{
        f"layer, memory {memory}": lambda memory=memory, **where: FastWeightsRNN(
            IN, H, 2, bidirectional=True, memory=memory, memory_scale=0.7, **where
        )
        for memory in ("hebbian", "identity", "random", "learned", "none")
    },
    "layer, learned write rate": lambda **where: FastWeightsRNN(
        IN, H, learn_write_rate=True, write_rate=0.3, **where
    ),
    "layer, no norm": lambda **where: FastWeightsRNN(IN, H, layer_norm=False, **where),
    "cell": lambda **where: FastWeightsRNNCell(
        IN, H, memory="identity", decay=decay.Free(3, learnable=True), **where
    ),
    "cell, sum of exponentials": lambda **where: FastWeightsRNNCell(
        IN, H, decay=DECAYS["sum of exponentials"](), **where
    ),
    "layer-norm RNN": lambda **where: LayerNormRNN(IN, H, 2, **where),
    "layer-norm LSTM": lambda **where: LayerNormLSTM(IN, H, 2, **where),
    "attention LSTM": lambda **where: AttentionLSTM(IN, H, **where),
    "attention LSTM, dot": lambda **where: AttentionLSTM(IN, H, score="dot", **where),
    "IRNN": lambda **where: irnn(IN, H, 2, **where),
}


@contextlib.contextmanager
def _empty_weights(buffers: bool) -> Iterator[None]:
    """As accelerate's init_empty_weights: every parameter moves as it is registered."""
    of_parameters, of_buffers = nn.Module.register_parameter, nn.Module.register_buffer

    def register_parameter(module: nn.Module, name: str, parameter: Any) -> None:
        of_parameters(module, name, parameter)
        if parameter is not None:
            wanted = parameter.requires_grad
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=wanted)

    def register_buffer(module: nn.Module, name: str, buffer: Any, persistent: bool = True) -> None:
        of_buffers(module, name, buffer, persistent=persistent)
        if buffer is not None:
            module._buffers[name] = buffer.to("meta")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "register_parameter", register_parameter)
        if buffers:
            patch.setattr(nn.Module, "register_buffer", register_buffer)
        yield


def _in_context(context: Callable[[], Any]) -> Callable[[Make], nn.Module]:
    def make_in(make: Make) -> nn.Module:
        with context():
            return make()

    return make_in


WAYS: dict[str, Callable[[Make], nn.Module]] = {
    "device='meta'": lambda make: make(device="meta"),
    "torch.device('meta')": _in_context(lambda: torch.device("meta")),
    "empty weights": _in_context(lambda: _empty_weights(buffers=False)),
    "empty weights and buffers": _in_context(lambda: _empty_weights(buffers=True)),
}


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(itertools.chain(module.named_parameters(), module.named_buffers()))


def _to_garbage(module: nn.Module) -> nn.Module:
    """On the CPU with whatever was in memory: here, NaN."""
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in _tensors(module).values():
            tensor.fill_(math.nan)
    return module


def _x(module: nn.Module, device: str = "cpu") -> torch.Tensor:
    return torch.randn(*((N,) if isinstance(module, FastWeightsRNNCell) else (L, N)), IN).to(device)


def _assert_same(actual: nn.Module, expected: nn.Module) -> None:
    named = _tensors(actual)
    assert named.keys() == _tensors(expected).keys()
    for name, tensor in _tensors(expected).items():
        assert torch.equal(named[name], tensor), name
        assert named[name].requires_grad == tensor.requires_grad
    x = _x(expected)
    assert torch.equal(actual(x)[0], expected(x)[0])


def test_every_module_is_in_the_list() -> None:
    listed = {type(make()) for make in MODULES.values()}
    public = {getattr(fastweights.nn, name) for name in fastweights.nn.__all__}
    assert {p for p in public if isinstance(p, type) and issubclass(p, nn.Module)} <= listed
    kinds = {type(make()) for make in DECAYS.values()}
    assert {getattr(decay, n) for n in decay.__all__} - {decay.Decay, decay.as_decay} == kinds


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODULES)
def test_emptied_and_loaded_or_reset_is_the_original(name: str, way: str) -> None:
    make = MODULES[name]
    torch.manual_seed(1)
    drawn = make()
    if isinstance(drawn, AttentionLSTM):  # which draws its LSTM twice as it is made
        torch.manual_seed(1)
        drawn.reset_parameters()
    trained = copy.deepcopy(drawn)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    deferred = WAYS[way](make)
    assert {p.device.type for p in deferred.parameters()} == {"meta"}

    loaded = _to_garbage(copy.deepcopy(deferred))
    loaded.load_state_dict(trained.state_dict())
    _assert_same(loaded, trained)

    reset = _to_garbage(copy.deepcopy(deferred))
    torch.manual_seed(1)
    reset.reset_parameters()  # type: ignore[operator]
    _assert_same(reset, drawn)

    assigned = copy.deepcopy(deferred)
    assigned.load_state_dict(trained.state_dict(), assign=True)
    _assert_same(assigned, trained)


@pytest.mark.parametrize("name", MODULES)
def test_emptied_and_reset_module_by_module(name: str) -> None:
    """Each module that holds tensors by itself, the outer ones first, as FSDP goes about it."""
    module = MODULES[name](device="meta")
    for part in module.modules():
        if [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
            part.to_empty(device="cpu", recurse=False)
            with torch.no_grad():
                for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                    tensor.fill_(math.nan)
            part.reset_parameters()  # type: ignore[operator]
    assert all(tensor.isfinite().all() for tensor in _tensors(module).values())
    module(_x(module))


@pytest.mark.parametrize("name", MODULES)
def test_on_the_meta_device_there_are_shapes(name: str) -> None:
    module, real = MODULES[name](device="meta"), MODULES[name]()
    output, _ = module(_x(module, "meta"))
    expected, _ = real(_x(real))
    assert output.device.type == "meta"
    assert output.shape == expected.shape
    assert type(module).__name__ in repr(module)


def test_packed_sequences_on_the_meta_device() -> None:
    layer = FastWeightsRNN(IN, H, 2, bidirectional=True, device="meta")
    packed = pack_padded_sequence(
        torch.empty(L, N, IN, device="meta"), torch.tensor([2, 4]), enforce_sorted=False
    )
    output, state = layer(packed)
    assert output.data.shape == (6, 2 * H)
    assert state.hidden.shape == (4, N, H)


# Decays


@pytest.mark.parametrize("name", DECAYS)
def test_every_decay_can_be_made_on_meta(name: str) -> None:
    with torch.device("meta"):
        deferred = DECAYS[name]()
    own = DECAYS[name]()
    assert all(tensor.is_meta for tensor in _tensors(deferred).values())
    assert type(own).__name__ in repr(deferred)
    assert deferred.components == own.components
    assert deferred.horizon == own.horizon
    if own.stationary:
        assert deferred(torch.empty(3, device="meta")).shape == (3,)
    _to_garbage(deferred).reset_parameters()  # type: ignore[operator]
    written, read = torch.arange(6), torch.tensor(6)
    assert torch.equal(deferred.between(written, read), own.between(written, read))
    if own.recurrent:
        assert torch.equal(deferred.write_shares(), own.write_shares())


@pytest.mark.parametrize("name", DECAYS)
def test_a_decay_goes_where_its_layer_is(name: str) -> None:
    """Whether it was made there or not."""
    here = DECAYS[name]()
    with torch.device("meta"):
        there = DECAYS[name]()
        layer = FastWeightsRNN(IN, H, decay=here)
    assert {t.device.type for t in _tensors(layer).values()} == {"meta"}
    assert {t.device.type for t in _tensors(here).values()} <= {"cpu"}
    torch.manual_seed(0)
    expected = FastWeightsRNN(IN, H, decay=here)
    torch.manual_seed(0)
    _assert_same(FastWeightsRNN(IN, H, decay=there), expected)
    expected(_x(expected))[0].sum().backward()  # in a graph, as any parameter


def test_what_cannot_be_known_on_meta_is_said() -> None:
    with torch.device("meta"):
        learned = decay.PowerLaw(0.5, learnable=True)
    with pytest.raises(ValueError, match=r"PowerLaw\(exponent=\?, learnable=True\) is learned"):
        learned.as_exponentials()

    class Table(decay.Decay):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("numbers", torch.tensor([1.0, 0.5]))

    with torch.device("meta"):
        own = Table()
    with pytest.raises(ValueError, match="decay is a Table on the meta device and has no reset_pa"):
        FastWeightsRNN(IN, H, decay=own)
    assert FastWeightsRNN(IN, H, decay=own, device="meta").decay.numbers.is_meta


def test_the_sum_of_a_power_law_is_the_same_wherever_tensors_go() -> None:
    expected = decay.PowerLaw(0.7).as_exponentials()
    with torch.device("meta"):
        deferred = decay.PowerLaw(0.7).as_exponentials()
    _to_garbage(deferred).reset_parameters()  # type: ignore[operator]
    assert torch.equal(deferred.shares, expected.shares)
    assert torch.equal(deferred.speeds, expected.speeds)


def test_state_dicts_of_before_still_load() -> None:
    """The identity never was in one, sums of exponentials always were."""
    names = ["weight_ih_l0", "weight_hh_l0", "bias_l0", "norm_weight_l0", "norm_bias_l0"]
    assert [*FastWeightsRNN(IN, H, memory="identity").state_dict()] == names
    layer = FastWeightsRNN(IN, H, decay=DECAYS["sum of exponentials"]())
    assert [*layer.state_dict()] == [*names, "decays.l0.shares", "decays.l0.speeds"]
    other = FastWeightsRNN(IN, H, decay=decay.SumOfExponentials([0.5, 0.5], [0.8, 0.4]))
    other.load_state_dict(layer.state_dict())
    _assert_same(other, layer)


def test_the_identity_follows_dtype_and_scale() -> None:
    layer = FastWeightsRNN(IN, H, memory="identity", memory_scale=0.3, query="previous")
    learned = FastWeightsRNN(IN, H, memory="learned", query="previous")
    matrix = 0.3 * torch.eye(H, dtype=torch.float64)
    learned.load_state_dict({**layer.state_dict(), "weight_memory_l0": matrix})
    x = _x(layer)
    assert torch.equal(layer(x)[0], learned(x)[0])
    learned.double().load_state_dict({"weight_memory_l0": matrix}, strict=False)
    assert torch.equal(layer.double()(x.double())[0], learned(x.double())[0])
    assert not [*layer.named_buffers()]


# Shards

_WORKER = """
    import os, sys
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from tests.nn.test_deferred_initialisation import IN, L, MODULES, N

    rank, folder = int(sys.argv[1]), sys.argv[2]
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    mesh = init_device_mesh("cpu", (2,))
    for name, make in MODULES.items():
        if name.startswith("cell"):
            continue
        torch.manual_seed(7)
        expected = make()
        torch.manual_seed(7)
        module = make(device="meta")
        scalars = {p for p in module.parameters() if p.dim() == 0}  # which it does not take
        fully_shard(module, mesh=mesh, ignored_params=scalars)
        module.to_empty(device="cpu")
        module.reset_parameters()
        for key, value in module.state_dict().items():
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            assert whole.shape == expected.state_dict()[key].shape, (name, key)
            assert whole.isfinite().all(), (name, key)
            if "LSTM" not in name and "IRNN" not in name:  # nn.LSTM and nn.RNN draw other numbers
                assert torch.equal(whole, expected.state_dict()[key]), (name, key)
            if name == "IRNN" and "weight_hh" in key:
                assert torch.equal(whole, torch.eye(len(whole))), key
        module(torch.randn(L, N, IN))[0].square().mean().backward()
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # Gloo's threads may abort the interpreter's end
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="no distributed training here")
def test_shards_start_as_the_whole(tmp_path) -> None:
    """Made on meta, sharded over two processes, emptied and reset."""
    (tmp_path / "worker.py").write_text(textwrap.dedent(_WORKER))
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    workers = [
        subprocess.Popen(
            [sys.executable, tmp_path / "worker.py", str(rank), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=300)
            assert worker.returncode == 0, errors
    finally:
        for worker in workers:
            worker.kill()
