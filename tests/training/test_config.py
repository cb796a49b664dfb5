"""Configurations from the command line: what cannot be is refused with key, value and a hint."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from fastweights.training.config import (
    ConfigError,
    as_dict,
    differences,
    from_dict,
    nearest,
    with_overrides,
)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


@dataclasses.dataclass(frozen=True)
class Config:
    updates: Annotated[int, Field(ge=1)] = 100
    rate: Annotated[float, Field(gt=0)] | None = None
    schedule: Literal["cosine", "linear"] = "cosine"
    sizes: tuple[int, ...] = (50,)
    arms: tuple[str, ...] = ("a", "b")
    noisy: bool = False
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("updates=7", Config(updates=7)),
        (" updates = 7", Config(updates=7)),
        ("rate=1e-3", Config(rate=1e-3)),
        ("rate=2", Config(rate=2.0)),
        ("rate=null", Config()),
        ("schedule=linear", Config(schedule="linear")),
        ("sizes=[20, 50]", Config(sizes=(20, 50))),
        ("sizes=20,50", Config(sizes=(20, 50))),
        ("sizes=20", Config(sizes=(20,))),
        ("arms=x", Config(arms=("x",))),
        ("arms=x,y", Config(arms=("x", "y"))),
        ("noisy=true", Config(noisy=True)),
        ("optimizer.momentum=0.5", Config(optimizer=Optimizer(momentum=0.5))),
    ],
)
def test_override(override: str, expected: Config) -> None:
    changed = with_overrides(Config(), [override])
    assert changed == expected
    assert type(changed.optimizer) is Optimizer


def test_the_last_override_wins() -> None:
    assert with_overrides(Config(), ["updates=1", "noisy=true", "updates=2"]) == Config(
        updates=2, noisy=True
    )


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("udpates=3", ["'udpates'", "did you mean 'updates'?"]),
        ("optimizer.momentun=0", ["'optimizer.momentun'", "did you mean 'optimizer.momentum'?"]),
        ("updates.more=3", ["'updates.more'", "did you mean 'updates'?"]),
        ("updates", ["key=value", "'updates'"]),
        ("updates=many", ["updates", "'many'", "valid integer"]),
        ("updates=1.5", ["updates", "1.5", "valid integer"]),
        ('updates="3"', ["updates", "'3'", "valid integer"]),
        ("updates=true", ["updates", "True", "valid integer"]),
        ("updates=0", ["updates", "0", "greater than or equal to 1"]),
        ("rate=-1", ["rate", "-1", "greater than 0"]),
        ("rate=NaN", ["rate", "nan", "finite"]),
        ("rate=nan", ["rate", "'nan'", "valid number"]),
        ("rate=-Infinity", ["rate", "inf", "finite"]),
        ("optimizer.learning_rate=1e999", ["optimizer.learning_rate", "inf", "finite"]),
        ("optimizer.momentum=1", ["optimizer.momentum", "1", "less than 1"]),
        ("optimizer=3", ["optimizer", "3"]),
        ("schedule=cosin", ["schedule", "'cosin'", "'cosine' or 'linear'"]),
        ("sizes=20,x", ["sizes.1", "'x'", "valid integer"]),
        ("noisy=1", ["noisy", "1", "valid boolean"]),
    ],
)
def test_what_cannot_be_is_refused(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(Config(), [override])
    for part in parts:
        assert part in str(caught.value)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"updates: .*; rate: .*"):
        with_overrides(Config(), ["updates=x", "rate=0"])


@given(st.text(), st.text())
def test_any_override_works_or_is_refused(key: str, value: str) -> None:
    with contextlib.suppress(ConfigError):
        with_overrides(Config(), [f"{key}={value}"])


@given(st.sampled_from(["updates", "rate", "optimizer.momentum", "sizes"]), st.floats())
def test_numbers_are_taken_as_they_are_or_refused(key: str, number: float) -> None:
    try:
        changed = with_overrides(Config(), [f"{key}={json.dumps(number)}"])
    except ConfigError:
        return
    assert math.isfinite(number)
    value = {
        "updates": changed.updates,
        "rate": changed.rate,
        "optimizer.momentum": changed.optimizer.momentum,
        "sizes": changed.sizes[0],
    }[key]
    assert value == number


def test_a_stored_configuration_comes_back() -> None:
    config = Config(sizes=(1, 2), rate=0.25, optimizer=Optimizer(momentum=0))
    assert from_dict(Config, as_dict(config)) == config


@pytest.mark.parametrize("extra", [{"nwe": 1}, {"optimizer": {"nwe": 1}}])
def test_stored_keys_that_nobody_knows_are_refused(extra: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="nwe"):
        from_dict(Config, {**as_dict(Config()), **extra})


def test_differences() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == [
        "b: stored 2, now 3",
        "c: stored None, now 4",
    ]
    assert differences({"a": 1}, {"a": 1}) == []


def test_nearest_without_anything_near() -> None:
    assert nearest("zzz", ["updates"]) == "Known: updates"
