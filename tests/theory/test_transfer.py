"""The closed forms against enumeration where it is possible, else against another way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from fastweights.theory import transfer
from fastweights.theory.estimates import mean, ratio_of_means
from fastweights.theory.transfer import RandomInputs, binary, ternary

LAWS = [binary(), binary(0.3), ternary(), ternary(0.1), ternary(0.5)]


def all_vectors(law: RandomInputs, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every vector of length n, and its probability."""
    chances = {1: law.p, 0: 1 - law.p}
    if law.kind == "ternary":
        chances = {1: law.p, -1: law.p, 0: 1 - 2 * law.p}
    vectors = np.array(list(itertools.product(chances, repeat=n)), dtype=float)
    chance = np.prod([[chances[int(x)] for x in v] for v in vectors], axis=1)
    return vectors, chance


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_pair_ratio_by_enumeration(law: RandomInputs, n: int) -> None:
    vectors, chance = all_vectors(law, n)
    some = vectors.any(axis=1)
    vectors, chance = vectors[some], chance[some] / chance[some].sum()
    square = (vectors**2).sum(1)
    cosine2 = (vectors @ vectors.T) ** 2 / np.outer(square, square)
    assert transfer.pair_ratio(law, n) == pytest.approx(chance @ cosine2 @ chance, rel=1e-12)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_set_overlap_by_enumeration(law: RandomInputs, n: int) -> None:
    vectors, chance = all_vectors(law, n)
    together = chance @ (vectors @ vectors.T) ** 2 @ chance
    alone = chance @ (vectors**2).sum(1) ** 2
    assert transfer.set_overlap(law, n) == pytest.approx(together / alone, rel=1e-12)


def test_long_vectors_approach_the_printed_figures() -> None:
    assert transfer.pair_ratio(binary(), 10**6) == pytest.approx(0.25, abs=1e-6)
    assert transfer.pair_ratio_limit(binary()) == 0.25
    assert transfer.pair_ratio_limit(ternary()) == 0
    assert transfer.pair_ratio(binary(), 100) == pytest.approx(0.25 + 0.25 / 99, abs=1e-12)
    assert transfer.retrained_set_ratio(50, 0.25) == pytest.approx(0.943, abs=5e-4)
    overlap = transfer.set_overlap(ternary(0.05), 10**6)
    assert transfer.retrained_set_ratio(250_000, overlap) == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize("cosine", [0.0, 0.2, 0.5, 0.9, 1.0, -0.5])
def test_expected_cosine_by_integration_over_the_noise(cosine: float) -> None:
    # Noise in the plane of both inputs comes from every direction alike.
    noise = (np.arange(200_000) + 0.5) * 2 * np.pi / 200_000
    a, b = np.cos(noise), np.cos(noise - math.acos(cosine))
    expected = cosine * (np.sign(a) * np.sign(b)).mean()
    assert transfer.expected_cosine(cosine) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("cosine", [0.3, 0.5, 0.8])
def test_the_simulation_confirms_the_right_formula_and_rejects_the_printed_one(
    cosine: float,
) -> None:
    ratio, mean_cosine = transfer.simulate_angle(cosine, 200_000, seed=1)
    assert ratio.agrees(cosine**2)
    assert mean_cosine.agrees(transfer.expected_cosine(cosine))
    assert not mean_cosine.agrees(cosine**2)  # equation 2 as it is printed
    assert not ratio.agrees(transfer.expected_cosine(cosine))


@pytest.mark.parametrize("law", [binary(), ternary(0.2)])
def test_pairs_and_sets_agree_with_their_simulation(law: RandomInputs) -> None:
    ratio, cosine = transfer.simulate_pairs(law, 12, 60_000, seed=2)
    assert ratio.agrees(transfer.pair_ratio(law, 12))
    assert not ratio.agrees(1.1 * transfer.pair_ratio(law, 12))
    assert cosine.value < ratio.value
    measured = transfer.simulate_set(law, 30, 10, 2_000, seed=3)
    expected = transfer.retrained_set_ratio(10, transfer.set_overlap(law, 30))
    assert measured.agrees(expected)
    assert not measured.agrees(1.15 * expected)


