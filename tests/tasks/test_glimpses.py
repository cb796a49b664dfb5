"""Glimpses: every view has its pixels, exactly, and every order has the same glimpses."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from fastweights.tasks import Mnist, MnistSplit
from fastweights.tasks.glimpses import FIXED_ORDERS, FULL, ORDERS, Glimpses, views


@pytest.fixture
def images() -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    return torch.from_numpy(drawn)


@pytest.fixture
def split(images: torch.Tensor) -> MnistSplit:
    return MnistSplit(images, torch.arange(5))


def test_the_patches_put_together_are_the_image(images: torch.Tensor) -> None:
    fine = views(images)[:, 4:].view(-1, 4, 4, 7, 7).numpy()
    assert (fine % 4 == 0).all()
    for image, quadrants in zip(images.numpy(), fine // 4, strict=True):
        rows = [
            np.concatenate([np.concatenate([q[0], q[1]], 1), np.concatenate([q[2], q[3]], 1)])
            for q in quadrants
        ]
        whole = np.block([[rows[0], rows[1]], [rows[2], rows[3]]])
        np.testing.assert_array_equal(whole, image)


def test_coarse_views_are_the_quadrants_averages(images: torch.Tensor) -> None:
    coarse = views(images)[:, :4].view(-1, 4, 7, 7).double() / FULL
    for q, (top, left) in enumerate([(0, 0), (0, 14), (14, 0), (14, 14)]):
        quadrant = images[:, None, top : top + 14, left : left + 14].double() / 255
        expected = torch.nn.functional.avg_pool2d(quadrant, 2)[:, 0]
        torch.testing.assert_close(coarse[:, q], expected, rtol=0, atol=1e-15)


def test_views_reach_from_nothing_to_full() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None].expand(2, 28, 28)
    seen = views(ends)
    assert seen[0].unique().tolist() == [0]
    assert seen[1].unique().tolist() == [FULL]


def test_the_published_order_is_coarse_four_patches_coarse() -> None:
    order = Glimpses().visits(1, 0, "train")[0].tolist()
    assert order[:7] == [0, 4, 5, 6, 7, 0, 1]
    assert order[-6:] == [3, 16, 17, 18, 19, 3]
    assert len(order) == Glimpses().length == 24


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_is_a_permutation_of_the_same_visits(order: str) -> None:
    visits = Glimpses(order).visits(50, 3, "train")
    expected = Counter(FIXED_ORDERS["published"])
    assert all(Counter(row) == expected for row in visits.tolist())
    assert len({tuple(row) for row in visits.tolist()}) == (50 if order == "scrambled" else 1)


def test_fixed_orders_differ_and_fine_first_ends_coarse() -> None:
    assert len(set(FIXED_ORDERS.values())) == 3
    assert min(FIXED_ORDERS["fine-first"][:16]) >= 4
    assert FIXED_ORDERS["fine-first"][16:] == (0, 1, 2, 3, 0, 1, 2, 3)


@pytest.mark.parametrize("order", ORDERS)
def test_a_glimpse_shows_the_place_it_names(order: str, split: MnistSplit) -> None:
    task = Glimpses(order, places=True)
    inputs = task.split(split, 7, "test").inputs
    assert inputs.shape == (5, 24, task.features) == (5, 24, 69)
    seen, where = views(split.images), inputs[..., 49:]
    assert (where.sum(-1) == FULL).all()
    for n in range(5):
        for t in range(24):
            assert torch.equal(inputs[n, t, :49], seen[n, where[n, t].argmax()])
    without = dataclasses.replace(task, places=False).split(split, 7, "test").inputs
    assert torch.equal(without, inputs[..., :49])


def test_scrambled_orders_depend_on_seed_and_split() -> None:
    task = Glimpses("scrambled")
    drawn = {
        (seed, name): task.visits(9, seed, name) for seed in (0, 1) for name in ("train", "test")
    }
    assert len({str(order.tolist()) for order in drawn.values()}) == 4
    assert torch.equal(task.visits(9, 0, "train"), drawn[0, "train"])


@pytest.mark.parametrize(
    ("order", "digest"),
    [
        ("published", "23470cb449be3f93"),
        ("random", "2fc74b64d6e90611"),
        ("fine-first", "5c95e63b2ff685de"),
        ("scrambled", "d489f58ea27cf5b7"),
    ],
)
def test_the_bytes_are_the_same_everywhere(order: str, digest: str, split: MnistSplit) -> None:
    split = MnistSplit((torch.arange(5 * 784) % 251).to(torch.uint8).view(5, 28, 28), split.labels)
    assert Glimpses(order, places=True).split(split, 1, "train").digest()[:16] == digest


def test_all_three_splits_keep_their_labels(split: MnistSplit) -> None:
    built = Glimpses().build(Mnist(split, split[:2], split[1:4]), seed=0)
    assert [len(s) for s in (built.train, built.validation, built.test)] == [5, 2, 3]
    assert built.test.targets.tolist() == [1, 2, 3]


def test_impossible_requests_are_refused(split: MnistSplit) -> None:
    with pytest.raises(ValueError, match=r"order must be one of 'published'.*got 'coarse-first'"):
        Glimpses("coarse-first")
    with pytest.raises(ValueError, match="name must be one of"):
        Glimpses().split(split, 0, "tset")
    with pytest.raises(ValueError, match="seed must be in"):
        Glimpses("scrambled").split(split, -1, "test")
    with pytest.raises(ValueError, match=r"shape \(N, 28, 28\), got \(2, 14, 14\)"):
        views(torch.zeros(2, 14, 14, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"images must be torch.uint8, got torch.float32"):
        views(torch.zeros(2, 28, 28))
