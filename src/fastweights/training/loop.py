"""Training of one network, resumable at any moment with the same numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.files import (
    append,
    is_there,
    parse_json,
    printable,
    read_bytes,
    remove,
    write_atomically,
)
from fastweights.tasks import batch_indices
from fastweights.training.checkpoint import (
    Carried,
    load_checkpoint,
    read_progress,
    save_checkpoint,
)

__all__ = [
    "Data",
    "Samples",
    "Schedule",
    "Settings",
    "accuracy",
    "read_metrics",
    "read_validations",
    "run_updates",
    "train",
    "updates_to",
]

METRICS_LIMIT = 64 * 2**20  # bytes
_LOG = logging.getLogger(__name__)


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
    goes on from its last checkpoint, or begins anew where a file is damaged; batch order and
    learning rate are functions of the update's number, so that it ends with the same numbers as
    one that was not.

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
        FloatingPointError: the loss, or what is measured, is no longer finite.
        ValueError: the checkpoint in ``folder`` is that of another training.

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
        FloatingPointError: the loss, or what is measured, is no longer finite.
        ValueError: the checkpoint in ``folder`` is that of another training.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    checkpoint, metrics = folder / "checkpoint.safetensors", folder / "metrics.jsonl"
    progress, lines = _where_it_stopped(checkpoint, metrics)
    if progress["update"]:
        load_checkpoint(checkpoint, model, optimizer, carried)
    # A file of its own, without what was written after the checkpoint, half a line perhaps.
    write_atomically(metrics, "".join(line.text for line in lines).encode())
    update, seconds = progress["update"], progress["seconds"]
    for line in lines:
        _show(line.point, writer)

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
        for name, value in point.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at update {update}")
        lines.append(_Line.after(lines[-1:], point))
        append(metrics, lines[-1].text.encode())  # the checkpoint counts on this line
        progress = {
            **about,
            "update": update,
            "lines": len(lines),
            "metrics": lines[-1].checksum,
            "seconds": seconds + time.perf_counter() - started,
        }
        save_checkpoint(checkpoint, model, optimizer, progress, carried)
        _show(point, writer)
    return {
        "updates": update,
        "seconds": round(seconds + time.perf_counter() - started, 3),
        "curve": [line.point for line in lines],
    }


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


@dataclasses.dataclass(frozen=True)
class _Line:
    """A validation in ``metrics.jsonl``, with a checksum of this line and all before it.

    Files of earlier versions have no checksums; theirs are empty here.
    """

    point: dict[str, Any]
    checksum: str
    text: str

    @classmethod
    def after(cls, before: Sequence[_Line], point: dict[str, Any]) -> _Line:
        """The next line."""
        if before and not before[-1].checksum:  # an old file stays one
            return cls(point, "", json.dumps(point) + "\n")
        checksum = cls.checksum_after(before, point)
        return cls(point, checksum, json.dumps({**point, "checksum": checksum}) + "\n")

    @staticmethod
    def checksum_after(before: Sequence[_Line], point: dict[str, Any]) -> str:
        text = (before[-1].checksum if before else "") + json.dumps(point)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_lines(path: Path) -> list[_Line]:
    """The whole lines; a last one that has no end was being written when the process was killed.

    Raises:
        ValueError: a line is damaged, or see :func:`fastweights.files.read_bytes`.
    """
    lines: list[_Line] = []
    *whole, _ = read_bytes(path, limit=METRICS_LIMIT).split(b"\n")
    for number, text in enumerate(whole, 1):
        try:
            point = parse_json(text)
            if not isinstance(point, dict):
                raise ValueError(f"expected an object, found {type(point).__name__}")
            checksum = point.pop("checksum", "")
            if (checksum or (lines and lines[-1].checksum)) and (
                checksum != _Line.checksum_after(lines[-1:], point)
            ):
                raise ValueError("it does not match its checksum")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is damaged: {error}") from error
        lines.append(_Line(point, checksum, text.decode() + "\n"))
    return lines


def _where_it_stopped(checkpoint: Path, metrics: Path) -> tuple[dict[str, Any], list[_Line]]:
    """The progress and the validations of a training; of none yet where its files are damaged."""
    if is_there(checkpoint):
        try:
            progress = read_progress(checkpoint)
            return progress, _lines_of(metrics, checkpoint, progress)
        except ValueError as error:
            _LOG.warning("%s", printable(f"{error}; this run is done again from its beginning"))
            remove(checkpoint)
    return {"update": 0, "seconds": 0.0}, []


def _lines_of(path: Path, checkpoint: Path, progress: dict[str, Any]) -> list[_Line]:
    """The lines that a checkpoint counts, each of them whole.

    Raises:
        ValueError: they are not those; the message names the file.
    """
    update, count, seconds = (progress.get(key) for key in ("update", "lines", "seconds"))
    if not (
        type(update) is int
        and type(count) is int
        and isinstance(seconds, int | float)
        and update >= count >= 1
        and seconds >= 0
    ):
        raise ValueError(
            f"{checkpoint} is not a readable checkpoint: it stands at update {update!r}, "
            f"line {count!r}, second {seconds!r}"
        )
    lines = _read_lines(path)[:count] if is_there(path) else []
    if len(lines) < count:
        raise ValueError(f"{path} has {len(lines)} whole lines, but its checkpoint counts {count}")
    last = (lines[-1].checksum, lines[-1].point.get("update"))
    if last != (progress.get("metrics", ""), update):
        raise ValueError(f"{path} is damaged, or of another run than its checkpoint")
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The points of a ``metrics.jsonl``; a last line that is not whole is left out.

    Raises:
        ValueError: a line is damaged, or the file is a link, no regular file or too long.
    """
    return [line.point for line in _read_lines(path)]


def read_validations(folder: Path, *, checksum: bool = False) -> list[dict[str, Any]]:
    """The validations of a run as far as it came, finished or not; none if it has none.

    Args:
        folder: of the run.
        checksum: refuse files without checksums, as earlier versions made them.

    Raises:
        ValueError: its metrics are damaged, or fewer than its checkpoint counts.
    """
    metrics, checkpoint = folder / "metrics.jsonl", folder / "checkpoint.safetensors"
    if is_there(checkpoint):
        _lines_of(metrics, checkpoint, read_progress(checkpoint, checksum=checksum))
    lines = _read_lines(metrics) if is_there(metrics) else []
    if checksum and not all(line.checksum for line in lines):
        raise ValueError(f"{metrics} is damaged or was altered: it has lost its checksums")
    return [line.point for line in lines]


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
