"""Every number that a layer, a baseline or a decay takes: a number, or an error that names it."""

from __future__ import annotations

import decimal
import fractions
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastweights import FastWeightsRNN, FastWeightsRNNCell, decay
from fastweights.arguments import check_flag, check_integer, check_number
from fastweights.nn import AttentionLSTM, LayerNormLSTM, LayerNormRNN, irnn
from fastweights.ops.fast_weights import Options, SlowWeights, fast_weights
from fastweights.optim import SlowFast

Make = Callable[[Any], Any]


def _in(function: Callable[..., Any], name: str, **others: Any) -> tuple[str, Make]:
    """A call with this argument; sizes are what they need be."""
    return name, lambda value: function(**{**others, name: value})


SIZES = {"input_size": 3, "hidden_size": 4}
LAYERS = (FastWeightsRNN, FastWeightsRNNCell, LayerNormRNN, LayerNormLSTM, AttentionLSTM, irnn)
PLAIN = FastWeightsRNN(**SIZES)


def _recurrence(write_rate: Any = 0.5, **options: Any) -> None:
    slow, drive = SlowWeights(torch.eye(4)), torch.ones(2, 1, 4)
    made = Options(layer_norm=False)
    fast_weights(drive, slow, decay.Exponential(0.9), write_rate, None, made, **options)


REALS: dict[str, tuple[str, Make]] = {
    **{
        f"{layer.__name__}({name}=)": _in(layer, name, **SIZES)
        for layer in (FastWeightsRNN, FastWeightsRNNCell)
        for name in ("write_rate", "memory_scale", "norm_eps", "decay")
    },
    "FastWeightsRNN(dropout=)": _in(FastWeightsRNN, "dropout", **SIZES),
    "learned write rate": _in(FastWeightsRNN, "write_rate", learn_write_rate=True, **SIZES),
    "FastWeightsRNN.reset_parameters(input_scale=)": _in(PLAIN.reset_parameters, "input_scale"),
    "FastWeightsRNN.reset_parameters(recurrent_scale=)": _in(
        PLAIN.reset_parameters, "recurrent_scale"
    ),
    "FastWeightsRNNCell.reset_parameters": _in(
        FastWeightsRNNCell(**SIZES).reset_parameters, "input_scale"
    ),
    "LayerNormRNN(norm_eps=)": _in(LayerNormRNN, "norm_eps", **SIZES),
    "LayerNormRNN.reset_parameters": _in(LayerNormRNN(**SIZES).reset_parameters, "recurrent_scale"),
    "LayerNormLSTM(norm_eps=)": _in(LayerNormLSTM, "norm_eps", **SIZES),
    "LayerNormLSTM(forget_bias=)": _in(LayerNormLSTM, "forget_bias", **SIZES),
    "irnn(identity_scale=)": _in(irnn, "identity_scale", **SIZES),
    "irnn(input_std=)": _in(irnn, "input_std", **SIZES),
    "irnn(dropout=)": _in(irnn, "dropout", num_layers=2, **SIZES),
    "Exponential": _in(decay.Exponential, "rate"),
    "Exponential learned": _in(decay.Exponential, "rate", learnable=True),
    **{
        k.__name__: _in(k, "exponent") for k in (decay.PowerLaw, decay.Factorial, decay.StepIndexed)
    },
    "SumOfExponentials(rates=)": (
        "rates",
        lambda v: decay.SumOfExponentials(shares=[0.5, 0.5], rates=[v, 0.5]),
    ),
    "SumOfExponentials(shares=)": (
        "shares",
        lambda v: decay.SumOfExponentials(shares=[v, 0.5], rates=[0.5, 0.5]),
    ),
    "Free(values=)": ("values", lambda v: decay.Free(2, values=[v])),
    "as_exponentials(tolerance=)": ("tolerance", lambda v: decay.PowerLaw().as_exponentials(v, 10)),
    "as_decay": ("decay", decay.as_decay),
    "Options(norm_eps=)": _in(Options, "norm_eps"),
}
INTEGERS: dict[str, tuple[str, Make]] = {
    **{
        f"{layer.__name__}({name}=)": _in(layer, name, **SIZES)
        for layer in LAYERS
        for name in ("input_size", "hidden_size", "num_layers")
        if (layer, name) != (FastWeightsRNNCell, "num_layers")
    },
    "FastWeightsRNN(inner_steps=)": _in(FastWeightsRNN, "inner_steps", **SIZES),
    "Options(inner_steps=)": _in(Options, "inner_steps"),
    "FastWeightsRNNCell(inner_steps=)": _in(FastWeightsRNNCell, "inner_steps", **SIZES),
    "FastWeightsRNN(proj_size=)": _in(FastWeightsRNN, "proj_size", **SIZES),
    "attention(layer=)": (
        "layer",
        lambda v: PLAIN.attention(torch.ones(2, 1, 3), layer=v),
    ),
    "Free": _in(decay.Free, "length"),
    "as_exponentials(horizon=)": ("horizon", lambda v: decay.PowerLaw().as_exponentials(0.1, v)),
}
HUGE = 10**400  # beyond what a float holds
UNPRINTABLE = 10**5000  # beyond what Python writes out
NO_NUMBERS = [True, np.True_, "0.5", None, 1j, torch.tensor(0.5), np.array(0.5), [0.5]]


