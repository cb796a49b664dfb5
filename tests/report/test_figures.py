"""Parts of figures: curves with their intervals, levels, legends."""

from __future__ import annotations

import numpy as np
import pytest

from fastweights.report.figures import draw_curve, draw_level, new_figure, place_legend
from fastweights.report.statistics import mean_interval


def test_curve_shows_the_mean_and_its_interval() -> None:
    axes = new_figure().add_subplot()
    values = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    draw_curve(axes, [5, 6], values, "black", label="a")
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[5, 2], [6, 1]])
    band = axes.collections[0].get_paths()[0].vertices
    interval = mean_interval(values[:, 0])
    assert {interval.low, interval.high} <= set(band[:, 1].tolist())


def test_curve_of_one_seed_has_no_band() -> None:
    axes = new_figure().add_subplot()
    draw_curve(axes, [5, 6], [[1.0, 2.0]], "black")
    assert not axes.collections


def test_level_and_its_annotation_have_one_colour() -> None:
    axes = new_figure().add_subplot()
    draw_level(axes, 0.3, annotation="theory", colour="red")
    assert axes.lines[0].get_color() == axes.texts[0].get_color() == "red"
    assert axes.texts[0].get_text() == "theory"


@pytest.mark.parametrize("columns", [0, 2])
def test_legend_names_the_lines_of_one_panel_once(columns: int) -> None:
    figure = new_figure()
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        draw_curve(axes, [1, 2], [[1.0, 2.0]], "black", label="a")
    place_legend(figure, columns, of=left)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a"]
    place_legend(figure, columns)
    assert len(figure.legends[1].get_texts()) == 2
