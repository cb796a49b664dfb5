"""The slow weights never change by a bit: over dtypes, layers and orders of calls."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fastweights import Overlay, Overlays

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class Many(nn.Module):
    """A layer of each kind, statistics, a buffer that counts, and tied weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4)
        self.convolve = nn.Conv1d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.wide = nn.Linear(6, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.tokens.weight
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.to(dtype)
        self.register_buffer("rotation", torch.polar(torch.ones(3), torch.arange(3.0)))

    def forward(self, x: Tensor, *, broken: bool = False) -> Tensor:
        self.calls += 1
        hidden = self.norm(self.convolve(self.tokens(x).mT))
        if broken:
            raise ArithmeticError
        return self.out(torch.tanh(self.wide(hidden.mT)))


def bits(model: nn.Module) -> dict[str, bytes]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: memory(tensor) for name, tensor in tensors.items()}


def memory(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


MODULES = st.lists(
    st.sampled_from([nn.Embedding, nn.Conv1d, "wide", "out", nn.Linear]), min_size=1, max_size=3
)
CALLS = st.lists(
    st.sampled_from(
        [
            *("attach", "learn", "learn", "learn wrong", "relax", "clear", "remove", "use", "copy"),
            *("off", "off wrong", "each", "each wrong", "train", "evaluate"),
        ]
    ),
    max_size=12,
)


@given(dtype=st.sampled_from(DTYPES), modules=MODULES, calls=CALLS, frozen=st.booleans())
def test_slow_weights_and_buffers_never_change_by_a_bit(
    dtype: torch.dtype, modules: list, calls: list[str], frozen: bool
) -> None:
    torch.manual_seed(3)
    model = Many(dtype)
    model.requires_grad_(not frozen)
    x = torch.randint(7, (4, 5))
    model(x)  # statistics that are not what they start with
    expected, model_beneath = bits(model), copy.deepcopy(model).eval()
    keys = list(model.state_dict())
    output = memory(model_beneath(x))
    overlays = Overlays(model)
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for call in ["attach", *calls]:
        names = list(overlays)
        name = names[0] if names else None
        if call == "attach":
            new = f"overlay {len(optimizers)}"
            overlay = Overlay(model, rank=2, modules=modules, half_life=3, name=new)
            optimizers[new] = torch.optim.AdamW(overlay.parameters(), lr=0.1)
        elif call.startswith("learn") and names:
            try:
                loss = model(x, broken="wrong" in call).float().square().mean()
                if loss.requires_grad:
                    loss.backward()
            except ArithmeticError:
                pass
            optimizers[names[-1]].step()
            optimizers[names[-1]].zero_grad()
        elif call == "relax" and name:
            overlays[name].relax(updates=2)
        elif call == "clear" and name:
            overlays[name].clear()
            if overlays.on == (name,):
                assert bits(model) == expected
        elif call == "remove" and name:
            overlays[name].remove()
        elif call == "use":
            overlays.use(*names[::2])
        elif call in ("train", "evaluate"):
            model.train(call == "train")
        elif call == "copy":
            model = copy.deepcopy(model)
            renewed = Overlays(model)
            assert list(renewed) == names
            assert renewed.on == overlays.on
            overlays = renewed
            optimizers |= {n: torch.optim.AdamW(overlays[n].parameters(), lr=0.1) for n in names}
        elif call.startswith("off"):
            try:
                with overlays.off():
                    assert bits(model) == expected
                    was = model.training
                    model.eval()
                    assert memory(in_eval(model, x)) == output
                    model.train(was)
                    if "wrong" in call:
                        raise ArithmeticError
            except ArithmeticError:
                pass
            expected["calls"] = count(expected["calls"])  # it counted a call without overlays
        elif call.startswith("each") and names:
            try:
                with overlays.per_sample([None, *names, *names, *names, *names][:4]):
                    in_eval(model, x, broken="wrong" in call)
            except (ArithmeticError, RuntimeError):  # or statistics belong to one of them
                pass
        state = model.state_dict()
        assert list(state) == keys
        saved = {key: memory(value) for key, value in state.items()}
        # Without overlays the model counts for itself.
        beneath = expected if overlays.on else bits(model)
        assert saved == {k: beneath[rename(k)] for k in keys}
        slow = {name: memory(p) for name, p in model.named_parameters()}
        assert slow == {name: expected[name] for name in slow}
        if not overlays.on:
            expected = bits(model)  # what happens with nothing on happens to the model beneath
            model_beneath.load_state_dict(model.state_dict())
            output = memory(model_beneath(x))
    for name in list(overlays):
        overlays[name].remove()
    assert bits(model) == expected
    assert not any(m._forward_hooks for m in model.modules())


def rename(key: str) -> str:
    return "tokens.weight" if key == "out.weight" else key  # parameters are listed once


def count(value: bytes) -> bytes:
    return (int.from_bytes(value, "little") + 1).to_bytes(8, "little")


def in_eval(model: nn.Module, x: Tensor, *, broken: bool = False) -> Tensor:
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(x, broken=broken)
    finally:
        model.train(was)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_thousand_cycles_change_no_bit(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).to(dtype)
    model.requires_grad_(False)
    expected = bits(model)
    x = torch.randn(4, 8).to(dtype)
    for i in range(250 if dtype is not torch.bfloat16 else 1000):
        overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=1 + i % 7)
        optimizer = torch.optim.SGD(overlay.parameters(), lr=0.1)
        model(x).float().square().sum().backward()
        optimizer.step()
        overlay.relax(updates=3)
        overlay.remove()
    assert bits(model) == expected