@pytest.mark.parametrize("what", REALS)
def test_impossible_numbers(what: str) -> None:
    name, make = REALS[what]
    for value in (HUGE, -HUGE, UNPRINTABLE, math.nan, math.inf, -math.inf, np.float32("nan")):
        with pytest.raises(ValueError, match=f"^{name} must (be finite|lie in|be positive).*, got"):
            make(value)
    with pytest.raises(ValueError, match=f"^{name} must .*, got"):
        make(fractions.Fraction(HUGE, 7))


def test_write_rates_of_the_recurrence() -> None:
    """As of a layer, or a tensor."""
    for value in (HUGE, -HUGE, UNPRINTABLE, math.nan, math.inf, fractions.Fraction(HUGE, 7)):
        with pytest.raises(ValueError, match=r"^write_rate must be finite, got"):
            _recurrence(value)
    for value in (True, "0.5", None, 1j, np.array(0.5), [0.5], decimal.Decimal("0.5")):
        with pytest.raises(TypeError, match=r"^write_rate must be a number, got"):
            _recurrence(value)
    for value in (1, 0.5, np.float32(0.5), np.int8(1), fractions.Fraction(1, 2), torch.tensor(0.5)):
        _recurrence(value)


@pytest.mark.parametrize("name", ["lr", "momentum", "decay"])
def test_impossible_options_of_the_optimizer(name: str) -> None:
    slow = torch.optim.SGD(PLAIN.parameters(), 0.1)
    for value in (HUGE, -HUGE, UNPRINTABLE, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"^{name} must be .*, got"):
            SlowFast(slow, **{"lr": 0.1, "momentum": 0.5, "decay": 0.1, name: value})


@pytest.mark.parametrize("what", REALS)
def test_what_is_no_number(what: str) -> None:
    name, make = REALS[what]
    for value in NO_NUMBERS:
        with pytest.raises(TypeError, match=f"^{name} must be a number.*, got"):
            make(value)
    with pytest.raises(TypeError, match=f"^{name} must be a number.*, got Decimal"):
        make(decimal.Decimal("0.5"))


@pytest.mark.parametrize("what", REALS)
def test_numbers_of_any_kind(what: str) -> None:
    """0.5 is good everywhere."""
    _, make = REALS[what]
    for value in (0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5), fractions.Fraction(1, 2)):
        make(value)


@pytest.mark.parametrize("what", INTEGERS)
def test_impossible_integers(what: str) -> None:
    name, make = INTEGERS[what]
    for value in (HUGE, UNPRINTABLE, 2**63):
        with pytest.raises(ValueError, match=f"^{name} must (be at most|lie in) .*, got"):
            make(value)
    for value in (-1, -HUGE, np.int8(-3)):
        with pytest.raises(ValueError, match=f"^{name} must be at least . *, got"):
            make(value)


@pytest.mark.parametrize("what", INTEGERS)
def test_what_is_no_integer(what: str) -> None:
    name, make = INTEGERS[what]
    for value in (*NO_NUMBERS, 1.0, math.nan, np.float64(2), torch.tensor(1)):
        with pytest.raises(TypeError, match=f"^{name} must be an integer, got"):
            make(value)


