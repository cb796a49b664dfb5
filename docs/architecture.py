"""Draw the floors of the package from its imports. Run as `python docs/architecture.py`.

The floors are those that `lint-imports` keeps (pyproject.toml), shaded in turn. From the square in
a room's row a line leads down to the rooms that it uses: dots, the larger the more modules do so.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import grimp
import tomllib
from matplotlib.patches import Rectangle

from fastweights.report.figures import ARM_STYLES, new_figure

ROOT = Path(__file__).parent.parent
ROOMS = {
    "cli": "the command: parses, calls, prints",
    "bench": "speed and memory beside peers",
    "generation": "text from a trained network",
    "experiments": "one file per study: arms, run, columns, contrasts, figures",
    "lab": "runs studies: plans, folders, processes, resume",
    "report": "tables, statistics, verdicts, the HTML page",
    "training": "loop, schedules, checkpoints, metrics, configurations",
    "tasks": "one generator per file",
    "theory": "closed forms beside their simulations",
    "nn": "layers and cells",
    "optim": "slow and fast weights for any optimizer",
    "ops": "recurrences and update rules: reference, C++, Triton",
    "decay": "how memories fade",
    "files": "files that come from anyone",
    "arguments": "arguments checked by name",
    "initial": "what parameters hold at the start",
}


def floors() -> list[list[str]]:
    """The rooms of each floor, from the top; those that the picture leaves out are not in it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    split = [[room.strip(" ()") for room in layer.split("|")] for layer in contract["layers"]]
    return [shown for floor in split if (shown := [room for room in floor if room in ROOMS])]


def imports() -> Counter[tuple[str, str]]:
    """How many modules of a room import one of another."""
    graph = grimp.build_graph("fastweights")
    counts: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        used = {_room(other) for other in graph.find_modules_directly_imported_by(module)}
        counts.update((_room(module), other) for other in used - {_room(module)})
    return counts


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def draw(path: Path) -> None:
    """Write the picture."""
    rooms = [(room, level) for level, floor in enumerate(floors()) for room in floor]
    at = {room: y for y, (room, _) in enumerate(rooms)}
    figure = new_figure(10.0, 0.42 * len(rooms) + 0.3)
    axes = figure.add_subplot()
    for y, (room, level) in enumerate(rooms):
        colour = ("0.93", "0.97")[level % 2]
        axes.add_patch(Rectangle((0, y - 0.5), 1, 1, facecolor=colour, linewidth=0))
        axes.text(0.01, y, room, va="center", weight="bold", fontsize=10)
        axes.text(0.135, y, ROOMS[room], va="center", fontsize=9, color="0.25")
    used_by: dict[str, list[tuple[float, int]]] = {room: [] for room in at}
    for (user, used), count in imports().items():
        if user in at and used in at:
            used_by[user].append((at[used], count))
    for (user, y), (colour, _) in zip(at.items(), ARM_STYLES, strict=False):
        if used_by[user]:
            x = 0.6 + 0.39 * y / len(at)
            places, counts = zip(*used_by[user], strict=True)
            axes.plot([x, x], [y, max(places)], color=colour, linewidth=1)
            axes.plot(x, y, "s", color=colour, markersize=7)
            sizes = [14 * count**0.5 for count in counts]
            axes.scatter([x] * len(places), places, sizes, color=colour, zorder=3)
    axes.set(xlim=(0, 1), ylim=(len(rooms) - 0.5, -0.5), xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)
    figure.savefig(path, dpi=144)


if __name__ == "__main__":
    draw(ROOT / "docs" / "images" / "architecture.png")
