"""Fixtures for the tests of every kernel."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def nan_filled():
    """Every tensor that torch.empty makes is full of NaN."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before
