"""Bring back a forgotten half of MNIST by rehearsing a few images of it in the fast weights.

A network learns the digits 0 to 4, then 5 to 9, and forgets the first five. We kept 1, 5 or 10 % of
the old images. How much of the old knowledge do they bring back, and what does that cost the new?

    python examples/mnist_deblurring.py --data data/mnist --download

Everything is measured on test images, with one output for each of the ten digits, all competing.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from fastweights.training.environment import environment
from mnist_deblurring_report import figure, table
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import fastweights
from fastweights.files import write_json
from fastweights.tasks import MnistSplit, load_mnist

Images = tuple[Tensor, Tensor]  # grey values (N, 784) and labels (N,)
Accuracy = dict[str, float]

SHARES = (0.01, 0.05, 0.10)
DECAY = (0, 10, 25, 50, 75, 100, 150, 200, 300, 1000)  # updates without learning


@dataclasses.dataclass(frozen=True)
class Settings:
    """Chosen on validation images with seeds 0 to 4: the best mean of old and new accuracy."""

    hidden: int = 200
    batch: int = 100
    learning_updates: int = 1000  # for each half, with Adam
    learning_lr: float = 1e-3
    replayed: int = 50  # how many images of a batch plain replay takes from the kept ones
    rehearsal_updates: int = 100
    fast_lr: float = 0.01
    decay: float = 0.01
    fine_tuning_updates: int = 10
    fine_tuning_lr: float = 0.01
    momentum: float = 0.5  # of the fast weights and of fine-tuning


# -- learning and measuring --------------------------------------------------------------------


def halves(split: MnistSplit) -> tuple[Images, Images]:
    """The images of 0 to 4, and those of 5 to 9."""
    parts = (split[split.labels < 5], split[split.labels >= 5])
    old, new = ((part.pixels().flatten(1), part.labels) for part in parts)
    return old, new


def batches(images: Images, size: int, seed: int) -> Iterator[Images]:
    """Random batches without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        index = torch.randint(len(images[1]), (size,), generator=generator)
        yield images[0][index], images[1][index]


