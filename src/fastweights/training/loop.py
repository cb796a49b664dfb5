"""Training of one network, resumable at any moment with the same numbers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.files import append, is_there, printable, remove, write_atomically
from fastweights.tasks import batch_indices
from fastweights.training.checkpoint import (
    Carried,
    load_checkpoint,
    read_progress,
    save_checkpoint,
)
from fastweights.training.metrics import Line, lines_of
from fastweights.training.schedule import Schedule

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


class Classification:
    """A classifier's losses and accuracies on the three splits of a task.

    Args:
        model: maps inputs, such as tokens (N, T), to logits (N, classes); its parameters are
            already drawn.
        splits: what to train, validate and test on.
        batch_size: samples per update.
        seed: decides the order of the batches.
        device: where to train; the model is moved there.
    """

    def __init__(
        self, model: nn.Module, splits: Data, *, batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.model, self.splits, self.device = model.to(device), splits, device
        self._batch_size, self._seed = batch_size, seed
        self._per_epoch = len(splits.train) // batch_size
        self._batches: tuple[Tensor, ...] = ()  # of the epoch under way

    def loss(self, update: int) -> Tensor:
        """The cross-entropy of an update, counted from 0."""
        epoch, position = divmod(update, self._per_epoch)
        train = self.splits.train
        if not self._batches or position == 0:
            self._batches = batch_indices(
                len(train), self._batch_size, seed=self._seed, epoch=epoch, drop_last=True
            )
        index = self._batches[position]
        logits = self.model(train.inputs[index].to(self.device))
        return F.cross_entropy(logits, train.targets[index].to(self.device))

    def validate(self) -> dict[str, float]:
        """The validation accuracy."""
        return {"validation_accuracy": accuracy(self.model, self.splits.validation, self.device)}

    def test(self) -> dict[str, Any]:
        """The test accuracy."""
        return {"test_accuracy": accuracy(self.model, self.splits.test, self.device)}


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
    run = Classification(model, splits, batch_size=schedule.batch_size, seed=seed, device=device)
    trained = run_updates(model, run.loss, run.validate, schedule, folder=folder, writer=writer)
    validated = trained["curve"][-1]["validation_accuracy"]
    return {**run.test(), "validation_accuracy": validated, **trained}


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
        lines.append(Line.after(lines[-1:], point))
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


def _where_it_stopped(checkpoint: Path, metrics: Path) -> tuple[dict[str, Any], list[Line]]:
    """The progress and the validations of a training; of none yet where its files are damaged."""
    if is_there(checkpoint):
        try:
            progress = read_progress(checkpoint)
            return progress, lines_of(metrics, checkpoint, progress)
        except ValueError as error:
            _LOG.warning("%s", printable(f"{error}; this run is done again from its beginning"))
            remove(checkpoint)
    return {"update": 0, "seconds": 0.0}, []
