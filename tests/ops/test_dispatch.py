"""Which backend runs, and what is said about it."""

from __future__ import annotations

import logging
import uuid

import pytest

from fastweights.ops.dispatch import choose_backend


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
