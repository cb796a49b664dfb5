"""r(k) against its formula in plain Python, and the promises every decay makes."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastweights.decay import (
    Decay,
    Exponential,
    Factorial,
    Free,
    PowerLaw,
    StepIndexed,
    SumOfExponentials,
    as_decay,
)
from tests.tolerances import assert_close

exponents = st.floats(0.01, 5.0)
rates = st.floats(0.0, 1.0)
learnable = st.booleans()
AGES = torch.arange(20, dtype=torch.float64)
STATIONARY = [Exponential, PowerLaw, Factorial, Free]


def _make(kind, *, learnable=False):
    return kind(8, learnable=learnable) if kind is Free else kind(0.7, learnable=learnable)


def _check(decay, formula, relative=1e-12):
    with torch.no_grad():
        r = decay.double()(AGES)
    expected = torch.tensor([formula(int(k)) for k in AGES], dtype=torch.float64)
    assert r[0] == 1
    assert ((r - expected).abs() <= relative * expected.abs().clamp(min=1e-300)).all()


@given(rates)
def test_exponential(rate):
    _check(Exponential(rate), lambda k: rate**k, 1e-10)


@given(exponents)
def test_power_law(exponent):
    _check(PowerLaw(exponent), lambda k: (k + 1) ** -exponent)


@given(exponents)
def test_factorial(exponent):
    _check(
        Factorial(exponent),
        lambda k: math.prod(j**-exponent for j in range(1, k + 2)),
        1e-10,
    )


@given(st.lists(st.floats(-2, 2, width=32), max_size=12))
def test_free(values):
    decay = Free(len(values) + 1, values=values)
    _check(decay, lambda k: [1.0, *values][k] if k <= len(values) else 0.0)
    assert decay.horizon == len(values) + 1


def test_free_starts_as_an_exponential():
    assert_close(Free(6)(torch.arange(6)), 0.95 ** torch.arange(6.0))


@given(exponents, st.integers(0, 30), st.integers(0, 30))
def test_step_indexed(exponent, written, gap):
    """√(s!/t!) for exponent ½: the product of the factors between the two steps."""
    decay, read = StepIndexed(exponent), written + gap
    r = decay.between(torch.tensor(written), torch.tensor(read)).item()
    expected = math.prod(t**-exponent for t in range(max(written, 0) + 1, read + 1))
    assert r == pytest.approx(expected, rel=1e-10)
    if gap:
        before = decay.between(torch.tensor(written), torch.tensor(read - 1)).item()
        left = decay.remaining(torch.tensor(read - 1), torch.tensor(read)).item()
        assert before * left == pytest.approx(r, rel=1e-10)
    assert (expected == 1.0) == (gap == 0 or read == 1)


@pytest.mark.parametrize("kind", [Exponential, PowerLaw, Factorial, StepIndexed])
@given(data=st.data())
def test_learnable_starts_where_it_was_asked_to(kind, data):
    start = data.draw(st.floats(0.01, 0.99) if kind is Exponential else exponents)
    fixed, learned = kind(start), kind(start, learnable=True)
    assert not list(fixed.parameters())
    assert len(list(learned.parameters())) == 1
    written, read = torch.tensor([0, 1, 4]), torch.tensor(6)
    with torch.no_grad():
        a, b = fixed.between(written, read), learned.between(written, read)
    # the parameter is a float32 logarithm
    assert ((a - b).abs() <= 1e-4 * a + 1e-12).all()


@pytest.mark.parametrize("kind", [Exponential, PowerLaw, Factorial, StepIndexed, Free])
def test_gradients_of_learned_parameters(kind):
    decay = _make(kind, learnable=True).double()
    written, read = torch.tensor([1, 3, 6]), torch.tensor(6)

    def r(*_):
        return decay.between(written, read)

    assert torch.autograd.gradcheck(r, tuple(decay.parameters()))


@pytest.mark.parametrize("kind", [Exponential, PowerLaw, Factorial, StepIndexed])
@pytest.mark.parametrize("where", [-1e30, -1e4, -100.0, 100.0, 1e4, 1e30])
def test_however_far_the_optimizer_goes_r_stays_valid(kind, where):
    decay = _make(kind, learnable=True)
    (parameter,) = decay.parameters()
    with torch.no_grad():
        parameter.fill_(where)
    r = decay.between(torch.arange(10), torch.tensor(9))
    assert r.isfinite().all()
    assert r[-1] == 1
    assert ((r >= 0) & (r <= 1)).all()
    r.sum().backward()
    assert parameter.grad.isfinite()
    value = decay.rate if kind is Exponential else decay.exponent
    assert 0 <= value.item() < math.inf


@pytest.mark.parametrize("kind", STATIONARY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("learnable", [False, True])
def test_table_between_and_call_agree(kind, dtype, learnable):
    decay = _make(kind, learnable=learnable).to(dtype)
    table = decay.table(12, dtype=dtype, device=torch.device("cpu"))
    assert table.dtype == dtype
    assert table.shape == (12,)
    ages = torch.arange(12)
    assert_close(table, decay(ages.double()))
    assert_close(table, decay.between(100 - ages, torch.tensor(100)))
    assert_close(decay(ages.to(dtype)), table.double())
    assert decay(ages.reshape(3, 4)).shape == (3, 4)


def test_dtype_of_the_ages_is_that_of_r():
    decay = PowerLaw()
    assert decay(torch.arange(3)).dtype == torch.get_default_dtype()
    assert decay(torch.arange(3, dtype=torch.int8)).dtype == torch.get_default_dtype()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert decay(torch.arange(3, dtype=dtype)).dtype == dtype
    assert decay(torch.tensor([])).shape == (0,)


@pytest.mark.parametrize("kind", STATIONARY)
def test_negative_ages_are_refused(kind):
    with pytest.raises(ValueError, match="ages must be non-negative, got a minimum of -2"):
        _make(kind)(torch.tensor([1, -2]))


@pytest.mark.parametrize("kind", STATIONARY)
def test_where_ages_cannot_be_looked_at_they_are_believed(kind):
    decay, ages = _make(kind), torch.arange(6.0).reshape(2, 3)
    assert_close(torch.vmap(decay)(ages), decay(ages))
    assert decay.to("meta")(ages.to("meta")).shape == (2, 3)


def test_the_matrix_form_asks_who_can_be_carried():
    assert Exponential().recurrent
    assert StepIndexed().recurrent
    for kind in (PowerLaw, Factorial, Free):
        assert not _make(kind).recurrent
        with pytest.raises(TypeError, match=f"{kind.__name__} cannot be carried.*attention"):
            _make(kind).remaining(torch.tensor(0), torch.tensor(1))
    left = Exponential(0.3).remaining(torch.tensor([4, 7]), torch.tensor([5, 9]))
    assert_close(left, torch.tensor([[0.3], [0.09]], dtype=torch.float64))
    for decay in (Exponential(), StepIndexed()):
        assert decay.write_shares().tolist() == [1.0]


def test_step_indexed_is_no_function_of_age():
    decay = StepIndexed()
    assert not decay.stationary
    with pytest.raises(TypeError, match=r"call between\(written, read\)"):
        decay(torch.arange(3))
    with pytest.raises(TypeError, match="no table by age"):
        decay.table(3, dtype=torch.float32, device=torch.device("cpu"))
    assert (
        decay.remaining(torch.tensor(-1), torch.tensor(0)).item() == 1
    )  # nothing has been written yet


@pytest.mark.parametrize("kind", [Exponential, PowerLaw, Factorial, StepIndexed, Free])
@pytest.mark.parametrize("learnable", [False, True])
def test_reset_copy_and_save(kind, learnable, recwarn):
    decay = _make(kind, learnable=learnable)
    start = copy.deepcopy(decay).state_dict()
    assert repr(decay).startswith(kind.__name__)
    assert not recwarn.list
    with torch.no_grad():
        for parameter in decay.parameters():
            parameter.add_(0.3)
    file = io.BytesIO()
    torch.save(decay.state_dict(), file)
    file.seek(0)
    other = _make(kind, learnable=learnable)
    other.load_state_dict(torch.load(file, weights_only=True))
    written, read = torch.arange(5), torch.tensor(5)
    assert torch.equal(other.between(written, read), decay.between(written, read))
    decay.reset_parameters()
    for name, value in start.items():
        assert torch.equal(decay.state_dict()[name], value)


shares_and_rates = st.lists(
    st.tuples(st.floats(0.125, 1, width=16), st.floats(0.03125, 1, width=16)),
    min_size=1,
    max_size=5,
)


@given(shares_and_rates, st.integers(0, 50), st.integers(0, 50))
def test_sums_of_exponentials(pairs, written, gap):
    total = math.fsum(share for share, _ in pairs)
    shares, rates = [share / total for share, _ in pairs], [rate for _, rate in pairs]
    decay = SumOfExponentials(shares, rates)

    def r(k):
        return math.fsum(share * rate**k for share, rate in zip(shares, rates, strict=True))

    ages = torch.arange(20, dtype=torch.float64)
    assert_close(decay(ages), torch.tensor([r(k) for k in range(20)], dtype=torch.float64))
    # The matrices together are the sum over memories.
    since, now = torch.tensor([written, 0]), torch.tensor([written + gap, gap])
    left = decay.remaining(since, now)
    assert left.shape == (2, decay.components)
    assert_close(left @ decay.write_shares(), decay.between(since, now))
    assert decay.between(since, now)[0].item() == pytest.approx(r(gap), rel=1e-10)


def test_slow_exponentials_keep_their_digits_in_single_precision():
    decay = SumOfExponentials([1.0], [1 - 1e-6])
    expected = decay(torch.tensor([1e6], dtype=torch.float64))
    assert_close(decay.float().between(torch.tensor(0), torch.tensor([10**6])).float(), expected)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("tolerance", "horizon"), [(1e-3, 100_000), (0.05, 1000), (1e-4, 1)])
def test_a_power_law_as_exponentials(exponent, tolerance, horizon):
    """At every age up to the horizon, not only where the fit looked."""
    exact = PowerLaw(exponent)
    total = exact.as_exponentials(tolerance, horizon)
    ages = torch.arange(horizon + 1, dtype=torch.float64)
    assert (total(ages) / exact(ages) - 1).abs().max() <= tolerance
    assert total(ages[:1]).item() == pytest.approx(1, abs=1e-9)
    assert total.components <= 26
    if exponent == 0.5 and horizon == 100_000:
        assert total.components == 13


def test_the_same_power_law_gives_the_same_bits_every_time():
    sums = [PowerLaw(0.7).as_exponentials(0.05, 100) for _ in range(20)]
    assert len({(*s.shares.tolist(), *s.speeds.tolist()) for s in sums}) == 1


def test_a_learned_power_law_gives_what_it_has_learned():
    decay = PowerLaw(0.3, learnable=True)
    total = decay.as_exponentials(0.01, 100)
    ages = torch.arange(101, dtype=torch.float64)
    assert (total(ages) / PowerLaw(0.3)(ages) - 1).abs().max() <= 0.011
    assert not list(total.parameters())


def test_impossible_sums_of_exponentials():
    for shares, rates, message in [
        ([], [], "at least one, got 0 and 0"),
        ([1.0], [0.5, 0.5], "as many, and at least one, got 1 and 2"),
        ([0.5, 0.4], [0.5, 0.5], "add up to 1, got 0.9"),
        ([1.0], [0.0], r"rates must lie in \(0, 1\]"),
        ([1.0], [1.5], r"rates must lie in \(0, 1\]"),
        ([math.nan], [0.5], "shares must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            SumOfExponentials(shares, rates)
    with pytest.raises(ValueError, match=r"tolerance must lie in \(0, 1\)"):
        PowerLaw().as_exponentials(0.0)
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        PowerLaw().as_exponentials(horizon=0)
    with pytest.raises(TypeError, match="horizon must be an integer"):
        PowerLaw().as_exponentials(horizon=10.0)
    with pytest.raises(ValueError, match="no sum of 40 exponentials is within"):
        PowerLaw().as_exponentials(1e-16, horizon=10)


def test_numbers_mean_an_exponential():
    own = PowerLaw()
    assert as_decay(own) is own
    for rate in (0, 1, 0.95):
        decay = as_decay(rate)
        assert isinstance(decay, Exponential)
        assert decay.rate == rate


numbers = st.integers() | st.floats()
not_numbers = st.none() | st.booleans() | st.text(max_size=3) | st.lists(st.floats(), max_size=2)


@given(numbers)
def test_rates_outside_the_interval(value):
    if not 0 <= value <= 1:
        with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]"):
            Exponential(value)
        with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\]"):
            as_decay(value)
    if not 0 < value < 1:
        with pytest.raises(ValueError, match=r"rate must lie in \(0, 1\)"):
            Exponential(value, learnable=True)


@pytest.mark.parametrize("kind", [PowerLaw, Factorial, StepIndexed])
@given(numbers, learnable)
def test_exponents_outside_the_interval(kind, value, learnable):
    if not 0 < value < math.inf:
        with pytest.raises(ValueError, match="exponent must be finite and above 0"):
            kind(value, learnable=learnable)


@given(not_numbers)
def test_what_is_no_number(value):
    for make, name in [
        (Exponential, "rate"),
        (PowerLaw, "exponent"),
        (Factorial, "exponent"),
        (StepIndexed, "exponent"),
        (as_decay, "decay"),
    ]:
        with pytest.raises(TypeError, match=f"{name} must be a number"):
            make(value)
    with pytest.raises(TypeError, match="length must be an integer"):
        Free(value)


@pytest.mark.parametrize("kind", [Exponential, PowerLaw, Factorial, StepIndexed, Free])
def test_learnable_is_a_flag(kind):
    with pytest.raises(TypeError, match="learnable must be True or False, got 'yes'"):
        _make(kind, learnable="yes")


def test_free_values():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        Free(0)
    with pytest.raises(TypeError, match="length must be an integer"):
        Free(2.0)
    with pytest.raises(ValueError, match="that is 2 numbers, got 1"):
        Free(3, values=[0.5])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="values must be finite"):
            Free(2, values=[bad])
    with pytest.raises(TypeError, match="values must be a number"):
        Free(2, values=["0.5"])


def test_the_family_asks_for_a_formula():
    with pytest.raises(NotImplementedError):
        Decay()(torch.arange(2))


def test_what_never_changes_is_said_only_where_it_is_known() -> None:
    class Other(PowerLaw):
        pass

    assert Exponential(0.8).fixed == 0.8
    assert PowerLaw(0.7).fixed == 0.7
    for decay in (Exponential(0.8, learnable=True), Free(3), Other(0.7)):
        assert decay.fixed is None
