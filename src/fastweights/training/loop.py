"""Training of one network, resumable at any moment with the same numbers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.tasks import batch_indices
from fastweights.training.checkpoint import Carried, load_checkpoint, save_checkpoint
from fastweights.training.files import write_atomically

__all__ = [
    "Data",
    "Samples",
    "Schedule",
    "Settings",
    "accuracy",
    "read_metrics",
    "run_updates",
    "train",
    "updates_to",
]


class Samples(Protocol):
    """What a network is shown, samples first, and the class of each, int64, shape (N,)."""

    @property
    def inputs(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...
    def __len__(self) -> int: ...


class Data(Protocol):
    """The three splits of a task."""

    @property
    def train(self) -> Samples: ...
    @property
    def validation(self) -> Samples: ...
    @property
    def test(self) -> Samples: ...


class Settings(Protocol):
    """What the configuration of every experiment that trains says of it."""

    @property
    def updates(self) -> int: ...
    @property
    def warmup(self) -> int: ...
    @property
    def gradient_clip(self) -> float: ...
    @property
    def evaluate_every(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        updates: number of parameter updates.
        batch_size: sequences per update.
        learning_rate: its highest value.
        warmup: updates over which it rises from zero.
        shape: "cosine" (to zero) or "linear" (constant for half of the updates, then to zero).
        gradient_clip: largest norm of the gradient.
        evaluate_every: updates between validations, each followed by a checkpoint.
        weight_decay: AdamW's, on every parameter.

    Raises:
        ValueError: a count below 1, a negative weight decay, or an unknown shape.

    Example:
        >>> schedule = Schedule(updates=100, batch_size=32, learning_rate=0.01, warmup=10,
        ...                     shape="linear", gradient_clip=0.5, evaluate_every=50)
        >>> [round(schedule.rate(update), 4) for update in (0, 9, 50, 75)]
        [0.001, 0.01, 0.01, 0.005]
    """

    updates: int
    batch_size: int
    learning_rate: float
    warmup: int
    shape: str
    gradient_clip: float
    evaluate_every: int
    weight_decay: float = 0.0

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        batch_size: int,
        learning_rate: float,
        weight_decay: float = 0.0,
        shape: str = "cosine",
    ) -> Schedule:
        """A schedule with everything else as the settings have it."""
        return cls(
            updates=settings.updates,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup=settings.warmup,
            shape=shape,
            gradient_clip=settings.gradient_clip,
            evaluate_every=settings.evaluate_every,
            weight_decay=weight_decay,
        )

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if self.shape not in ("cosine", "linear"):
            raise ValueError(f'shape must be "cosine" or "linear", got {self.shape!r}')

    def rate(self, update: int) -> float:
        """The learning rate of an update, counted from 0."""
        done = update / self.updates
        fall = 0.5 * (1 + math.cos(math.pi * done)) if self.shape == "cosine" else 2 * (1 - done)
        rise = (update + 1) / self.warmup if self.warmup else 1.0
        return self.learning_rate * min(1.0, rise) * min(1.0, fall)


def accuracy(model: nn.Module, split: Samples, device: torch.device, batch: int = 2000) -> float:
    """The share of samples of a split that the model answers rightly."""
    model.eval()
    right = 0
    with torch.no_grad():
        for inputs, targets in zip(
            split.inputs.split(batch), split.targets.split(batch), strict=True
        ):
            guess = model(inputs.to(device)).argmax(-1)
            right += int((guess == targets.to(device)).sum())
    model.train()
    return right / len(split)


def train(
    model: nn.Module,
    splits: Data,
    schedule: Schedule,
    *,
    seed: int,
    folder: Path,
    device: torch.device,
    writer: Any = None,
) -> dict[str, Any]:
    """Train, validate as it goes, test at the end.

    A validation writes a line to ``metrics.jsonl`` and then a checkpoint. A run that was killed
    goes on from its last checkpoint; batch order and learning rate are functions of the update's
    number, so that it ends with the same numbers as one that was not.

    Args:
        model: maps inputs, such as tokens (N, T), to logits (N, classes); its parameters are
            already drawn.
        splits: what to train, validate and test on.
        schedule: how.
        seed: decides the order of the batches.
        folder: where ``metrics.jsonl`` and ``checkpoint.safetensors`` live.
        device: where to train.
        writer: a TensorBoard ``SummaryWriter`` of an empty folder, or None; what was measured
            before this process is written to it too.

    Returns:
        The result: test accuracy, validation accuracy, seconds of training.

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: checkpoint and metrics in ``folder`` do not belong together.

    Example:
        >>> import tempfile
        >>> from fastweights.tasks import AssociativeRetrieval
        >>> task = AssociativeRetrieval(num_pairs=2, train_size=64, validation_size=8, test_size=8)
        >>> model = nn.Sequential(nn.Embedding(37, 4), nn.Flatten(), nn.Linear(4 * 7, 10))
        >>> schedule = Schedule(updates=6, batch_size=32, learning_rate=0.01, warmup=2,
        ...                     shape="cosine", gradient_clip=0.5, evaluate_every=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = train(model, task.build(seed=0), schedule, seed=0, folder=Path(folder),
        ...                    device=torch.device("cpu"))
        >>> [point["update"] for point in result["curve"]]
        [3, 6]
    """
    model.to(device)
    per_epoch = len(splits.train) // schedule.batch_size
    batches: tuple[Tensor, ...] = ()

    def loss_of(update: int) -> Tensor:
        nonlocal batches
        epoch, position = divmod(update, per_epoch)
        if not batches or position == 0:
            size = len(splits.train)
            batches = batch_indices(
                size, schedule.batch_size, seed=seed, epoch=epoch, drop_last=True
            )
        index = batches[position]
        logits = model(splits.train.inputs[index].to(device))
        return F.cross_entropy(logits, splits.train.targets[index].to(device))

    def validate() -> dict[str, float]:
        return {"validation_accuracy": accuracy(model, splits.validation, device)}

    trained = run_updates(model, loss_of, validate, schedule, folder=folder, writer=writer)
    return {
        "test_accuracy": accuracy(model, splits.test, device),
        "validation_accuracy": trained["curve"][-1]["validation_accuracy"],
        **trained,
    }


