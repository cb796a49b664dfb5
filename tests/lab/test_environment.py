"""What a run says about where it ran."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from fastweights import __version__
from fastweights.lab import environment as module
from fastweights.lab.environment import environment


def test_it_says_what_is_here() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["fastweights"] == __version__
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["processor"]
    assert found["cores"] >= 1


def test_outside_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert module._commit() is None


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module._commit() is None
