"""Catch with a screen that goes blank: Ba, Hinton, Mnih, Leibo & Ionescu (2016), section 4.4.

A ball falls down a screen of N × N pixels, one row a frame, in the column where it appeared. A
paddle of two pixels in the last row moves left, stays or moves right. When the ball has come down
the episode is over: the reward is +1 if the paddle is under it, otherwise −1. After M frames the
screen is blank, so the player has to remember where ball and paddle were, and how it has moved
since. The paper plays (N, M) = (16, 3) and (24, 5).

It needs gymnasium (extra ``rl``), which knows the game as ``fastweights/Catch-v0`` once this module
is imported.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from fastweights.arguments import check_integer

__all__ = ["Catch", "CatchVector"]

LEFT, STAY, RIGHT = range(3)
PADDLE = 2  # pixels
_SCALE = 8  # pixels of an image for each of the screen


class _Games:
    """Any number of games at once, each from its beginning to its end.

    Attributes:
        frame: how many frames each game has shown, from 1, (games,).
        ball: the ball's column, (games,).
        paddle: the column of the paddle's left pixel, (games,).
    """

    def __init__(self, count: int, size: int, blank_after: int) -> None:
        self.size = check_integer("size", size, low=PADDLE + 1)
        self.blank_after = check_integer("blank_after", blank_after, low=1, high=size)
        self.frame = np.ones(count, dtype=np.int64)
        self.ball = np.zeros(count, dtype=np.int64)
        self.paddle = np.zeros(count, dtype=np.int64)

    def begin(self, which: npt.NDArray[np.bool_], random: np.random.Generator) -> None:
        """Start some of the games anew."""
        count = int(which.sum())
        self.frame[which] = 1
        self.ball[which] = random.integers(0, self.size, count)
        self.paddle[which] = random.integers(0, self.size - PADDLE + 1, count)

    def move(self, actions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bool_], npt.NDArray]:
        """One frame further: which games are over, and the rewards."""
        self.paddle = (self.paddle + actions - STAY).clip(0, self.size - PADDLE)
        self.frame += 1
        over = self.frame >= self.size
        offset = self.ball - self.paddle
        caught = (offset >= 0) & (offset < PADDLE)
        return over, np.where(over, np.where(caught, 1.0, -1.0), 0.0)

    def screens(self, *, blank: bool = True) -> npt.NDArray[np.uint8]:
        """What the players see, (games, N, N)."""
        games = np.arange(len(self.ball))
        pixels = np.zeros((len(games), self.size, self.size), dtype=np.uint8)
        pixels[games, self.frame - 1, self.ball] = 1
        for part in range(PADDLE):
            pixels[games, -1, self.paddle + part] = 1
        if blank:
            pixels[self.frame > self.blank_after] = 0
        return pixels


def _check(action: Any, space: spaces.Space) -> None:
    if not space.contains(action):
        raise ValueError(f"action must be 0 (left), 1 (stay) or 2 (right), got {action!r}")


class Catch(gymnasium.Env):
    """One game at a time.

    Args:
        size: N, rows and columns of the screen, at least 3.
        blank_after: M, how many frames are shown, 1 … N.
        render_mode: "ansi" for text, "rgb_array" for an image; both show what the player does not
            see any more in another colour or letter.

    Raises:
        ValueError: a number is out of range, or the render mode is not known.

    Example:
        >>> game = Catch(size=5, blank_after=1, render_mode="ansi")
        >>> screen, _ = game.reset(seed=0)
        >>> print(game.render())
        ····o
        ·····
        ·····
        ·····
        ··==·
        >>> for _ in range(4):
        ...     screen, reward, terminated, truncated, _ = game.step(RIGHT)
        >>> int(screen.sum()), reward, terminated
        (0, 1.0, True)
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self, size: int = 16, blank_after: int = 3, render_mode: str | None = None
    ) -> None:
        known = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in known:
            raise ValueError(f"render_mode must be one of {known} or None, got {render_mode!r}")
        self._games = _Games(1, size, blank_after)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 1, (size, size), np.uint8)
        self.action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """A new game; the first screen, (N, N)."""
        super().reset(seed=seed)
        self._games.begin(np.ones(1, dtype=bool), self.np_random)
        return self._games.screens()[0], {}

    def step(self, action: int) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move, and see the next screen, blank after M frames."""
        _check(action, self.action_space)
        over, rewards = self._games.move(np.array([action]))
        return self._games.screens()[0], float(rewards[0]), bool(over[0]), False, {}

    def render(self) -> Any:
        """The screen as text or as an image, (8 N, 8 N, 3)."""
        whole = self._games.screens(blank=False)[0]
        if self.render_mode == "rgb_array":
            seen = bool(self._games.screens().any())
            colour = np.array([255, 255, 255] if seen else [120, 120, 120], dtype=np.uint8)
            return np.kron(whole, np.ones((_SCALE, _SCALE), np.uint8))[..., None] * colour
        if self.render_mode == "ansi":
            rows = [["·" for _ in row] for row in whole]
            for part in range(PADDLE):
                rows[-1][self._games.paddle[0] + part] = "="
            rows[self._games.frame[0] - 1][self._games.ball[0]] = "o"
            return "\n".join("".join(row) for row in rows)
        return None


class CatchVector(VectorEnv):
    """Many games at once, computed together.

    A game that is over begins anew with the next step, whose action it ignores and whose reward is
    0, as gymnasium's vector environments do by default.

    Args:
        num_envs: how many games.
        size, blank_after: as :class:`Catch`.

    Example:
        >>> games = CatchVector(num_envs=3, size=5, blank_after=2)
        >>> screens, _ = games.reset(seed=0)
        >>> screens.shape
        (3, 5, 5)
        >>> for _ in range(4):
        ...     screens, rewards, over, _, _ = games.step(np.full(3, STAY))
        >>> over.tolist(), sorted(set(np.abs(rewards).tolist()))
        ([True, True, True], [1.0])
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, size: int = 16, blank_after: int = 3) -> None:
        self.num_envs = check_integer("num_envs", num_envs)
        self._games = _Games(num_envs, size, blank_after)
        self._over = np.zeros(num_envs, dtype=bool)
        self.single_observation_space = spaces.Box(0, 1, (size, size), np.uint8)
        self.single_action_space = spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """New games; their first screens, (games, N, N)."""
        if isinstance(seed, list):
            raise ValueError(f"seed must be one number for all games together, got {seed}")
        super().reset(seed=seed)
        self._over[:] = False
        self._games.begin(np.ones(self.num_envs, dtype=bool), self.np_random)
        return self._games.screens(), {}

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[
        npt.NDArray[np.uint8],
        npt.NDArray[np.float64],
        npt.NDArray[np.bool_],
        npt.NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Move in all games that are under way, and begin those anew that were over."""
        _check(actions, self.action_space)
        again = self._over
        over, rewards = self._games.move(actions)
        if again.any():
            self._games.begin(again, self.np_random)
            over, rewards = over & ~again, np.where(again, 0.0, rewards)
        self._over = over
        return self._games.screens(), rewards, over, np.zeros_like(over), {}


gymnasium.register(
    "fastweights/Catch-v0",
    entry_point="fastweights.tasks.catch:Catch",
    vector_entry_point="fastweights.tasks.catch:CatchVector",
)
