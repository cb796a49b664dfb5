"""The example on small images made here; on MNIST itself where it is."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fastweights.files import read_json
from fastweights.tasks import Mnist, MnistSplit

FOLDER = Path(__file__).parents[2] / "examples"
SMALL = {
    "hidden": 30,
    "learning_updates": 150,
    "fast_lr": 0.02,
    "rehearsal_updates": 30,
    "fine_tuning_updates": 30,
}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import mnist_deblurring  # type: ignore[import-not-found]

    return mnist_deblurring


@pytest.fixture(scope="module")
def digits() -> Mnist:
    """Ten pictures under noise: as easy as MNIST is, and forgotten in the same way."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(10, 28, 28, generator=generator)

    def split(count: int) -> MnistSplit:
        labels = torch.arange(count) % 10
        noise = torch.randn(count, 28, 28, generator=generator)
        images = (pictures[labels] + 0.8 * noise).clamp(0, 1) * 255
        return MnistSplit(images.to(torch.uint8), labels)

    return Mnist(split(2000), split(200), split(200))


def run(example: ModuleType, digits: Mnist, **changes: Any) -> dict[str, Any]:
    settings = example.Settings(**{**SMALL, **changes})
    images = example.halves(digits.train), example.halves(digits.test)
    network: dict[str, Any] = example.Study(*images, settings, 0).run(lambda: None)
    return network


def test_the_old_come_back_and_then_the_new(example: ModuleType, digits: Mnist) -> None:
    network = run(example, digits)
    forgotten = network["forgotten"]
    assert network["before"]["old"] > 0.9
    assert forgotten["old"] < 0.1
    assert forgotten["new"] > 0.9
    assert [share["images"] for share in network["shares"].values()] == [10, 50, 100]
    for share in network["shares"].values():
        fast = share["fast weights"]
        assert fast["after"]["old"] > 0.6
        assert fast["after"]["new"] < forgotten["new"] - 0.1  # all ten outputs compete
        assert fast["slow only"] == forgotten  # to the last bit: nothing has touched them
        assert {name: values[-1] for name, values in fast["decay"].items()} == pytest.approx(
            forgotten, abs=0.011
        )
        # Without fast weights the same updates stay, and so does the harm they do.
        assert share["same updates"]["after"]["new"] < forgotten["new"] - 0.1
        assert share["replay"]["after"]["new"] > 0.9


def test_without_decay_the_same_updates_do_the_same(example: ModuleType, digits: Mnist) -> None:
    share = run(example, digits, decay=0.0)["shares"]["10%"]
    assert share["fast weights"]["course"] == share["same updates"]["course"]
    assert share["fast weights"]["decay"]["old"][-1] == share["fast weights"]["after"]["old"]


def test_the_command_writes_results_and_a_picture(
    example: ModuleType,
    digits: Mnist,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = example.Settings(**{**SMALL, "learning_updates": 5})
    monkeypatch.setattr(example, "Settings", lambda: settings)
    monkeypatch.setattr(example, "load_mnist", lambda folder, download: digits)
    example.main(["--seeds", "2", "--out", str(tmp_path)])
    results = read_json(tmp_path / "mnist-deblurring.json")
    assert [network["seed"] for network in results["networks"]] == [100, 101]
    assert results["settings"] == dataclasses.asdict(settings)
    assert results["judged on"] == "test"
    assert (tmp_path / "mnist-deblurring.png").stat().st_size > 10_000
    before = example.table(results).rows[0][2].split()[0]
    accuracies = [network["before"]["old"] for network in results["networks"]]
    assert float(before) == pytest.approx(50 * sum(accuracies), abs=0.051)
    assert before in capsys.readouterr().out


@pytest.mark.slow
def test_mnist_itself(example: ModuleType) -> None:
    if not os.environ.get("FASTWEIGHTS_DATA"):
        pytest.skip("FASTWEIGHTS_DATA names no folder with the files of MNIST")
    network = run(example, example.load_mnist(), hidden=50, learning_updates=200)
    assert network["before"]["old"] > 0.9
    assert network["forgotten"]["old"] < 0.2
    for share in network["shares"].values():
        assert share["fast weights"]["after"]["old"] > 0.8
        assert share["fast weights"]["slow only"] == network["forgotten"]
        assert share["fast weights"]["decay"]["new"][-1] == pytest.approx(
            network["forgotten"]["new"], abs=0.002
        )
