"""An agent that plays Catch after the screen has gone blank: Ba et al. (2016), section 4.4.

The paper trains agents with advantage actor–critic, whose recurrent layer is fast weights or an
LSTM, and shows learning curves, of which no numbers are to be had. Here: a screen is embedded by
one rectified layer, a recurrent layer reads the embeddings, and two linear maps give the policy and
the value. An update plays one episode in many games at once, which all have the same length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.lab.curves import Curves, Panel, updates, validated
from fastweights.lab.experiment import Result, Unit
from fastweights.lab.findings import PARAMETERS, SECONDS, Column, Contrast, by_seed
from fastweights.lab.study import Arm, Run, Study
from fastweights.nn import FastWeightsRNN
from fastweights.report.figures import DOTTED, draw_level, new_figure
from fastweights.report.section import Picture
from fastweights.report.verdicts import BOUND_RULE, Bound
from fastweights.tasks.catch import CatchVector
from fastweights.training.config import (
    ConfigError,
    Count,
    Fraction,
    Natural,
    NotNegative,
    Rate,
    Seed,
)
from fastweights.training.schedule import Schedule

LEVEL = 0.95  # balls caught, by an agent that has learned the game


@dataclasses.dataclass(frozen=True)
class CatchConfig:
    """Settings; chosen on seeds below 300.

    Seeds are ``first_seed``, ``first_seed`` + 1, …. ``size`` and ``blank_after`` are the game's N
    and M. An update plays ``games`` games. Where ``learning_rate`` is None, each arm has its own.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)] = (
        "fast-weights",
        "layer-norm-rnn",
        "lstm",
        "gru",
        "frames",
    )
    size: Annotated[int, Field(ge=3, le=64)] = 16
    blank_after: Count = 3
    hidden_size: Annotated[int, Field(ge=2, le=1024)] = 64
    first_seed: Seed = 300
    updates: Count = 4_000
    games: Annotated[int, Field(ge=2, le=4096)] = 32
    learning_rate: Rate | None = None
    warmup: Natural = 50
    gradient_clip: Rate = 0.5
    evaluate_every: Count = 100
    test_games: Annotated[int, Field(ge=2, le=100_000)] = 1_000
    discount: Fraction = 0.98
    entropy: NotNegative = 0.01
    decay: Fraction = 0.95
    write_rate: Rate = 0.1


class Frames(nn.Module):
    """No memory but the last four embeddings, side by side, and a rectified layer.

    Args:
        inputs: size of an embedding.
        hidden_size: outputs.
        frames: how many embeddings.
    """

    def __init__(self, inputs: int, hidden_size: int, frames: int = 4) -> None:
        super().__init__()
        self.hidden_size, self.frames = hidden_size, frames
        self.join = nn.Linear(frames * inputs, hidden_size)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (L, N, H) for embeddings (L, N, inputs); the state is the last of them."""
        if state is None:
            state = x.new_zeros(self.frames - 1, *x.shape[1:])
        seen = torch.cat([state, x])
        windows = [seen[k : k + len(x)] for k in range(self.frames)]
        return torch.relu(self.join(torch.cat(windows, -1))), seen[len(seen) - self.frames + 1 :]


Build = Callable[[CatchConfig, int], nn.Module]


def _fast_weights(memory: str) -> Build:
    return lambda config, inputs: FastWeightsRNN(
        inputs, config.hidden_size, decay=config.decay, write_rate=config.write_rate, memory=memory
    )


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "fast-weights": Arm("fast weights", _fast_weights("hebbian"), 2e-3),
        "layer-norm-rnn": Arm("layer-norm RNN", _fast_weights("none"), 2e-3),
        "lstm": Arm("LSTM", lambda config, inputs: nn.LSTM(inputs, config.hidden_size), 2e-3),
        "gru": Arm("GRU", lambda config, inputs: nn.GRU(inputs, config.hidden_size), 2e-3),
        "frames": Arm(
            "four frames", lambda config, inputs: Frames(inputs, config.hidden_size), 2e-3
        ),
    }
)


class Agent(nn.Module):
    """A screen's embedding, a recurrent layer, and the policy and value read from its output.

    Args:
        layer: recurrent, (L, N, H) and a state to (L, N, H) and a state.
        size: N of the game.
        hidden_size: H.
    """

    def __init__(self, layer: nn.Module, size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(size * size, hidden_size)
        self.layer = layer
        self.policy = nn.Linear(hidden_size, 3)
        self.value = nn.Linear(hidden_size, 1)

    def embed(self, screens: Tensor) -> Tensor:
        """What the layer sees of screens (L, N, size, size), (L, N, H)."""
        dtype = self.embedding.weight.dtype
        return torch.relu(self.embedding(screens.flatten(2).to(dtype)))

    def forward(self, screens: Tensor, state: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Logits of the actions (L, N, 3), values (L, N), and the state to go on from."""
        hidden, state = self.layer(self.embed(screens), state)
        return self.policy(hidden), self.value(hidden)[..., 0], state