@pytest.mark.parametrize("what", INTEGERS)
def test_integers_of_any_kind(what: str) -> None:
    name, make = INTEGERS[what]
    for value in (1, np.int64(1), np.uint8(1)):
        make(type(value)(0) if name in ("layer", "proj_size") else value)


def test_a_layer_of_numpy_numbers_is_that_of_python() -> None:
    def made(integer: type, number: type) -> FastWeightsRNN:
        torch.manual_seed(0)
        return FastWeightsRNN(
            integer(3), integer(4), integer(2), inner_steps=integer(2), write_rate=number(0.25),
            norm_eps=number(0.5), dropout=number(0.5), decay=number(0.5),
        )  # fmt: skip

    plain, other = made(int, float), made(np.int32, np.float32)
    x = torch.randn(5, 2, 3)
    assert torch.equal(plain.eval()(x)[0], other.eval()(x)[0])
    assert repr(plain) == repr(other)
    for name in ("input_size", "hidden_size", "num_layers", "write_rate", "norm_eps", "dropout"):
        assert type(getattr(other, name)) is type(getattr(plain, name))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["bias", "batch_first"])
def test_flags(layer: Callable[..., Any], name: str) -> None:
    if layer is FastWeightsRNNCell and name == "batch_first":
        return
    for value in (0, 1, "True", None, np.True_, torch.tensor(True)):
        with pytest.raises(TypeError, match=f"{name} must be True or False"):
            layer(**SIZES, **{name: value})
    with pytest.raises(TypeError, match="layer_norm must be True or False"):
        LayerNormLSTM(**SIZES, layer_norm=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", LAYERS)
def test_dtypes(layer: Callable[..., Any]) -> None:
    for dtype in (torch.int64, "float32", torch.complex64):
        with pytest.raises(TypeError, match=r"dtype must be a floating-point torch\.dtype"):
            layer(**SIZES, dtype=dtype)


@pytest.mark.parametrize("bad", [None, 0.5, object()])
def test_sequences_of_numbers(bad: Any) -> None:
    with pytest.raises(TypeError, match="shares must be a sequence of numbers, got"):
        decay.SumOfExponentials(bad, [0.5])
    with pytest.raises(TypeError, match="rates must be a sequence of numbers, got"):
        decay.SumOfExponentials([1.0], bad)
    if bad is not None:
        with pytest.raises(TypeError, match="values must be a sequence of numbers, got"):
            decay.Free(2, values=bad)
    with pytest.raises(TypeError, match="shares must be a number, got Tensor"):
        decay.SumOfExponentials(torch.tensor([1.0]), [0.5])  # type: ignore[arg-type]


def test_sequences_of_any_kind() -> None:
    total = decay.SumOfExponentials(np.array([0.5, 0.5]), (r for r in (0.5, 0.25)))
    assert total.shares.tolist() == [0.5, 0.5]
    assert decay.Free(3, values=np.array([0.5, 0.25])).values.tolist() == [0.5, 0.25]


def test_extreme_exponents_leave_r_a_number() -> None:
    ages = torch.arange(3.0)
    for kind in (decay.PowerLaw, decay.Factorial):
        assert kind(1e300)(ages).tolist() == [1, 0, 0]
        assert kind(5e-324)(ages).tolist() == [1, 1, 1]


def test_intervals_and_their_ends() -> None:
    assert check_number("x", 0, 0, 1) == 0.0
    assert check_number("x", 0.5, 0, 1, "()") == 0.5
    for ends, value in (("()", 0), ("()", 1), ("(]", 0), ("[)", 1), ("[]", 1.5)):
        with pytest.raises(
            ValueError, match=rf"x must lie in \{ends[0]}0, 1\{ends[1]}, got {value}"
        ):
            check_number("x", value, 0, 1, ends)
    with pytest.raises(ValueError, match="x must be finite and at least 2, got 1"):
        check_number("x", 1, 2)
    with pytest.raises(ValueError, match="x must be finite and above 2, got 2"):
        check_number("x", 2, 2, ends="()")
    with pytest.raises(ValueError, match="x must be at most 3, got 4"):
        check_integer("x", 4, 1, 3)
    with pytest.raises(ValueError, match=r"got 10000000000000000000… \(401 digits\)"):
        check_number("x", HUGE)
    with pytest.raises(ValueError, match="got a huge int"):
        check_integer("x", UNPRINTABLE)
    assert check_flag("x", False) is False
