"""The experiment as the command runs it: statements and curves from two runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastweights.experiments.transfer import Transfer, TransferConfig
from fastweights.experiments.transfer_figures import two_weights_picture
from fastweights.lab.experiment import Result
from fastweights.theory.transfer import Series, findings, sweeps
from fastweights.training.config import ConfigError, with_overrides

EXPERIMENT = Transfer()
SMALL = TransferConfig(effort=0.05)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [
        Result(u, json.loads(json.dumps(EXPERIMENT.run(SMALL, u, Path(), "cpu", None))))
        for u in EXPERIMENT.units(SMALL, 1)
    ]


def test_the_section_says_what_was_found(results: list[Result]) -> None:
    section = EXPERIMENT.section(SMALL, results, Path())
    rows = findings(SMALL.seed, SMALL.effort)
    assert [row[0] for row in section.tables[0].rows] == [f.claim for f in rows]
    assert [row[3] for row in section.tables[0].rows] == [f.verdict for f in rows]
    published = [f for f in rows if f.published != "—"]
    assert [(c.claim, c.ours, c.n) for c in section.claims] == [
        (f.claim, f.ours(), f.simulated.n) for f in published
    ]
    assert len(section.pictures) == 5


def test_what_is_missing_is_left_out(results: list[Result]) -> None:
    assert not EXPERIMENT.section(SMALL, results[:1], Path()).pictures
    section = EXPERIMENT.section(SMALL, results[1:], Path())
    assert not section.claims
    assert not section.tables
    assert section.pictures


def test_more_seeds_are_refused_with_what_to_do_instead() -> None:
    with pytest.raises(ConfigError, match="effort=3 instead of --seeds 3"):
        EXPERIMENT.units(SMALL, 3)
    with pytest.raises(ConfigError, match="effort"):
        with_overrides(SMALL, ["effort=0"])


def test_other_devices_are_refused() -> None:
    unit = EXPERIMENT.units(SMALL, 1)[0]
    with pytest.raises(ValueError, match="got device 'cuda'"):
        EXPERIMENT.run(SMALL, unit, Path(), "cuda", None)


def test_the_plane_shows_lines_circle_ellipse_and_arcs() -> None:
    curves = sweeps(effort=0.02)
    plane, chance = two_weights_picture(curves).figure.axes
    assert {"line 1", "line 2", "P", "O"} <= {t.get_text() for t in plane.texts}
    assert len(plane.lines) >= 6
    assert isinstance(curves["two weights"], Series)
    assert chance.get_ylabel().startswith("P(")
