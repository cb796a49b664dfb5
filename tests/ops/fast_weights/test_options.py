"""Options that cannot be are refused by name."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastweights.ops.fast_weights import Options

anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


def test_defaults_are_the_papers():
    options = Options()
    assert dataclasses.asdict(options) == {
        "inner_steps": 1,
        "nonlinearity": "relu",
        "layer_norm": True,
        "norm_preliminary": False,
        "norm_eps": 1e-5,
        "write": "before_read",
        "query": "preliminary",
        "memory": "hebbian",
        "detach_writes": False,
    }


@given(anything)
def test_inner_steps(value):
    if type(value) is int and value >= 0:
        assert Options(inner_steps=value).inner_steps == value
    else:
        with pytest.raises((TypeError, ValueError), match="inner_steps must be"):
            Options(inner_steps=value)


@given(anything)
def test_norm_eps(value):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and 0 < value < math.inf:
        assert Options(norm_eps=value).norm_eps == value
    else:
        with pytest.raises((TypeError, ValueError), match="norm_eps must be"):
            Options(norm_eps=value)


@given(st.sampled_from(["layer_norm", "norm_preliminary", "detach_writes"]), anything)
def test_flags(name, value):
    if value is True or value is False:
        if not (name == "layer_norm" and value is False):
            assert getattr(Options(**{name: value}), name) is value
    else:
        with pytest.raises(TypeError, match=f"{name} must be True or False"):
            Options(**{name: value})


@given(st.sampled_from(["nonlinearity", "write", "query", "memory"]), anything)
def test_names(name, value):
    with pytest.raises(ValueError, match=f"{name} must be one of '"):
        Options(**{name: value})


def test_nothing_to_normalise():
    with pytest.raises(ValueError, match="norm_preliminary=True needs layer_norm=True"):
        Options(layer_norm=False, norm_preliminary=True)
    assert Options(layer_norm=False).layer_norm is False