def update(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


@torch.no_grad()
def measure(model: nn.Module, old: Images, new: Images) -> Accuracy:
    """How often the right one of all ten digits wins; "within": of the five of its own half."""
    found = {}
    for name, (x, y), start in (("old", old, 0), ("new", new, 5)):
        outputs = model(x)
        found[name] = (outputs.argmax(1) == y).double().mean().item()
        within = outputs[:, start : start + 5].argmax(1) + start
        found[f"{name} within"] = (within == y).double().mean().item()
    return found


# -- one network -------------------------------------------------------------------------------


class Study:
    """What happens to the network of one seed: it learns from ``train``, ``judged`` measures.

    Both are the images of the old digits and those of the new.
    """

    def __init__(
        self,
        train: tuple[Images, Images],
        judged: tuple[Images, Images],
        settings: Settings,
        seed: int,
    ) -> None:
        self.old, self.new = train
        self.judged, self.settings, self.seed = judged, settings, seed

    def run(self, done: Callable[[], object]) -> dict[str, Any]:
        """The accuracies at every moment; calls ``done`` after each of the shares."""
        s = self.settings
        torch.manual_seed(self.seed)
        model = nn.Sequential(nn.Linear(784, s.hidden), nn.ReLU(), nn.Linear(s.hidden, 10))
        taught = self.learn(model, self.old)
        blurred = self.learn(taught, self.new)
        stranger = self.learn(model, self.new)  # never saw an old digit
        order = torch.randperm(len(self.old[1]), generator=torch.Generator().manual_seed(self.seed))
        shares = {}
        for share in SHARES:
            chosen = order[: round(share * len(order))]
            kept = self.old[0][chosen], self.old[1][chosen]
            shares[f"{share:.0%}"] = {
                "images": len(chosen),
                "fast weights": self.rehearse(blurred, kept),
                "same updates": self.fine_tune(blurred, kept, s.fast_lr, s.rehearsal_updates),
                "fine-tuning": self.fine_tune(
                    blurred, kept, s.fine_tuning_lr, s.fine_tuning_updates
                ),
                "replay": {"after": self.accuracy(self.learn(taught, self.new, kept))},
                "stranger": self.rehearse(stranger, kept),
            }
            done()
        moments = {"before": taught, "forgotten": blurred, "stranger": stranger}
        accuracies = {name: self.accuracy(model) for name, model in moments.items()}
        return {"seed": self.seed, **accuracies, "shares": shares}

    def accuracy(self, model: nn.Module) -> Accuracy:
        return measure(model, *self.judged)

    def learn(self, model: nn.Module, images: Images, kept: Images | None = None) -> nn.Module:
        """A copy of the model that has learned the images; with kept ones, by plain replay."""
        s, model = self.settings, copy.deepcopy(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=s.learning_lr)
        replayed = s.replayed if kept else 0
        fresh = batches(images, s.batch - replayed, self.seed)
        old = batches(kept or images, replayed, self.seed + 1)
        for _ in range(s.learning_updates):
            x, y = (torch.cat(pair) for pair in zip(next(fresh), next(old), strict=True))
            update(model, optimizer, x, y)
        return model

    def rehearse(self, model: nn.Module, kept: Images) -> dict[str, Any]:
        """Fast weights learn the kept images over frozen slow ones; then they decay."""
        s, model = self.settings, copy.deepcopy(model)
        slow = torch.optim.SGD(model.parameters())  # for learning that is to stay: none, here
        optimizer = fastweights.SlowFast(slow, lr=s.fast_lr, momentum=s.momentum, decay=s.decay)
        with optimizer.rehearsal():
            course = self.course(model, optimizer, kept, s.rehearsal_updates)
        with optimizer.slow_only():  # a look at what lies under the overlay
            beneath = self.accuracy(model)
        decay = [self.accuracy(model)]
        for earlier, later in pairwise(DECAY):
            optimizer.relax(later - earlier)
            decay.append(self.accuracy(model))
        return {**course, "slow only": beneath, "decay": by_name(decay)}

    def fine_tune(self, model: nn.Module, kept: Images, lr: float, updates: int) -> dict[str, Any]:
        """The kept images change the weights themselves."""
        model = copy.deepcopy(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=self.settings.momentum)
        return self.course(model, optimizer, kept, updates)

    def course(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, kept: Images, updates: int
    ) -> dict[str, Any]:
        """Learn the kept images, and measure on the way."""
        times, rows = [0], [self.accuracy(model)]
        stream = islice(batches(kept, self.settings.batch, self.seed), updates)
        for n, (x, y) in enumerate(stream, start=1):
            update(model, optimizer, x, y)
            if n in (1, 2, 5, 10, 20, 50, updates):
                times.append(n)
                rows.append(self.accuracy(model))
        return {"updates": times, "course": by_name(rows), "after": rows[-1]}


def by_name(rows: list[Accuracy]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


# -- all networks ------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of MNIST; default: $FASTWEIGHTS_DATA/mnist")
    parser.add_argument("--download", action="store_true", help="fetch the files that are missing")
    parser.add_argument("--seeds", type=int, default=10, help="how many networks (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder (default: runs)")
    parser.add_argument(
        "--validation",
        action="store_true",
        help="the images and seeds that the settings were chosen on",
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")

    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # for networks of this size more are no quicker
    data = load_mnist(options.data, download=options.download)
    judged, first_seed = (data.validation, 0) if options.validation else (data.test, 100)
    train, judged_halves = halves(data.train), halves(judged)
    results: dict[str, Any] = {
        "judged on": "validation" if options.validation else "test",
        "settings": dataclasses.asdict(Settings()),
        "decay": DECAY,
        "environment": environment(),
        "networks": [],
    }
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("networks", total=options.seeds * len(SHARES))
        for seed in range(first_seed, first_seed + options.seeds):
            study = Study(train, judged_halves, Settings(), seed)
            results["networks"].append(study.run(lambda: progress.advance(task)))
            write_json(options.out / "mnist-deblurring.json", results)
    figure(results).savefig(options.out / "mnist-deblurring.png", dpi=150)
    found = table(results)
    shown = Table(*found.columns, title=found.caption)
    for row in found.rows:
        shown.add_row(*row)
    Console().print(shown)
    print(f"Written to {options.out}: mnist-deblurring.json and .png")


if __name__ == "__main__":
    main()
