"""Training: the same numbers after any interruption, on any schedule."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastweights.tasks import Split, Splits
from fastweights.training import loop
from fastweights.training.checkpoint import save_checkpoint
from fastweights.training.loop import accuracy, train
from fastweights.training.metrics import read_metrics, updates_to
from fastweights.training.schedule import Schedule

SCHEDULE = Schedule(
    updates=30,
    batch_size=8,
    learning_rate=1e-2,
    warmup=4,
    shape="cosine",
    gradient_clip=0.5,
    evaluate_every=6,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker; more threads only wait for each other at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Model(nn.Module):
    """Answers with the parity of the first token; dropout makes it need the random state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.drop(self.embed(tokens[:, 0])))


def splits(train: int = 50) -> Splits:
    def split(size: int, seed: int) -> Split:
        tokens = torch.randint(5, (size, 3), generator=torch.Generator().manual_seed(seed))
        return Split(tokens, tokens[:, 0] % 2)

    return Splits(split(train, 0), split(20, 1), split(30, 2))


def run(folder: Path, schedule: Schedule = SCHEDULE, **more: Any) -> tuple[dict[str, Any], Model]:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(3)
    model = Model()
    result = train(
        model,
        splits(),
        schedule,
        seed=3,
        folder=folder,
        device=torch.device("cpu"),
        **more,
    )
    result.pop("seconds")
    return result, model


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class Killed(BaseException):
    """What a kill looks like from inside: nothing handles it."""


def killing(
    monkeypatch: pytest.MonkeyPatch, name: str, nth: int, *, after: bool = False
) -> Callable[[], None]:
    """Let the ``nth`` call of a function of the loop kill the run, before or after its work."""
    calls = 0
    original = getattr(loop, name)

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not after:
            raise Killed
        value = original(*args, **kwargs)
        if calls == nth:
            raise Killed
        return value

    monkeypatch.setattr(loop, name, stand_in)
    return monkeypatch.undo


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("name", "nth"),
    [
        ("batch_indices", 1),
        ("batch_indices", 3),
        ("accuracy", 2),
        ("accuracy", 6),  # the test after the last checkpoint
        ("save_checkpoint", 1),
        ("save_checkpoint", 3),
        ("save_checkpoint", 5),
    ],
)
def test_a_killed_run_ends_with_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, nth: int, after: bool
) -> None:
    expected, network = run(tmp_path / "whole")
    undo = killing(monkeypatch, name, nth, after=after)
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    undo()
    resumed, other = run(tmp_path / "killed")
    assert resumed == expected
    assert same(network, other)
    metrics = "metrics.jsonl"
    assert (tmp_path / "killed" / metrics).read_bytes() == (
        tmp_path / "whole" / metrics
    ).read_bytes()


