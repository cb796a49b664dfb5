"""Settings that hold for every test."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.kernel_calls import recording

# The same examples every time, and no stopwatch: the machine may be busy with other things.
settings.register_profile("fastweights", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("fastweights")

# A shell starts background jobs deaf to Ctrl-C, and what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes many minutes runs only where it is asked for, as with ``-m exhaustive``."""
    unasked = {"exhaustive", "storm"} - set(config.option.markexpr.split())
    left_out = [item for item in items if unasked & {mark.name for mark in item.iter_markers()}]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        kept = set(items) - set(left_out)
        items[:] = [item for item in items if item in kept]


def pytest_addoption(parser):
    parser.addoption(
        "--record-kernel-calls",
        type=Path,
        metavar="FOLDER",
        help="write every call of a C++ kernel to a file there, for native/check.sh",
    )


@pytest.fixture(autouse=True, scope="session")
def _record_kernel_calls(request):
    folder = request.config.getoption("--record-kernel-calls")
    if folder is None:
        yield
    else:
        with recording(folder):
            yield


@pytest.fixture(autouse=True)
def _seed():
    """The initialisation of layers draws from torch's global generator."""
    torch.manual_seed(20160906)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(61)
