"""The closed forms against sums written out, and against simulations that can reject them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fastweights.decay import Decay, Exponential, Factorial, Free, PowerLaw, StepIndexed
from fastweights.theory import memory
from fastweights.theory.memory import Overlap, Patterns

DECAYS: list[Decay] = [
    Exponential(0.9),
    Exponential(1.0),
    PowerLaw(0.5),
    PowerLaw(0.75),
    Factorial(),
    StepIndexed(),
    Free(6, values=[0.9, -0.8, 0.0, 0.5, 0.7]),
]
MEMORIES = 24


def written_out(decay: Decay, memories: int) -> np.ndarray:
    """r by age, from the recurrence of a single number that starts with a one."""
    left = []
    for age in range(memories):
        value = 1.0
        match decay:
            case Exponential():
                value = decay.rate**age
            case PowerLaw():
                value = (age + 1.0) ** -decay.exponent
            case Factorial():
                value = math.factorial(age + 1) ** -decay.exponent
            case StepIndexed():
                for step in range(memories - age + 1, memories + 1):
                    value *= step**-decay.exponent
            case Free():
                value = [1.0, *decay.values.tolist()][age] if age < decay.horizon else 0.0
        left.append(value)
    return np.array(left)


@pytest.mark.parametrize("decay", DECAYS, ids=repr)
def test_signal_to_noise_is_equation_7(decay: Decay) -> None:
    power = written_out(decay, MEMORIES) ** 2
    expected = [
        math.sqrt(50 * power[k] / sum(p for other, p in enumerate(power) if other != k))
        for k in range(MEMORIES)
    ]
    found = memory.snr(decay, 50, np.arange(MEMORIES), MEMORIES)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    alive = [k for k in range(MEMORIES) if expected[k] >= 1]
    assert memory.lifetime(decay, 50, MEMORIES) == max(alive, default=None)


@pytest.mark.parametrize(
    "decay", [Exponential(0.9), Exponential(0.0), PowerLaw(1.5), Factorial(), Factorial(0.05)]
)
def test_an_endless_past_is_the_limit_of_a_long_one(decay: Decay) -> None:
    assert memory.energy(decay) == pytest.approx(memory.energy(decay, 20_000), rel=1e-7)
    assert memory.lifetime(decay, 300) == memory.lifetime(decay, 300, 20_000)


def test_sums_that_have_a_name() -> None:
    assert memory.energy(Factorial(0.5)) == pytest.approx(math.e - 1, rel=1e-12)
    assert memory.energy(PowerLaw(1.0)) == pytest.approx(math.pi**2 / 6, rel=1e-12)
    assert memory.energy(Exponential(0.6)) == pytest.approx(1 / 0.64, rel=1e-12)
    assert memory.energy(Exponential(0.6, learnable=True)) == pytest.approx(1 / 0.64, rel=1e-6)
    assert memory.energy(PowerLaw(0.5, learnable=True)) == math.inf


@pytest.mark.parametrize("synapses", [1, 3, 19, 190, 2500, 10**6])
def test_lifetimes_are_the_whole_part_of_the_closed_forms(synapses: int) -> None:
    for rate in (0.5, 0.9, 0.95, 0.99):
        exact = memory.exponential_lifetime(rate, synapses)
        assert memory.lifetime(Exponential(rate), synapses) == whole(exact)
    for exponent in (0.6, 0.75, 1.3):
        exact = memory.power_law_lifetime(exponent, synapses)
        assert memory.lifetime(PowerLaw(exponent), synapses) == whole(exact)
    for exponent in (0.3, 0.5, 1.0):
        found = memory.lifetime(Factorial(exponent), synapses)
        # Stirling's formula is off by a few hundredths at most.
        exact = memory.factorial_lifetime(exponent, synapses)
        assert found in {whole(exact - 0.06), whole(exact + 0.06)}


def whole(age: float) -> int | None:
    return math.floor(age) if age >= 0 else None


def test_the_longest_lifetimes() -> None:
    for synapses in (100, 10_000):
        rate, age = memory.best_exponential(synapses)
        assert memory.exponential_lifetime(rate, synapses) == pytest.approx(age, rel=0.02)
        for other in (rate**0.7, rate**1.3):
            assert memory.exponential_lifetime(other, synapses) < age
        exponent, age = memory.best_power_law(synapses)
        for other in (exponent - 0.01, exponent + 0.01):
            assert memory.power_law_lifetime(other, synapses) < age
    exponent, age = memory.best_power_law(10**12)
    assert age == pytest.approx(10**12 / (math.e * math.log(10**12)), rel=0.2)
    assert exponent == pytest.approx(0.5 + 0.5 / math.log(10**12), rel=0.01)


def test_no_decay_that_never_rises_outlasts_the_number_of_synapses() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = np.sort(rng.random(30))[::-1].tolist()
        assert (memory.lifetime(Free(31, values=values), 12) or 0) <= 12
    window = Free(13, values=[1.0] * 12)
    assert memory.lifetime(window, 12) == 12
    assert memory.lifetime(Free(14, values=[1.0] * 13), 12) is None


def test_edges_of_the_lifetime() -> None:
    assert memory.lifetime(Exponential(1.0), 10**6) is None  # an endless past that never fades
    assert memory.lifetime(PowerLaw(0.5), 10**6) is None
    assert memory.lifetime(Exponential(1.0), 9, memories=10) == 9
    assert memory.lifetime(Exponential(1.0), 9, memories=11) is None
    assert memory.lifetime(Exponential(0.95), 1) is None
    assert memory.lifetime(Exponential(0.5), 1) == 0
    assert memory.lifetime(Exponential(0.0), 1) == 0
    assert memory.lifetime(Exponential(0.95), 1, memories=1) == 0
    assert memory.snr(Exponential(0.95), 1, 0, memories=1) == math.inf
    assert memory.snr(Exponential(0.0), 5, [0, 3]).tolist() == [math.inf, 0.0]


def test_the_clock_of_a_step_indexed_decay_shortens_its_memory() -> None:
    ages = [memory.lifetime(StepIndexed(), 2500, steps) for steps in (10, 54, 2400, 2600)]
    assert ages == [3, 1, 1, 0]


@pytest.mark.parametrize("decay", DECAYS, ids=repr)
def test_the_simulation_confirms_equation_7_and_rejects_others(decay: Decay) -> None:
    ages = [0, 1, 5]
    expected = memory.snr(decay, 40, ages, MEMORIES)
    found = memory.simulate_snr(decay, Patterns("signs", 40), ages, MEMORIES, 6_000, seed=1)
    for estimate, right in zip(found, expected, strict=True):
        assert estimate.agrees(right)
        if right > 0.3:
            assert not estimate.agrees(1.15 * right)
            assert not estimate.agrees(right / 1.15)
    # Counting a memory among its own rivals is wrong, and seen to be where it is strong.
    wrong = math.sqrt(40 / memory.energy(decay, MEMORIES))
    assert found[0].agrees(wrong) == (abs(wrong / expected[0] - 1) < 0.05)


@pytest.mark.parametrize("kind", ["normal", "outer signs", "recall"])
def test_other_patterns_have_a_noise_of_their_own(kind: memory.patterns.Kind) -> None:
    patterns = Patterns(kind, 20)
    law, decay = memory.exact_overlap(patterns), Exponential(0.9)
    right = law.snr(decay, [0, 4], 60)
    printed = memory.snr(decay, patterns.synapses, [0, 4], 60)
    found = memory.simulate_snr(decay, patterns, [0, 4], 60, 6_000, seed=2)
    for estimate, value in zip(found, right, strict=True):
        assert estimate.agrees(value)
    assert not found[0].agrees(printed[0])


def test_outer_products_of_signs_have_as_many_synapses_as_differ() -> None:
    law, decay = memory.exact_overlap(Patterns("outer signs", 20)), PowerLaw()
    ages = np.arange(9)
    np.testing.assert_allclose(
        law.snr(decay, ages, 30), memory.snr(decay, 190, ages, 30), rtol=1e-12
    )


def test_vectors_with_a_mean_are_heard_together() -> None:
    patterns = Patterns("outer rectified", 20)
    law = memory.measured_overlap(patterns, 20_000, seed=3)
    without = Overlap(law.signal, law.own, law.cross, 0.0, 0.0)
    for decay, hears in ((Exponential(0.99), True), (Factorial(), False)):
        found = memory.simulate_snr(decay, patterns, [0, 3], 60, 4_000, seed=4)
        for estimate, value in zip(found, law.snr(decay, [0, 3], 60), strict=True):
            assert estimate.agrees(value)
        # What all of them share adds up where many are remembered, so it must not be left out.
        assert found[1].agrees(without.snr(decay, 3, 60)) is not hears


@pytest.mark.parametrize("kind", ["signs", "normal", "outer signs", "recall"])
def test_the_five_numbers_by_measurement(kind: memory.patterns.Kind) -> None:
    patterns = Patterns(kind, 12)
    exact, found = memory.exact_overlap(patterns), memory.measured_overlap(patterns, 60_000, 5)
    assert found.signal == pytest.approx(exact.signal, rel=0.02)
    assert found.cross == pytest.approx(exact.cross, rel=0.02)
    assert found.own == pytest.approx(exact.own, rel=0.05)
    for small in (found.common, found.shared):
        assert abs(small) < 0.02 * exact.cross


@pytest.mark.parametrize("decay", [Exponential(0.8), PowerLaw(0.75), Factorial()], ids=repr)
def test_simulated_lifetimes(decay: Decay) -> None:
    found = memory.simulate_lifetime(decay, Patterns("signs", 60), 60, 4_000, seed=6)
    expected = memory.lifetime(decay, 60, 60)
    assert expected is not None
    assert found.agrees(expected)
    assert not found.agrees(2 * expected + 2)
    drowned = memory.simulate_lifetime(Exponential(1.0), Patterns("signs", 9), 40, 500, seed=6)
    assert drowned.value == -1


def test_pairs_of_a_retrieval_sequence() -> None:
    # c9k8j3f1??c: digits at steps 2, 4, 6, 8; step 11 reads what was written up to step 10.
    assert memory.pair_ages(4).tolist() == [10 - step for step in (2, 4, 6, 8)]
    found = memory.pair_snr(PowerLaw(), 19, 4)
    assert found.tolist() == memory.snr(PowerLaw(), 19, [8, 6, 4, 2], 10).tolist()
    assert (np.diff(found) > 0).all()
    assert np.ptp(memory.pair_snr(Exponential(1.0), 19, 4)) == 0


def test_a_memory_that_is_gone_is_not_found() -> None:
    gone = Free(3, values=[-0.5, 0.0])
    turned, nothing = memory.simulate_snr(gone, Patterns("signs", 50), [1, 2], 6, 2_000, seed=7)
    assert turned.agrees(memory.snr(gone, 50, 1, 6))
    assert nothing.agrees(0.0)


def test_seeds_decide() -> None:
    one, same, other = (
        memory.simulate_snr(PowerLaw(), Patterns("signs", 9), [0], 9, 50, s) for s in (0, 0, 1)
    )
    assert one == same != other


class Unknown(Decay):
    def _at(self, ages):
        return 1 / (1 + ages)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: memory.weights(PowerLaw(), [-1]), "ages must be"),
        (lambda: memory.weights(PowerLaw(), [5], memories=5), "ages must be"),
        (lambda: memory.weights(StepIndexed(), [0]), "memories must be given: .* StepIndexed"),
        (lambda: memory.energy(PowerLaw(), 0), "memories must be at least 1"),
        (lambda: memory.energy(StepIndexed()), "memories must be given"),
        (lambda: memory.energy(Unknown()), "memories must be given for Unknown"),
        (lambda: memory.snr(PowerLaw(), 0, [0]), "synapses must be"),
        (lambda: memory.lifetime(PowerLaw(), 0), "synapses must be"),
        (lambda: memory.exponential_lifetime(1.0, 5), "rate must be"),
        (lambda: memory.exponential_lifetime(0.5, 0), "synapses must be"),
        (lambda: memory.power_law_lifetime(0.5, 5), "exponent must be"),
        (lambda: memory.factorial_lifetime(0.0, 5), "exponent must be"),
        (lambda: memory.best_exponential(2), "synapses must be"),
        (lambda: memory.best_power_law(2), "synapses must be"),
        (lambda: Patterns("sparse", 5), "kind must be"),  # type: ignore[arg-type]
        (lambda: Patterns("signs", 1), "size must be"),
        (lambda: memory.exact_overlap(Patterns("outer rectified", 5)), "use measured_overlap"),
        (lambda: memory.measured_overlap(Patterns("signs", 5), 1, 0), "samples and others"),
        (lambda: Overlap(1, 0, 1, 0, 0).snr(PowerLaw(), 0, 1), "memories must be"),
        (lambda: memory.simulate_snr(PowerLaw(), Patterns("signs", 5), [0], 5, 9, 0), "samples"),
        (lambda: memory.simulate_snr(PowerLaw(), Patterns("signs", 5), [5], 5, 10, 0), "ages"),
        (lambda: memory.pair_ages(0), "num_pairs must be"),
    ],
)
def test_impossible_arguments_are_named(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()


@pytest.mark.parametrize("decay", [Exponential(0.95), PowerLaw(0.5)], ids=repr)
@pytest.mark.parametrize("units", [20, 200])
def test_a_memory_gives_back_this_much_of_a_query_that_it_does_not_hold(
    decay: Decay, units: int
) -> None:
    length, rate = 11, 0.1
    rng = np.random.default_rng(0)
    written = Patterns("outer rectified", units).sample(rng, (4000, length))
    v = rng.standard_normal((4000, 1, units))
    left = written_out(decay, length)
    read = rate * np.einsum("k,nk,nkh->nh", left, (written @ v.swapaxes(1, 2))[..., 0], written)
    # Layer norm takes out what is the same for all units.
    v, read = (x - x.mean(axis=-1, keepdims=True) for x in (v[:, 0], read))
    gains = (read * v).sum(axis=-1) / (v * v).sum(axis=-1)
    expected = memory.unspecific_gain(decay, rate, length)
    assert gains.mean() == pytest.approx(expected, rel=1.5 / units + 0.02)
    balanced = memory.balanced_write_rate(decay, length)
    assert memory.unspecific_gain(decay, balanced, length) == pytest.approx(0.5 - 0.5 / math.pi)


def test_the_write_rate_does_not_depend_on_the_default_device() -> None:
    for make in (Exponential, PowerLaw):
        expected = memory.balanced_write_rate(make(), 11)
        with torch.device("meta"):
            assert memory.balanced_write_rate(make(), 11) == expected
