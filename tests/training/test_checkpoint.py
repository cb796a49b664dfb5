"""Checkpoints bring back model, optimizer and random state, bit for bit."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastweights.training.checkpoint import (
    load_checkpoint,
    load_model,
    read_progress,
    save_checkpoint,
)

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """An update that draws from the random state."""
    optimizer.zero_grad()
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()


def state(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(3):
        step(model, optimizer)
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model, optimizer, {"update": 3, "note": "π"})
    for _ in range(3):
        step(model, optimizer)

    other = network()
    fresh = OPTIMIZERS[name](other.parameters())
    assert load_checkpoint(path, other, fresh) == {"update": 3, "note": "π"}
    for _ in range(3):
        step(other, fresh)
    for one, two in zip(state(model), state(other), strict=True):
        assert torch.equal(one, two)


class Counts:
    """What a training carries, the simplest kind."""

    def __init__(self) -> None:
        self.held = torch.zeros(2)

    def tensors(self) -> dict[str, Tensor]:
        return {"held": self.held}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.held = tensors["held"]


def test_what_is_carried_comes_back_too(tmp_path: Path) -> None:
    model, carried = network(), Counts()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer)
    carried.held = torch.tensor([1.0, 2.0])
    save_checkpoint(tmp_path / "c", model, optimizer, {}, carried)
    other = Counts()
    load_checkpoint(tmp_path / "c", model, optimizer, other)
    assert other.held.tolist() == [1.0, 2.0]


def test_the_model_alone_and_what_stands_beside_it(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer)
    save_checkpoint(tmp_path / "c", model, optimizer, {"alphabet": "ab\n"}, Counts())
    assert read_progress(tmp_path / "c") == {"alphabet": "ab\n"}
    other, random = network(), torch.get_rng_state()
    load_model(tmp_path / "c", other)
    assert all(torch.equal(a, b) for a, b in zip(state(model), state(other), strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(ValueError, match="belongs to another model"):
        load_model(tmp_path / "c", nn.Linear(3, 4))


def test_a_parameter_without_a_gradient(tmp_path: Path) -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    optimizer = torch.optim.Adam(model.parameters())
    model[1](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "c", model, optimizer, {})
    fresh = torch.optim.Adam(model.parameters())
    load_checkpoint(tmp_path / "c", model, fresh)
    assert list(fresh.state_dict()["state"]) == [2, 3]


def test_a_checkpoint_holds_nothing_that_runs(tmp_path: Path) -> None:
    """The file is a length, JSON, and numbers."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer)
    save_checkpoint(tmp_path / "c", model, optimizer, {})
    content = (tmp_path / "c").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert set(metadata) == {"progress", "optimizer", "checksum"}
    end = max(entry["data_offsets"][1] for entry in header.values())
    assert len(content) == 8 + length + end


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    model = network()
    before = state(model)
    with pytest.raises(ValueError, match=r"c\.safetensors is not a readable checkpoint"):
        load_checkpoint(path, model, torch.optim.Adam(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before, state(model), strict=True))


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(3, 3)
    save_checkpoint(tmp_path / "c", model, torch.optim.Adam(model.parameters()), {})
    other = nn.Linear(3, 4)
    with pytest.raises(ValueError, match="belongs to another model"):
        load_checkpoint(tmp_path / "c", other, torch.optim.Adam(other.parameters()))


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    model = nn.Linear(2, 2)
    with pytest.raises(OSError, match="c"):
        save_checkpoint(tmp_path / "c", model, torch.optim.Adam(model.parameters()), {})
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