def test_the_law_of_a_large_load_is_the_same_for_every_size() -> None:
    for n in (40, 120):
        measured = transfer.simulate_set(ternary(0.25), n, n // 4, 40_000 // n, seed=4)
        assert measured.agrees(transfer.load_limit(ternary(0.25), 0.25))


@pytest.mark.parametrize("remaining", [1.0, 0.6, 0.2])
@pytest.mark.parametrize("degrees", [20, 60, 85])
def test_two_weights(degrees: int, remaining: float) -> None:
    angle = math.radians(degrees)
    simulated = transfer.simulate_two_weights(angle, remaining, 200_000, seed=degrees)
    assert simulated.agrees(transfer.positive_transfer(angle, remaining))
    turns = (np.arange(400_000) + 0.5) * 2 * np.pi / 400_000
    x, y = remaining * np.cos(turns), np.sin(turns)
    speed = np.hypot(remaining * np.sin(turns), np.cos(turns))
    positive = x * (math.cos(angle) * x + math.sin(angle) * y) > 0
    share = (speed * positive).sum() / speed.sum()
    assert transfer.circumference_fraction(angle, remaining) == pytest.approx(share, abs=1e-4)


def test_positive_transfer_falls_from_two_thirds_to_a_half() -> None:
    values = [transfer.positive_transfer(math.pi / 3, k) for k in (1.0, 0.5, 0.1, 0.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(2 / 3)
    assert values[-1] == 0.5


@pytest.mark.parametrize("remaining", [1.0, 0.5, 0.1])
def test_remaining_transfer_by_simulation(remaining: float) -> None:
    rng = np.random.default_rng(0)
    a, b = np.array([1.0, 0.0]), np.array([0.5, math.sqrt(0.75)])
    g = rng.standard_normal((200_000, 2))
    g -= (1 - remaining) * (g @ a)[:, None] * a
    measured = ratio_of_means((g @ a) * (g @ b) * (a @ b), (g @ b) ** 2)
    assert measured.agrees(transfer.remaining_transfer(0.5, remaining))


def test_the_course_of_retraining_falls_for_binary_and_rises_for_sparse_inputs() -> None:
    for law, sign in ((binary(), -1), (ternary(0.05), 1)):
        course = transfer.simulate_course(law, 60, 30, 150, 60, seed=5)
        for measured, expected in zip(course.ratio, course.expected_ratio, strict=True):
            assert measured.agrees(expected, errors=4)
        np.testing.assert_allclose(course.removed, course.expected_removed, atol=0.05)
        first, last = course.ratio[0], course.ratio[-1]
        assert sign * (last.value - first.value) > 3 * (first.standard_error + last.standard_error)


@pytest.mark.parametrize(("share", "ends"), [(0.0, (1 / 3, 0.5)), (0.5, (1.0, 0.75))])
def test_the_course_of_large_networks(share: float, ends: tuple[float, float]) -> None:
    times = np.geomspace(1e-6, 1e6, 30)
    removed, ratio = zip(*(transfer.course_limit(share, 0.5, t) for t in times), strict=True)
    assert ratio[0] == pytest.approx(ends[0], abs=1e-4)
    assert ratio[-1] == pytest.approx(ends[1], abs=1e-4)
    assert list(removed) == sorted(removed)
    assert removed[-1] == pytest.approx(1.0, abs=1e-4)


def test_all_findings() -> None:
    rows = {f.claim: f for f in transfer.findings(seed=1, effort=0.3)}
    rejected = [claim for claim, f in rows.items() if f.verdict == "rejected"]
    assert len(rejected) == 5
    for part in ("read as the expected cosine", "n = 10: E[cos", "n = 100: E[cos"):
        assert sum(part in claim for claim in rejected) == 1
    assert sum("sparse −1/0/1" in c and "diminishes" in c for c in rejected) == 1
    assert sum("circumference" in c for c in rejected) == 1
    assert all(f.verdict == "confirmed" for c, f in rows.items() if c not in rejected)


def test_seeds_decide() -> None:
    one, same, other = (transfer.sweeps(seed, 0.005)["set"].y for seed in (0, 0, 1))
    assert one == same != other


def test_estimates() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, 10_000)
    estimate = mean(x)
    assert estimate.standard_error == pytest.approx(2 / 100, rel=0.05)
    assert estimate.agrees(3.0)
    assert not estimate.agrees(3.2)
    # The delta method's error against the spread of many ratios.
    u, v = rng.normal(2, 1, (2_000, 200)), rng.normal(4, 1, (2_000, 200))
    spread = (u.mean(1) / v.mean(1)).std()
    assert ratio_of_means(u[0], v[0]).standard_error == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: binary(0.0), "p must be in"),
        (lambda: ternary(0.6), "p must be in"),
        (lambda: RandomInputs("normal", 0.5), "kind must be"),  # type: ignore[arg-type]
        (lambda: transfer.pair_ratio(binary(), 1), "n must be"),
        (lambda: transfer.set_overlap(binary(), 0), "n must be"),
        (lambda: transfer.load_limit(ternary(), 0.0), "load must be"),
        (lambda: transfer.retrained_set_ratio(0, 0.25), "m must be"),
        (lambda: transfer.expected_cosine(1.1), "cosine must be"),
        (lambda: transfer.positive_transfer(2.0), "angle must be"),
        (lambda: transfer.circumference_fraction(1.0, -0.1), "remaining must be"),
        (lambda: transfer.remaining_transfer(1.0, 0.0), "nothing is left"),
        (lambda: transfer.simulate_two_weights(1.0, 0.0, 10, 0), "remaining must be"),
        (lambda: transfer.simulate_angle(2.0, 10, 0), "cosine must be"),
        (lambda: transfer.simulate_pairs(binary(), 1, 10, 0), "n and samples"),
        (lambda: transfer.simulate_set(binary(), 5, 0, 10, 0), "n, m and unretrained"),
        (lambda: transfer.simulate_course(binary(), 5, 2, 5, 2, 0, step=2.0), "step must be"),
        (lambda: transfer.simulate_positive_pairs(binary(), 5, 1, 0), "samples"),
        (lambda: transfer.course_limit(2.0, 0.5, 1.0), "mean_share"),
        (lambda: transfer.findings(effort=0.0), "effort must be"),
        (lambda: transfer.sweeps(effort=-1.0), "effort must be"),
    ],
)
def test_impossible_arguments_are_named(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()