@dataclasses.dataclass(frozen=True)
class Episode:
    """What games of the same length showed, what was done and what came of it.

    Attributes:
        screens: (T, games, N, N).
        actions: (T, games).
        rewards: after each action, (T, games).
    """

    screens: Tensor
    actions: Tensor
    rewards: Tensor

    @property
    def caught(self) -> Tensor:
        """Whether each ball was caught, (games,)."""
        return self.rewards[-1] > 0


def play(
    agent: Agent, config: CatchConfig, seed: Sequence[int], games: int, *, greedy: bool
) -> Episode:
    """One episode in many games.

    Args:
        agent: who plays, a step at a time with its state carried.
        config: the game's size, and when it goes blank.
        seed: decides balls and paddles.
        games: how many.
        greedy: take the likeliest action; otherwise draw it from torch's random state.
    """
    device = agent.value.weight.device
    vector = CatchVector(games, config.size, config.blank_after)
    screen, _ = vector.reset(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
    state: Any = None
    screens, actions, rewards = [], [], []
    with torch.no_grad():
        for _ in range(config.size - 1):
            screens.append(torch.from_numpy(screen).to(device))
            logits, _, state = agent(screens[-1][None], state)
            if greedy:
                action = logits[0].argmax(-1)
            else:
                action = torch.multinomial(logits[0].softmax(-1), 1)[:, 0]
            screen, reward, _, _, _ = vector.step(action.cpu().numpy())
            actions.append(action)
            rewards.append(torch.from_numpy(reward).to(device, torch.get_default_dtype()))
    return Episode(torch.stack(screens), torch.stack(actions), torch.stack(rewards))


class CatchRun(Run):
    """An agent in training by advantage actor–critic: an update is an episode in many games."""

    def __init__(self, config: CatchConfig, arm: Arm, unit: Unit, device: torch.device) -> None:
        self.config, self.seed = config, unit.seed or 0
        layer = arm.build(config, config.hidden_size)
        self.model: Agent = Agent(layer, config.size, config.hidden_size).to(device)
        self.schedule = Schedule.of(
            config,
            batch_size=config.games,
            learning_rate=config.learning_rate or arm.learning_rate_at(config.hidden_size),
        )

    def loss(self, update: int) -> Tensor:
        config = self.config
        episode = play(self.model, config, (self.seed, 0, update), config.games, greedy=False)
        logits, values, _ = self.model(episode.screens)
        steps = torch.arange(len(episode.rewards), device=values.device)
        left = config.discount ** (len(steps) - 1 - steps).to(values.dtype)
        returns = left[:, None] * episode.rewards[-1]  # nothing is paid before the end
        chosen = -F.cross_entropy(logits.flatten(0, 1), episode.actions.flatten(), reduction="none")
        advantage = (returns - values).detach()
        policy = -(chosen.view_as(advantage) * advantage).mean()
        spread = torch.distributions.Categorical(logits=logits).entropy().mean()
        return policy + 0.5 * (returns - values).square().mean() - config.entropy * spread

    def validate(self) -> dict[str, float]:
        return {"validation_accuracy": self._caught(1)}

    def test(self) -> dict[str, Any]:
        found: dict[str, Any] = {"test_accuracy": self._caught(2)}
        layer = self.model.layer
        if isinstance(layer, FastWeightsRNN) and layer.memory == "hebbian":
            found["attention"] = self._attention(layer)
        return found

    def _caught(self, split: int) -> float:
        """The share of balls caught in games of one of the splits, by the likeliest actions."""
        games = self.config.test_games
        episode = play(self.model, self.config, (self.seed, split), games, greedy=True)
        return float(episode.caught.double().mean())

    def _attention(self, layer: FastWeightsRNN) -> list[list[float]]:
        """How each step's attention is shared out among the frames before it, (T, T)."""
        games = self.config.test_games
        episode = play(self.model, self.config, (self.seed, 2), games, greedy=True)
        with torch.no_grad():
            weights = layer.attention(self.model.embed(episode.screens))[:, -1].clamp(min=0)
        shares = (weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)).mean(0)
        # Column m of the weights is the vector after frame m − 1.
        rows = torch.cat([shares[:, 1:], shares.new_zeros(len(shares), 1)], 1).tolist()
        return [[round(share, 5) for share in row] for row in rows]