def test_what_was_written_after_the_checkpoint_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run(tmp_path / "whole")
    undo = killing(monkeypatch, "save_checkpoint", 3, after=True)
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    undo()
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"update": 24, "loss": 0.1, "validation_accuracy": 0.5}\n{"update": 30, "lo')
    assert run(tmp_path / "killed")[0] == expected


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metrics.jsonl", lambda content: content[: content.index(b"\n") + 1]),
        ("metrics.jsonl", lambda content: content[:-1]),
        ("metrics.jsonl", lambda content: b""),
        ("metrics.jsonl", lambda content: content.replace(b"0", b"1", 1)),
        ("metrics.jsonl", lambda content: b"[]\n" * 5),
        ("checkpoint.safetensors", lambda content: content[:-1]),
        ("checkpoint.safetensors", lambda content: content[:-1] + b"!"),
        ("checkpoint.safetensors", lambda content: b""),
    ],
)
def test_a_damaged_run_is_done_again_to_the_same_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[bytes], bytes]
) -> None:
    expected, network = run(tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(damage(path.read_bytes()))
    again, other = run(tmp_path / "run")
    assert again == expected
    assert same(network, other)
    assert str(path) in caplog.text
    assert "done again" in caplog.text


def test_a_missing_metrics_file_is_damage_too(tmp_path: Path) -> None:
    expected, _ = run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert run(tmp_path / "run")[0] == expected


def test_a_full_disk_leaves_the_run_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run(tmp_path / "whole")
    saved = 0

    def full(path: Path, *args: Any) -> None:
        nonlocal saved
        saved += 1
        if saved == 3:
            path.with_name(".checkpoint.safetensors.1.tmp").write_bytes(b"half of")
            raise OSError(28, "No space left on device")
        save_checkpoint(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", full)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "full")
    assert run(tmp_path / "full")[0] == expected


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = run(tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.safetensors").stat().st_mtime_ns
    assert run(tmp_path / "run")[0] == first
    assert (tmp_path / "run" / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    schedule = Schedule(200, 8, 2e-2, 0, "linear", 1.0, 50)
    result, model = run(tmp_path / "run", schedule)
    assert result["test_accuracy"] == 1.0
    assert result["updates"] == 200
    assert [point["update"] for point in result["curve"]] == [50, 100, 150, 200]
    assert result["curve"] == read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert result["validation_accuracy"] == result["curve"][-1]["validation_accuracy"]
    assert accuracy(model, splits().test, torch.device("cpu"), batch=7) == 1.0
    assert model.training


def test_the_last_update_is_always_validated(tmp_path: Path) -> None:
    schedule = Schedule(7, 8, 1e-2, 0, "cosine", 1.0, 5)
    assert [point["update"] for point in run(tmp_path / "run", schedule)[0]["curve"]] == [5, 7]


def test_weight_decay_pulls_on_every_parameter(tmp_path: Path) -> None:
    """AdamW's: lr · decay · p and no more, beside the same step without it."""
    runs = {}
    for decay in (0.0, 0.1):
        schedule = Schedule(1, 8, 1e-2, 0, "cosine", 1.0, 1, weight_decay=decay)
        runs[decay] = dict(run(tmp_path / str(decay), schedule)[1].named_parameters())
    torch.manual_seed(3)
    for name, start in Model().named_parameters():
        torch.testing.assert_close(runs[0.0][name] - runs[0.1][name], 1e-3 * start)
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got -1"):
        Schedule(1, 8, 1e-2, 0, "cosine", 1.0, 1, weight_decay=-1)


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    class Broken(Model):
        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens) * torch.nan

    with pytest.raises(FloatingPointError, match="nan at update 6"):
        train(
            Broken(),
            splits(),
            SCHEDULE,
            seed=0,
            folder=tmp_path,
            device=torch.device("cpu"),
        )


def test_tensorboard_gets_every_validation(tmp_path: Path) -> None:
    class Writer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, float, int]] = []

        def add_scalar(self, *row: Any) -> None:
            self.seen.append(row)

    writer = Writer()
    result, _ = run(tmp_path / "run", writer=writer)
    for point in result["curve"]:
        assert ("accuracy/validation", point["validation_accuracy"], point["update"]) in writer.seen
        assert ("loss", point["loss"], point["update"]) in writer.seen


def test_cosine() -> None:
    schedule = Schedule(100, 8, 0.1, 10, "cosine", 1.0, 50)
    rates = [schedule.rate(update) for update in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) <= 0.1
    assert rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[50] == pytest.approx(0.05)
    assert schedule.rate(100) == pytest.approx(0)


def test_linear() -> None:
    schedule = Schedule(100, 8, 0.1, 0, "linear", 1.0, 50)
    assert {schedule.rate(update) for update in range(51)} == {0.1}
    assert schedule.rate(75) == pytest.approx(0.05)
    assert schedule.rate(100) == pytest.approx(0)


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("", 0),
        ('{"update": 1}\n', 1),
        ('{"update": 1}\n{"upd', 1),
        ('{"update": 1}\n\xff\xfe', 1),
        ('{"update": 1}\n{"update": 2}', 1),
    ],
)
def test_half_a_line_of_metrics_is_left_out(tmp_path: Path, text: str, points: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(text.encode("latin-1"))
    assert read_metrics(path) == [{"update": n + 1} for n in range(points)]


def test_updates_to() -> None:
    curve = json.loads('[{"update": 5, "validation_accuracy": 0.5}]')
    assert updates_to(curve, 0.5) == 5
    assert updates_to(curve, 0.51) is None
    assert updates_to([], 0.5) is None
