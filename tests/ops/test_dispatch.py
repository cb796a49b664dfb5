"""Which backend runs, and what is said about it."""

from __future__ import annotations

import logging
import uuid

import pytest
import torch
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.flop_counter import FlopCounterMode

from fastweights.ops.dispatch import (
    choose_backend,
    dispatch_is_traced,
    has_lost_its_memory,
    has_plain_memory,
    has_tangent,
    in_a_graph,
    kernel_cannot_follow,
    with_plain_memory,
)

# torch's own, when it first differentiates in forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*:DeprecationWarning")


def _choose(requested, operation="add", **reasons):
    return choose_backend(
        requested, {k: lambda v=v: v for k, v in reasons.items()}, operation=operation
    )


def test_auto_takes_the_first_that_can():
    assert _choose("auto", fast=None, plain=None) == "fast"
    assert _choose("auto", fast="no GPU", plain=None) == "plain"


def test_an_explicit_backend_runs_or_says_why_not():
    assert _choose("plain", fast=None, plain=None) == "plain"
    with pytest.raises(ValueError, match=r"backend='fast' cannot run this add: no GPU"):
        _choose("fast", fast="no GPU", plain=None)


def test_who_can_is_named_where_somebody_can():
    with pytest.raises(ValueError, match=r"cannot run this add: no GPU; backend='plain' can$"):
        _choose("fast", fast="no GPU", slow="no luck", plain=None)
    with pytest.raises(ValueError, match=r"cannot run this add: no GPU$"):
        _choose("fast", fast="no GPU", slow="no luck")


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"backend must be one of 'auto', 'fast', 'plain', got 'x"):
        _choose("xla", fast=None, plain=None)


def test_nothing_can_run():
    with pytest.raises(ValueError, match=r"no backend can run this add: fast: a; plain: b"):
        _choose("auto", fast="a", plain="b")


def test_later_backends_are_not_asked():
    def never():
        raise AssertionError("asked")

    reasons = {"fast": lambda: None, "plain": never}
    assert choose_backend("auto", reasons, operation="add") == "fast"
    assert choose_backend("fast", reasons, operation="add") == "fast"


def test_said_once_at_info_with_the_reasons(caplog):
    operation = f"add-{uuid.uuid4()}"
    with caplog.at_level(logging.INFO, logger="fastweights"):
        for _ in range(3):
            _choose("auto", operation, fast="no GPU", medium="no luck", plain=None)
        (record,) = caplog.records
        assert record.levelno == logging.INFO
        assert record.name == "fastweights"
        expected = f"{operation}: backend plain (fast: no GPU; medium: no luck)"
        assert record.getMessage() == expected
        _choose("auto", operation, fast=None, plain=None)  # another choice is news
        assert caplog.records[-1].getMessage() == f"{operation}: backend fast"
        _choose("plain", operation, fast=None, plain=None)  # asked for: nothing to say
        assert len(caplog.records) == 2


def test_what_has_plain_memory():
    x = torch.ones(3)
    assert has_plain_memory(x)
    assert has_plain_memory(torch.nn.Parameter(x))
    assert has_plain_memory(x.expand(2, 3))
    assert not has_plain_memory(torch._neg_view(x))
    assert not has_plain_memory(torch._efficientzerotensor((3,)))
    assert not has_plain_memory(x.to_sparse())
    assert not has_plain_memory(x.to("meta"))
    assert not has_plain_memory(x[:0])
    assert not has_plain_memory(x.as_subclass(TwoTensor))
    for promised in (torch._neg_view(x), torch._efficientzerotensor((3,))):
        written_out = with_plain_memory(promised)
        assert has_plain_memory(written_out)
        assert torch.equal(written_out, promised)
    assert with_plain_memory(x) is x


def test_memory_that_is_lost():
    x = torch.ones(3)
    assert not has_lost_its_memory(x)
    assert not has_lost_its_memory(x[:0])
    assert not has_lost_its_memory(x.to("meta"))
    x.untyped_storage().resize_(0)
    assert has_lost_its_memory(x)
    assert not has_plain_memory(x)


def test_what_a_kernel_cannot_follow():
    x = torch.ones(3)
    assert kernel_cannot_follow([x, torch._neg_view(x), x.to("meta")]) is None
    assert "TwoTensor is a subclass" in kernel_cannot_follow([x, TwoTensor(x, x)])
    assert not dispatch_is_traced()
    with FlopCounterMode(display=False):
        assert dispatch_is_traced()
        assert "FlopCounterMode" in kernel_cannot_follow([x])
    seen = []
    torch.func.vmap(lambda x: seen.append(kernel_cannot_follow([x])) or x)(x)
    torch.func.grad(lambda x: seen.append(kernel_cannot_follow([])) or x.sum())(x)
    assert all("torch.func" in reason for reason in seen)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        assert has_tangent(dual)
        assert not has_tangent(x)
        assert kernel_cannot_follow([x]) is None
        assert "forward-mode" in kernel_cannot_follow([x, dual])


def test_whether_a_tensor_is_in_a_graph_at_any_level():
    """``requires_grad`` tells of the innermost."""
    x = torch.ones(2, 3)
    seen = {}

    def look(name):
        def inner(x):
            seen[name] = in_a_graph(x), in_a_graph(x.detach())
            return x

        return inner

    torch.func.vmap(look("vmap"))(x)
    torch.func.grad(lambda x: torch.func.vmap(look("grad of vmap"))(x).sum())(x)
    torch.func.vmap(torch.func.grad(lambda x: look("vmap of grad")(x).sum()))(x)
    torch.func.jvp(torch.func.vmap(look("jvp of vmap")), (x,), (x,))
    torch.func.vmap(look("vmap of a parameter"))(x.clone().requires_grad_())
    with forward_ad.dual_level():
        look("dual")(forward_ad.make_dual(x, x))
    assert seen.pop("vmap") == (False, False)
    assert seen == dict.fromkeys(seen, (True, False))
    assert len(seen) == 5
