"""The glimpses experiment: networks read what they should, and verdicts follow the numbers."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastweights.experiments import glimpses
from fastweights.experiments.glimpses import (
    ARMS,
    PUBLISHED_ERRORS,
    GlimpsesConfig,
    GlimpsesStudy,
)
from fastweights.experiments.glimpses_networks import (
    Classifier,
    ConvNet,
    MultiLevel,
    attention_shares,
)
from fastweights.lab.experiment import Result
from fastweights.lab.plan import Plan
from fastweights.lab.registry import find
from fastweights.lab.sweep import Sweep, prepare_sweep
from fastweights.nn import FastWeightsRNN
from fastweights.tasks import Mnist, MnistSplit
from fastweights.tasks.glimpses import Glimpses
from fastweights.training.config import ConfigError

CONFIG = GlimpsesConfig(
    hidden_sizes=(8,), updates=6, batch_size=10, evaluate_every=3, validation_size=20, inspected=7
)
STUDY = GlimpsesStudy()


def digits(count: int, seed: int) -> MnistSplit:
    drawn = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return MnistSplit(torch.from_numpy(drawn), torch.arange(count) % 10)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def results(runs: Path) -> list[Result]:
    found = []
    with pytest.MonkeyPatch.context() as patch:
        data = Mnist(digits(60, 0), digits(20, 1), digits(20, 2))
        patch.setattr(glimpses, "load_mnist", lambda *_, **__: data)
        for unit in STUDY.units(CONFIG, 2):
            home = runs / unit.name
            home.mkdir()
            found.append(Result(unit, STUDY.run(CONFIG, unit, home, "cpu", None)))
    return found


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("arm", ARMS)
def test_every_parameter_of_a_network_is_trained(arm: str, places: bool) -> None:
    torch.manual_seed(0)
    task = Glimpses(places=places)
    model = Classifier(ARMS[arm].build(CONFIG, task.features, 8, "published"))
    split = task.split(digits(6, 0), 0, "train")
    logits = model(split.inputs)
    assert logits.shape == (6, 10)
    torch.nn.functional.cross_entropy(logits, split.targets).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def layer() -> FastWeightsRNN:
    torch.manual_seed(0)
    made = FastWeightsRNN(5, 6, decay=0.8, write_rate=0.4, form="attention", dtype=torch.float64)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def plain(made: FastWeightsRNN, x: torch.Tensor, wiped_before: set[int]) -> torch.Tensor:
    """The multi-level recurrence as a loop over a matrix."""
    own = dict(made.named_parameters())
    h, outputs = x.new_zeros(x.shape[1], 6), []
    matrix = x.new_zeros(x.shape[1], 6, 6)
    for t in range(len(x)):
        for _ in range(2 if t in wiped_before else 1):
            written = h
            matrix = 0.8 * matrix + 0.4 * written[:, :, None] * written[:, None, :]
            if t in wiped_before:
                h = torch.zeros_like(h)
        z = h @ own["weight_hh_l0"].T + x[t] @ own["weight_ih_l0"].T + own["bias_l0"]
        read = z + (matrix @ torch.relu(z)[:, :, None])[:, :, 0]
        normed = torch.nn.functional.layer_norm(
            read, (6,), own["norm_weight_l0"], own["norm_bias_l0"], made.norm_eps
        )
        h = torch.relu(normed)
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize(
    ("order", "wiped"),
    [("published", {1, 5, 7, 11, 13, 17, 19, 23}), ("fine-first", {16})],
)
def test_the_multi_level_network_is_its_loop(order: str, wiped: set[int]) -> None:
    made = layer()
    x = torch.randn(24, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(
        MultiLevel(made, order)(x)[0], plain(made, x, wiped), rtol=1e-10, atol=1e-10
    )
    assert not torch.allclose(made(x)[0], plain(made, x, wiped))


def test_the_control_is_the_network_without_its_memory() -> None:
    task = Glimpses()
    torch.manual_seed(0)
    ours = ARMS["fast-weights"].build(CONFIG, task.features, 8, "published")
    torch.manual_seed(0)
    control = ARMS["layer-norm-rnn"].build(CONFIG, task.features, 8, "published")
    assert (ours.memory, control.memory) == ("hebbian", "none")
    for one, other in zip(ours.parameters(), control.parameters(), strict=True):
        assert torch.equal(one, other)


def test_only_who_has_a_memory_tells_what_it_attends_to(results: list[Result]) -> None:
    told = {r.unit.arm for r in results if r.values and "attention" in r.values}
    assert told == {"fast-weights"}


def test_the_convolutional_network_shares_its_weights_over_quadrants() -> None:
    network = ConvNet(4)
    with torch.no_grad():
        weight = network.whole.weight
        weight.copy_(weight[:, :4].repeat(1, 4))  # blind to which quadrant is which
    x = torch.rand(24, 2, 49)
    swapped = x.unflatten(0, (4, 6))[[2, 0, 3, 1]].flatten(0, 1)
    torch.testing.assert_close(network(swapped)[0], network(x)[0])
    patches = x.clone()
    patches[[1, 2]] = x[[2, 1]]
    assert not torch.allclose(network(patches)[0], network(x)[0])


def test_attention_is_shared_out_among_the_past(results: list[Result]) -> None:
    told = [r for r in results if r.values is not None and "attention" in r.values]
    assert {r.unit.arm for r in told} == {"fast-weights"}
    shares = np.array(told[0].values["attention"])  # type: ignore[index]
    assert shares.shape == (24, 24)
    assert (np.triu(shares) == 0).all()
    totals = shares[1:].sum(1)
    assert (totals <= 1 + 1e-4).all()
    assert shares[1, 0] > 0.5  # there is nothing else to attend to


def test_attention_shares_are_those_of_the_layer() -> None:
    model = Classifier(ARMS["fast-weights"].build(CONFIG, 49, 8, "published"))
    split = Glimpses().split(digits(1, 0), 0, "test")
    weights = model.layer.attention(model.present(split.inputs))[0, 0]  # type: ignore[operator]
    shares = torch.tensor(attention_shares(model, split.inputs))
    expected = weights[10] / weights[10].sum()
    torch.testing.assert_close(shares[10, :-1], expected[1:].detach(), rtol=0, atol=1e-4)


def test_a_run_that_goes_on_ends_with_the_same_numbers(
    results: list[Result], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Mnist(digits(60, 0), digits(20, 1), digits(20, 2))
    monkeypatch.setattr(glimpses, "load_mnist", lambda *_, **__: data)
    first = results[0]
    assert first.values is not None
    again = STUDY.run(CONFIG, first.unit, runs / first.unit.name, "cpu", None)
    assert {**again, "seconds": 0} == {**first.values, "seconds": 0}


def made_up(config: GlimpsesConfig, errors: dict[tuple[str, str], float]) -> list[Result]:
    """Results with this test error in per cent by (arm, order)."""
    found = []
    for unit in STUDY.units(config, 3):
        share = 1 - errors[unit.arm, unit.options["order"]] / 100 + 1e-5 * len(found) / len(errors)
        values: dict[str, Any] = {
            "test_accuracy": share,
            "validation_accuracy": share,
            "parameters": 10,
            "learning_rate": 0.1,
            "seconds": 1.0,
        }
        found.append(Result(unit, values))
    return found


def verdicts(config: GlimpsesConfig, results: list[Result]) -> dict[str, str]:
    section = STUDY.section(config, results, Path())
    return {claim.claim: claim.verdict for claim in section.claims}


def test_errors_stand_beside_the_published_ones() -> None:
    config = GlimpsesConfig(arms=("fast-weights", "multi-level", "lstm"))
    published = {"fast-weights": 1.6, "multi-level": 1.3, "lstm": 1.55}
    found = verdicts(config, made_up(config, {(a, "published"): e for a, e in published.items()}))
    told = {words.split(", R")[0]: v for words, v in found.items() if ": test error" in words}
    assert told == {
        "fast weights": "higher error",
        "fast weights, multi-level": "agrees",
        "LSTM": "agrees",
    }
    fewer = [verdict for words, verdict in found.items() if "fewer errors" in words]
    assert fewer == ["does not hold", "holds"]


def test_what_the_memory_is_good_for_is_told() -> None:
    config = GlimpsesConfig(arms=("fast-weights", "layer-norm-rnn"))
    errors = {("fast-weights", "published"): 1.2, ("layer-norm-rnn", "published"): 1.9}
    found = verdicts(config, made_up(config, errors))
    (verdict,) = [v for words, v in found.items() if "fewer errors than the layer-norm" in words]
    assert verdict == "holds"


def test_an_order_that_matters_is_seen() -> None:
    config = GlimpsesConfig(
        arms=("fast-weights", "lstm"), orders=("published", "scrambled"), places=True
    )
    errors = {
        ("fast-weights", "published"): 1.0,
        ("fast-weights", "scrambled"): 1.1,
        ("lstm", "published"): 1.0,
        ("lstm", "scrambled"): 3.0,
    }
    found = verdicts(config, made_up(config, errors))
    order = {
        words.split(": ")[1].split(",")[0]: v for words, v in found.items() if "order" in words
    }
    assert order == {"fast weights": "holds", "LSTM": "does not hold"}
    assert not any("test error" in words for words in found)  # the paper's networks are not told


def test_the_section_shows_every_run_and_survives_failures(results: list[Result]) -> None:
    section = STUDY.section(CONFIG, results, Path())
    names = [p.name for p in section.pictures]
    assert names == ["glimpses-errors", "glimpses-attention-r8-published"]
    assert all(len(row) == len(t.columns) for t in section.tables for row in t.rows)
    assert len(section.tables[1].rows) == len(results)
    failed = STUDY.section(CONFIG, [Result(r.unit, None, "died") for r in results], Path())
    assert not failed.claims
    assert not failed.pictures
    assert failed.tables[1].rows[0][2:4] == ["failed", "died"]
    assert failed.tables[0].rows[0][3:5] == ["0/2", "failed"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("lsmt",)}, "did you mean 'lstm'"),
        ({"orders": ("fine",)}, "unknown order 'fine'"),
        ({"orders": ("random",)}, "arm 'convnet' takes the orders published, got 'random'"),
        (
            {"arms": ("multi-level",), "orders": ("scrambled",)},
            "arm 'multi-level' takes the orders .*got 'scrambled'",
        ),
        ({"hidden_sizes": (8, 8)}, "hidden_sizes must not repeat itself"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        STUDY.units(dataclasses.replace(CONFIG, **changes), 1)


def test_data_that_will_not_do_is_refused_before_any_run(tmp_path: Path) -> None:
    data = tmp_path / "mnist"
    config = dataclasses.replace(CONFIG, data=str(data))
    sweep = Sweep(Plan(STUDY, "quick", config, 1, tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"data: .*mnist holds neither train-images"):
        prepare_sweep(sweep, resume=False)
    data.mkdir()
    (data / "train-images-idx3-ubyte").write_bytes(b"images")
    with pytest.raises(ConfigError, match=r"data: .*train-images-idx3-ubyte is truncated"):
        prepare_sweep(sweep, resume=False)
    assert not sweep.base.folder.exists()


def test_presets_can_be_run() -> None:
    assert find("glimpses").name == "glimpses"
    cells = {"quick": 6, "orders": 12, "paper": 18}
    for name, preset in STUDY.presets.items():
        assert len(STUDY.units(preset(), 2)) == 2 * cells[name]
    for published in PUBLISHED_ERRORS.values():
        assert tuple(published) == STUDY.presets["paper"]().hidden_sizes


def test_learning_rates_are_those_of_the_nearest_size_tried() -> None:
    arm = ARMS["irnn"]
    rates = [arm.learning_rate_at(size) for size in (20, 50, 100, 1000)]
    assert rates == [1e-2, 1e-2, 3e-3, 3e-3]


def test_real_digits_are_learned(tmp_path: Path) -> None:
    if not os.environ.get("FASTWEIGHTS_DATA"):
        pytest.skip("FASTWEIGHTS_DATA names no folder with the files of MNIST")
    config = dataclasses.replace(
        GlimpsesConfig(),
        arms=("convnet",),
        hidden_sizes=(30,),
        updates=100,
        warmup=0,
        learning_rate=5e-3,
        validation_size=59_000,
    )
    (unit,) = STUDY.units(config, 1)
    found = STUDY.run(config, unit, tmp_path, "cpu", None)
    assert found["test_accuracy"] > 0.6