class Catch(Study):
    """The study; ``quick`` is the smaller of the paper's games, ``large`` the other."""

    name = "catch"
    title = "Catch, with a screen that goes blank"
    summary = "An agent has to remember where the ball was. Ba et al. (2016), section 4.4"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {
            "quick": CatchConfig,
            "large": lambda: CatchConfig(size=24, blank_after=5, updates=8_000, evaluate_every=200),
        }
    )
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "large": 5})
    arms, runs = ARMS, CatchRun

    def check(self, config: CatchConfig) -> None:
        if config.blank_after > config.size:
            raise ConfigError(
                f"blank_after must be at most size = {config.size}, got {config.blank_after}"
            )

    def heading(self, config: CatchConfig) -> str:
        return f"{self.title}: N = {config.size}, M = {config.blank_after}"

    def intro(self, config: CatchConfig) -> str:
        return (
            f"A ball falls down a screen of {config.size} × {config.size} pixels; a paddle of two "
            f"pixels has to be under it at the end. After {config.blank_after} frames the screen "
            "is blank. Agents learn by advantage actor–critic, and differ in their memory alone."
        )

    def caption(self, config: CatchConfig) -> str:
        return (
            "Balls caught in test games, in per cent, and updates until "
            f"{100 * LEVEL:.0f} % of validation games are won: means over seeds with 95 % "
            "bootstrap intervals; a seed that does not get there counts with all its updates."
        )

    def columns(self, config: CatchConfig) -> list[Column]:
        return [
            Column("caught %", "test_accuracy", scale=100, digits=1),
            Column(f"updates to {100 * LEVEL:.0f} %", _updates_to_level, digits=0),
            PARAMETERS,
            SECONDS,
        ]

    def run_columns(self, config: CatchConfig) -> list[Column]:
        return [
            Column("validation", "validation_accuracy", scale=100, form="{:.1f}"),
            Column("test", "test_accuracy", scale=100, form="{:.1f}"),
            SECONDS,
        ]

    def contrasts(self, config: CatchConfig) -> list[Contrast]:
        rows = []
        for arm in config.arms:
            if arm == "fast-weights":
                continue
            other = f"N = {config.size}: fast weights {{}} the agent with {ARMS[arm].label}; "
            rows += [
                Contrast(
                    other.format("catch more balls than") + "points (≥ 0)",
                    "fast-weights",
                    arm,
                    "test_accuracy",
                    published="curves only" if arm == "lstm" else "—",
                    scale=100,
                ),
                Contrast(
                    other.format("learn the game sooner than")
                    + f"updates to {100 * LEVEL:.0f} % of the balls, difference (≤ 0)",
                    "fast-weights",
                    arm,
                    _updates_to_level,
                    Bound(at_most=0),
                    published="sooner" if arm == "lstm" else "—",
                    digits=0,
                ),
            ]
        return rows

    def pictures(self, config: CatchConfig, results: Sequence[Result]) -> list[Picture]:
        prefix = f"{self.name}-n{config.size}"
        labels = ", ".join(ARMS[arm].label for arm in config.arms)
        curves = Curves(
            f"{prefix}-curves",
            f"Balls caught against updates, the mean over seeds with its interval, for {labels}.",
            "Balls caught in validation games while the agents learn: the mean over seeds with its "
            "95 % interval.",
            [
                Panel(
                    updates,
                    validated("validation_accuracy", 100),
                    {"xlabel": "updates", "ylabel": "balls caught (%)", "ylim": (0, 102)},
                )
            ],
            means=True,
        )
        found = [curves.picture(self, config.arms, results)]
        seen = [
            values["attention"]
            for values in by_seed(results, "fast-weights").values()
            if "attention" in values
        ]
        return [*found, _attention(np.mean(seen, 0), config, prefix)] if seen else found

    def notes(self, config: CatchConfig) -> list[str]:
        return [
            BOUND_RULE,
            f"{config.updates:,} updates, each an episode of {config.size - 1} steps in "
            f"{config.games} games; all layers have {config.hidden_size} units. Validation and "
            f"test: {config.test_games:,} games each, played with the likeliest action. The paper "
            "shows curves and no numbers.",
        ]


def _updates_to_level(values: Mapping[str, Any]) -> float:
    """Updates until an agent had learned the game; all of them if it never did."""
    reached = [p["update"] for p in values["curve"] if p["validation_accuracy"] >= LEVEL]
    return reached[0] if reached else values["updates"]


def _attention(shares: np.ndarray, config: CatchConfig, prefix: str) -> Picture:
    figure = new_figure(6.4, 5.2)
    axes = figure.add_subplot()
    past = np.tril(np.ones_like(shares, dtype=bool), -1)
    image = axes.imshow(np.where(past, shares, np.nan), cmap="viridis", vmin=0)
    figure.colorbar(image, ax=axes, label="share of what is read", shrink=0.8)
    edge = config.blank_after - 0.5
    axes.axvline(edge, color="0.35", linewidth=1, linestyle=DOTTED)
    draw_level(axes, edge)
    axes.set(xlabel="state after this frame", ylabel="while this frame is seen")
    return Picture(
        f"{prefix}-attention",
        figure,
        "A triangle: how the attention of each step is shared out among the states after earlier "
        "frames; the screen is blank beyond the dotted lines.",
        "What the agent with fast weights attends to: each row is a step, colours are the shares "
        "of the states after earlier frames in what it reads, a mean over test games and seeds. "
        "Dotted: where the screen goes blank.",
    )