def run_updates(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    validate: Callable[[], dict[str, float]],
    schedule: Schedule,
    *,
    folder: Path,
    writer: Any = None,
    carried: Carried | None = None,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The updates of any training, with validations and checkpoints between them.

    A validation writes a line to ``metrics.jsonl`` and then a checkpoint. If ``loss_of`` depends on
    the update's number, the random state and what is ``carried`` alone, a run that was killed ends
    with the same numbers as one that was not.

    Args:
        model: on its device; its parameters are already drawn.
        loss_of: the loss of an update, counted from 0.
        validate: what to measure, by names such as "validation_accuracy".
        schedule: how; its ``batch_size`` is the business of ``loss_of``.
        folder: where ``metrics.jsonl`` and ``checkpoint.safetensors`` live.
        writer: a TensorBoard ``SummaryWriter`` of an empty folder, or None.
        carried: what one update hands to the next beside the parameters.
        about: what the reader of a checkpoint needs to know beside them, JSON values.

    Returns:
        The number of ``updates``, ``seconds`` of training with its validations, and the ``curve``
        of all validations.

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: checkpoint and metrics in ``folder`` do not belong together.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    checkpoint, metrics = folder / "checkpoint.safetensors", folder / "metrics.jsonl"
    update, lines, seconds = 0, 0, 0.0
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, model, optimizer, carried)
        update, lines, seconds = progress["update"], progress["lines"], progress["seconds"]
    _keep_lines(metrics, lines)
    for point in read_metrics(metrics):
        _show(point, writer)

    losses: list[Tensor] = []
    started = time.perf_counter()
    while update < schedule.updates:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(update)
        loss = loss_of(update)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), schedule.gradient_clip)
        optimizer.step()
        losses.append(loss.detach())
        update += 1
        if update % schedule.evaluate_every and update < schedule.updates:
            continue
        mean_loss = float(torch.stack(losses).mean())
        losses.clear()
        if not math.isfinite(mean_loss):
            raise FloatingPointError(f"the loss is {mean_loss} at update {update}")
        point = {"update": update, "loss": mean_loss, **validate()}
        with metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the checkpoint counts on this line
        lines += 1
        so_far = seconds + time.perf_counter() - started
        progress = {**about, "update": update, "lines": lines, "seconds": so_far}
        save_checkpoint(checkpoint, model, optimizer, progress, carried)
        _show(point, writer)
    return {
        "updates": update,
        "seconds": round(seconds + time.perf_counter() - started, 3),
        "curve": read_metrics(metrics),
    }


def _keep_lines(path: Path, count: int) -> None:
    """Cut off what was written after the checkpoint, half a line perhaps.

    Raises:
        ValueError: there are fewer.
    """
    path.touch()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    if len(lines) < count:
        raise ValueError(f"{path} has {len(lines)} lines, but its checkpoint counts {count}")
    if len(lines) > count:
        text = "".join(lines[:count])
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _show(point: dict[str, Any], writer: Any) -> None:
    """A point for TensorBoard, if it is wanted."""
    if writer is None:
        return
    for name, value in point.items():
        if name.startswith("validation_"):
            writer.add_scalar(
                f"{name.removeprefix('validation_')}/validation", value, point["update"]
            )
    writer.add_scalar("loss", point["loss"], point["update"])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The points of a ``metrics.jsonl``; a last line that is not whole is left out."""
    points = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            points.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return points


def updates_to(curve: list[dict[str, Any]], level: float) -> int | None:
    """The first validated update with at least this accuracy; None if there is none.

    Example:
        >>> updates_to([{"update": 250, "validation_accuracy": 0.4},
        ...             {"update": 500, "validation_accuracy": 0.93}], 0.9)
        500
    """
    for point in curve:
        if point["validation_accuracy"] >= level:
            return int(point["update"])
    return None
