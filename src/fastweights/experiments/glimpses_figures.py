"""Figures of the glimpses study: every error, and what fast weights attend to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from fastweights.report.figures import ARM_STYLES, draw_dots, new_figure
from fastweights.report.section import Picture
from fastweights.tasks.glimpses import FIXED_ORDERS, QUADRANTS


def error_picture(name: str, rows: Sequence[tuple[str, Sequence[float], float | None]]) -> Picture:
    """Test errors in per cent.

    Args:
        name: of the picture.
        rows: for each network its label, the errors of its seeds, and the published one.
    """
    figure = new_figure(7.6, 1.3 + 0.3 * len(rows))
    axes = figure.add_subplot()
    draw_dots(axes, [(label, errors) for label, errors, _ in rows])
    for y, (_, _, published) in enumerate(rows):
        if published is not None:
            axes.plot(published, y, "D", color=ARM_STYLES[1][0], markersize=5, fillstyle="none")
    axes.set(xlabel="test error (%)")
    axes.set_xlim(left=0)
    return Picture(
        name=name,
        figure=figure,
        alt=f"Test error of every run, a row for each of {len(rows)} networks; diamonds are the "
        "published errors.",
        caption="Test error: a dot per seed, the mean and its 95 % interval; diamonds: published.",
    )


def attention_picture(
    name: str, every: Sequence[npt.ArrayLike], hidden_size: int, order: str
) -> Picture:
    """What the states after earlier glimpses contribute to a read.

    Args:
        name: the picture's begins so.
        every: of each seed, the shares, shape (24, 24).
        hidden_size: of the networks.
        order: of the glimpses, one of ``FIXED_ORDERS``.
    """
    shares = np.mean(np.asarray(every, dtype=float), axis=0)
    figure = new_figure(7.2, 6.6)
    axes = figure.add_subplot()
    steps = len(shares)
    past = np.tril(np.ones_like(shares, dtype=bool), -1)
    among = np.arange(steps)[:, None]  # so many states are looked back to
    image = axes.imshow(
        np.where(past, shares * among, np.nan)[1:, :-1],
        extent=(-0.5, steps - 1.5, steps - 0.5, 0.5),
        cmap="viridis",
        vmin=0,
    )
    figure.colorbar(image, ax=axes, label="attention, times an even share", shrink=0.8)
    for t, place in enumerate(FIXED_ORDERS[order]):
        if t < steps - 1:
            _icon(axes, t, steps + 0.6, place)
        if t > 0:
            _icon(axes, -1.6, t, place)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("state after the glimpse", labelpad=34)
    axes.set_ylabel("while this glimpse is seen", labelpad=34)
    for side in axes.spines.values():
        side.set_visible(False)
    seeds = f"{len(every)} seed{'s' if len(every) > 1 else ''}"
    return Picture(
        name=f"{name}-attention-r{hidden_size}-{order}",
        figure=figure,
        alt=f"A triangle of 23 rows, order “{order}”: how the attention of each glimpse's step is "
        "shared out among the states after earlier glimpses.",
        caption=f"What fast weights attend to at R = {hidden_size}: each row is a glimpse, from "
        "the top; colours are the shares of the states after earlier glimpses in what is read, "
        f"beside equal ones, a mean over test images and {seeds}. The small squares show the image "
        "and, dark, the part that is seen: a quadrant coarsely, or a patch.",
    )


def _icon(axes: Axes, x: float, y: float, place: int) -> None:
    """A small image with the part in it that a place shows."""
    side, left, top = 0.8, x - 0.4, y - 0.4
    quadrant = place if place < QUADRANTS else (place - QUADRANTS) // QUADRANTS
    row, column = divmod(quadrant, 2)
    part, at_x, at_y = side / 2, left + column * side / 2, top + row * side / 2
    if place >= QUADRANTS:
        row, column = divmod((place - QUADRANTS) % QUADRANTS, 2)
        part, at_x, at_y = side / 4, at_x + column * side / 4, at_y + row * side / 4
    axes.add_patch(
        Rectangle(
            (left, top),
            side,
            side,
            facecolor="0.95",
            edgecolor="0.5",
            linewidth=0.5,
            clip_on=False,
        )
    )
    fill = ARM_STYLES[0 if place >= QUADRANTS else 1][0]
    axes.add_patch(Rectangle((at_x, at_y), part, part, facecolor=fill, clip_on=False))
