"""Figures of the transfer theory: formulas as lines, simulations as points.

All take the curves of `fastweights.theory.transfer.sweeps`. Error bars are three standard errors to
either side.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from fastweights.lab.simulation import draw_series
from fastweights.report.figures import COLOURS, MARKERS, new_figure
from fastweights.report.section import Picture
from fastweights.theory.transfer import (
    Series,
    binary,
    circumference_fraction,
    course_limit,
    expected_cosine,
    load_limit,
    pair_ratio,
    positive_transfer,
    retrained_set_ratio,
    set_overlap,
    ternary,
)
from fastweights.theory.transfer.sweeps import TERNARY_P

BLUE, ORANGE, GREEN, PURPLE = COLOURS[:4]
GREY = "0.35"
ANGLE = np.pi / 3  # between the two lines, as the curve is simulated
REMAINING = 0.5  # what retraining has left of the distance to line 1


def cosine_picture(curves: Mapping[str, Series]) -> Picture:
    """Equation 2 against the cosine of two inputs: right for a ratio, wrong for E[cos θ]."""
    figure = new_figure(6.0, 4.2)
    axes = figure.add_subplot()
    c = np.linspace(0, 1, 201)
    axes.plot(c, c**2, color=BLUE, label="$c^2$, the paper's equation 2")
    law = [expected_cosine(x) for x in c]
    axes.plot(c, law, color=ORANGE, linestyle="--", label=r"$\frac{2}{\pi}\,c\,\mathrm{arcsin}\,c$")
    draw_series(axes, curves["cosine ratio"], BLUE, "o", "simulated ratio of expected improvements")
    draw_series(axes, curves["cosine"], ORANGE, "s", r"simulated $E[\cos\theta]$")
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate(
        "long random 0/1 inputs:\n.25 and 1/6",
        (0.5, 0.02),
        xytext=(6, 0),
        textcoords="offset points",
        color="0.25",
        fontsize=9,
    )
    axes.set(xlabel="cosine $c$ of the two inputs", ylabel="transfer from A to B", xlim=(0, 1.02))
    axes.set_title("Transfer between two associations")
    axes.legend(frameon=False)
    return Picture(
        name="transfer-cosine",
        figure=figure,
        alt="Transfer between two associations against the cosine of their inputs: c squared "
        "for the ratio of improvements, a lower curve for the expected cosine.",
        caption="What equation 2 says and what it does not: the ratio of expected improvements "
        "is c², the expected cosine is less. Bars are three standard errors.",
    )


def size_picture(curves: Mapping[str, Series]) -> Picture:
    """Against the inputs' length n: single pairs, and sets that grow with n."""
    figure = new_figure(8.4, 4.0)
    pairs, sets = figure.subplots(1, 2)
    n = np.arange(8, 400)
    pairs.plot(n, [pair_ratio(binary(), int(k)) for k in n], color=BLUE)
    draw_series(pairs, curves["pairs binary"], BLUE, MARKERS[0], "0/1, p = .5")
    pairs.plot(n, 1 / n, color=GREY, linestyle="--", label="1/n")
    for p, colour, marker in zip(TERNARY_P, (ORANGE, GREEN, PURPLE), MARKERS[1:4], strict=True):
        label = f"−1/0/1, p = {p:g}"
        draw_series(pairs, curves[f"pairs ternary {p:g}"], colour, marker, label)
        law = [retrained_set_ratio(int(k) // 4, set_overlap(ternary(p), int(k))) for k in n[::4]]
        sets.plot(n[::4], law, color=colour)
        draw_series(sets, curves[f"load {p:g}"], colour, marker, label)
    limit = load_limit(ternary(), 0.25)
    sets.axhline(limit, color=GREY, linestyle=":", label=f"limit ρ/(1 + ρ) = {limit:g}")
    for axes in (pairs, sets):
        axes.set_xscale("log")
        axes.set_xlabel("length n of the inputs")
        axes.legend(frameon=False, loc="lower left" if axes is pairs else "lower right")
    pairs.set(yscale="log", ylabel="transfer", title="Between two associations")
    sets.set(ylim=(0, 0.26), ylabel="unretrained / retrained", title="n/4 associations retrained")
    return Picture(
        name="transfer-size",
        figure=figure,
        alt="Transfer against the length of the inputs, between two associations and for a "
        "load proportional to the length.",
        caption="With −1/0/1 inputs a pair transfers 1/n, and a load proportional to n makes "
        "up for it.",
    )


def retrained_set_picture(curves: Mapping[str, Series]) -> Picture:
    """Unretrained over retrained improvement against how many are retrained, 0/1 inputs."""
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    m = np.arange(1, 101)
    axes.plot(
        m,
        [retrained_set_ratio(int(k), 0.25) for k in m],
        color=BLUE,
        label="m c / (1 + (m − 1) c), c = .25",
    )
    draw_series(axes, curves["set"], ORANGE, "o", "simulated, n = 100")
    for k, place in ((10, "left"), (50, "center")):
        ratio = retrained_set_ratio(k, 0.25)
        axes.annotate(
            f"m = {k}: {ratio:.3f}".replace("0.", "."),
            (k, ratio),
            xytext=(6, -16),
            textcoords="offset points",
            ha=place,
            color="0.25",
            fontsize=9,
        )
    axes.set(xlabel="retrained associations m", ylabel="unretrained / retrained", ylim=(0, 1.02))
    axes.set_title("A first small step on m associations, 0/1 inputs")
    axes.legend(frameon=False, loc="lower right")
    return Picture(
        name="transfer-set",
        figure=figure,
        alt="Unretrained over retrained improvement against the number retrained.",
        caption="The more associations are retrained, the more nearly the others keep up: "
        ".769 at 10, .943 at 50.",
    )


def course_picture(curves: Mapping[str, Series]) -> Picture:
    """How the cumulative ratio changes while retraining goes on: one falls, one rises."""
    figure = new_figure(6.6, 4.2)
    axes = figure.add_subplot()
    styles = (
        ("binary", "0/1, p = .5", 0.5, BLUE, "o"),
        ("ternary", "−1/0/1, p = .05", 0.0, ORANGE, "s"),
    )
    for name, label, share, colour, marker in styles:
        series = curves[f"course {name}"]
        axes.plot(series.x, series.expected, color=colour)
        draw_series(axes, series, colour, marker, label)
        limit = [course_limit(share, 0.5, time) for time in np.geomspace(1e-3, 1e3, 120)]
        axes.plot(*zip(*limit, strict=True), color=colour, linestyle="--", linewidth=1)
    axes.plot([], [], color=GREY, label="formula for these inputs")
    axes.plot([], [], color=GREY, linestyle="--", linewidth=1, label="limit of large n")
    axes.set(
        xlabel="removed fraction of the retrained items' error",
        ylabel="unretrained / retrained, so far",
        xlim=(0, 1.02),
        ylim=(0, 1.05),
        title="Retraining n/2 of the associations, n = 100",
    )
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(0.02, 0.58))
    return Picture(
        name="transfer-course",
        figure=figure,
        alt="Cumulative transfer while retraining proceeds: falling for 0/1 inputs, rising for "
        "sparse −1/0/1 inputs.",
        caption="Transfer while retraining proceeds (section 5.3), and the case in which it "
        "does not decline.",
    )


def two_weights_picture(curves: Mapping[str, Series]) -> Picture:
    """The paper's figure 4 with what it says: lines, circle, ellipse, arcs; and the probability."""
    figure = new_figure(9.2, 4.4)
    plane, chance = figure.subplots(1, 2, width_ratios=(1, 1))
    _draw_plane(plane)
    _draw_chance(chance, curves["two weights"])
    return Picture(
        name="transfer-two-weights",
        figure=figure,
        alt="The two-weight network of figures 3 and 4: two solution lines, the circle of "
        "perturbed weights that retraining turns into an ellipse, arcs of positive transfer; "
        "beside it the probability of positive transfer, from two thirds to a half.",
        caption="Figures 3 and 4 of the paper. Perturbed weights lie on a circle around the "
        "solution O; retraining association 1 moves every point P towards line 1, and the "
        "circle becomes an ellipse. Thick arcs: a further step on association 1 also "
        "improves association 2.",
    )


def _draw_plane(axes: Axes) -> None:
    """Weight space around the solution O; line 1 is the first axis, retraining moves downwards."""
    b = np.array([np.sin(ANGLE), np.cos(ANGLE)])  # input 2; input 1 is (0, 1)
    along = np.array([b[1], -b[0]])  # line 2
    for end, name in ((np.array([1.0, 0.0]), "line 1"), (along, "line 2")):
        axes.plot(*np.stack([-1.45 * end, 1.45 * end], axis=1), color="black", linewidth=1)
        axes.annotate(
            name,
            tuple(1.45 * end),
            xytext=(3, 4),
            textcoords="offset points",
            fontsize=9,
            ha="left",
        )
    turn = np.linspace(0, 2 * np.pi, 1441)
    for k in (1.0, REMAINING):
        points = np.stack([np.cos(turn), k * np.sin(turn)])
        positive = points[1] * (b @ points) > 0
        axes.plot(*np.where(positive, points, np.nan), color=BLUE, linewidth=3)
        axes.plot(*np.where(positive, np.nan, points), color=ORANGE, linewidth=1.2)
    start = np.array([np.cos(np.radians(58)), np.sin(np.radians(58))])
    end = start * (1, REMAINING)
    arrow = {"arrowstyle": "->", "color": GREY, "shrinkA": 0, "shrinkB": 1}
    axes.annotate("", tuple(end), tuple(start), arrowprops=arrow)
    axes.plot(*start, "o", color="black", markersize=4)
    axes.annotate("P", tuple(start), xytext=(4, 3), textcoords="offset points")
    axes.plot(0, 0, "o", color="black", markersize=4)
    axes.annotate("O", (0, 0), xytext=(-5, 5), textcoords="offset points", ha="right")
    axes.plot([], [], color=BLUE, linewidth=3, label="association 2 improves")
    axes.plot([], [], color=ORANGE, linewidth=1.2, label="association 2 gets worse")
    axes.set(aspect="equal", xlim=(-1.75, 1.95), ylim=(-1.55, 1.75), xticks=[], yticks=[])
    axes.set(xlabel="first weight", ylabel="second weight")
    axes.set_title(f"Retraining association 1, lines at {np.degrees(ANGLE):.0f}°")
    axes.legend(frameon=False, loc="upper left", fontsize=9)


def _draw_chance(axes: Axes, series: Series) -> None:
    gone = np.linspace(0, 1, 101)
    axes.plot(
        gone,
        [positive_transfer(ANGLE, 1 - x) for x in gone],
        color=BLUE,
        label=r"$\frac{1}{2} + \frac{1}{\pi}\,\arctan(k\,\cot\varphi)$",
    )
    axes.plot(
        gone,
        [circumference_fraction(ANGLE, 1 - x) for x in gone],
        color=ORANGE,
        linestyle="--",
        label="share of the circumference, by length",
    )
    draw_series(axes, series, BLUE, "o", "simulated")
    axes.set(
        xlabel="retrained fraction 1 − k of association 1's error",
        ylabel="P(a further step improves association 2)",
        xlim=(-0.02, 1.02),
        ylim=(0.48, 0.7),
        title="Probability of positive transfer",
    )
    axes.legend(frameon=False, loc="upper right")


PICTURES = (
    cosine_picture,
    retrained_set_picture,
    size_picture,
    course_picture,
    two_weights_picture,
)
