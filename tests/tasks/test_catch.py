"""Catch: the rules, one game at a time and many together, and gymnasium's own checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from fastweights.tasks.catch import LEFT, RIGHT, STAY, Catch, CatchVector  # noqa: E402


def follow(game: Catch, screen: np.ndarray, *, miss: bool = False) -> list[int]:
    """The actions that bring the paddle under the ball, or away from it, from the first screen."""
    ball = int(screen[0].argmax())
    paddle = int(screen[-1].argmax())
    if miss:
        ball = 0 if ball > game.observation_space.shape[0] // 2 else screen.shape[0] - 1
    wanted = min(ball, screen.shape[0] - 2)
    moves = [LEFT if wanted < paddle else RIGHT] * abs(wanted - paddle)
    return moves + [STAY] * (screen.shape[0] - 1 - len(moves))


@pytest.mark.parametrize(("size", "blank_after"), [(16, 3), (24, 5), (3, 1), (5, 5)])
def test_it_passes_the_checks_of_gymnasium(size: int, blank_after: int) -> None:
    for mode in ("ansi", "rgb_array"):
        options = {"size": size, "blank_after": blank_after, "render_mode": mode}
        check_env(gymnasium.make("fastweights/Catch-v0", **options).unwrapped)


@pytest.mark.parametrize(("size", "blank_after"), [(16, 3), (24, 5)])
@pytest.mark.parametrize("miss", [False, True])
def test_who_remembers_the_first_screen_can_win_or_lose(
    size: int, blank_after: int, miss: bool
) -> None:
    for seed in range(20):
        game = Catch(size, blank_after)
        screen, _ = game.reset(seed=seed)
        shown = [screen]
        for action in follow(game, screen, miss=miss):
            screen, reward, terminated, truncated, _ = game.step(action)
            shown.append(screen)
            assert reward == 0 or terminated
        assert terminated
        assert not truncated
        assert reward == (-1 if miss else 1)
        assert len(shown) == size
        assert [int(s.sum()) for s in shown] == [3] * blank_after + [0] * (size - blank_after)
        assert [int(s.argmax()) // size for s in shown[:blank_after]] == list(range(blank_after))


def test_the_paddle_stops_at_the_walls() -> None:
    game = Catch(size=4, blank_after=4)
    screen, _ = game.reset(seed=0)
    for _ in range(3):
        screen, *_ = game.step(LEFT)
    assert screen[-1, :2].tolist() == [1, 1]
    screen, _ = game.reset(seed=0)
    for _ in range(3):
        screen, *_ = game.step(RIGHT)
    assert screen[-1, 2:].tolist() == [1, 1]


def test_a_seed_decides_every_game_after_it() -> None:
    def games(seed: int) -> list[bytes]:
        game = Catch()
        first, _ = game.reset(seed=seed)
        return [first.tobytes(), *(game.reset()[0].tobytes() for _ in range(5))]

    assert games(3) == games(3)
    assert games(3) != games(4)


def test_balls_and_paddles_appear_everywhere() -> None:
    screens, _ = CatchVector(2000, size=5, blank_after=1).reset(seed=1)
    balls = np.bincount(screens[:, 0].argmax(1), minlength=5)
    paddles = np.bincount(screens[:, -1].argmax(1), minlength=4)
    assert abs(balls - 400).max() < 80
    assert abs(paddles - 500).max() < 90


def test_many_games_together_are_those_games_one_by_one() -> None:
    size, count = 6, 7
    together = CatchVector(count, size, blank_after=4)
    screens, _ = together.reset(seed=5)
    alone = [Catch(size, blank_after=4) for _ in range(count)]
    for game, screen in zip(alone, screens, strict=True):
        game.reset(seed=0)
        game._games.ball[:] = screen[0].argmax()
        game._games.paddle[:] = screen[-1].argmax()
    draws = np.random.default_rng(0)
    for _ in range(size - 1):
        actions = draws.integers(0, 3, count)
        screens, rewards, over, truncated, _ = together.step(actions)
        steps = [game.step(int(action)) for game, action in zip(alone, actions, strict=True)]
        np.testing.assert_array_equal(screens, [step[0] for step in steps])
        np.testing.assert_array_equal(rewards, [step[1] for step in steps])
        np.testing.assert_array_equal(over, [step[2] for step in steps])
        assert not truncated.any()
    assert over.all()


def test_a_game_that_is_over_begins_anew_with_the_next_step() -> None:
    games = CatchVector(3, size=4, blank_after=2)
    games.reset(seed=0)
    for _ in range(3):
        _, rewards, over, _, _ = games.step(np.full(3, STAY))
    assert over.all()
    assert (np.abs(rewards) == 1).all()
    screens, rewards, over, _, _ = games.step(np.full(3, RIGHT))
    assert not over.any()
    assert not rewards.any()
    assert screens[:, 0].sum() == 3  # the balls are at the top again


def test_gymnasium_knows_it_by_name() -> None:
    assert gymnasium.make("fastweights/Catch-v0", size=5).observation_space.shape == (5, 5)
    games = gymnasium.make_vec("fastweights/Catch-v0", num_envs=2, size=5)
    assert isinstance(games, CatchVector)
    assert games.reset(seed=0)[0].shape == (2, 5, 5)


def test_the_image_tells_what_is_no_longer_seen() -> None:
    game = Catch(size=4, blank_after=1, render_mode="rgb_array")
    game.reset(seed=0)
    before = game.render()
    game.step(STAY)
    after = game.render()
    assert before.shape == after.shape == (32, 32, 3)
    assert (before.max(), after.max()) == (255, 120)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 2}, "size must be at least 3, got 2"),
        ({"size": 5, "blank_after": 0}, "blank_after must be at least 1, got 0"),
        ({"size": 5, "blank_after": 6}, "blank_after must be at most 5, got 6"),
        ({"render_mode": "human"}, "render_mode must be one of"),
    ],
)
def test_impossible_games(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Catch(**options)


def test_impossible_actions() -> None:
    game = Catch()
    game.reset(seed=0)
    with pytest.raises(ValueError, match="action must be 0 "):
        game.step(3)
    games = CatchVector(2)
    games.reset(seed=0)
    with pytest.raises(ValueError, match="action must be 0 "):
        games.step(np.array([0, 3]))
    with pytest.raises(ValueError, match="seed must be one number"):
        games.reset(seed=[1, 2])


def test_it_is_among_the_tasks() -> None:
    from fastweights import tasks

    assert tasks.Catch is Catch
    with pytest.raises(AttributeError, match="has no attribute 'Caught'"):
        _ = tasks.Caught
