"""What the recursion experiment says: rows of the ledger and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastweights.experiments.other_uses.recursion.network import RecursionConfig
from fastweights.experiments.other_uses.recursion.procedure import resume_states
from fastweights.experiments.other_uses.recursion.simulation import CONTROLS, MEMORIES
from fastweights.experiments.other_uses.shared import CONTROL, QUALITATIVE, ledger_row
from fastweights.report.section import Claim, Table
from fastweights.report.statistics import mean_interval

__all__ = ["claims", "control_table", "deepest", "memory_table"]

RIGHT, NEAR, RARE, CHANGE, DEEPER = 0.95, 0.02, 0.05, 0.1, 4  # bounds of the claims
OURS = "—"


def claims(config: RecursionConfig, values: Mapping[str, Any]) -> list[Claim]:
    """Rows of the ledger; the bound that a row is judged by stands in its words."""
    chains = {arm: np.array(rows) for arm, rows in values["controls"].items()}
    chains |= {memory: np.array(rows["chain"]) for memory, rows in values["memories"].items()}
    decays = [np.array(rows) for rows in values["decays"]["chain"]]
    stream = {arm: np.array(rows)[:, -5:].mean(1) for arm, rows in values["stream"].items()}
    column = {depth: i for i, depth in enumerate(config.control_depths)}
    few, many = min(config.context_counts), max(config.context_counts)
    few_deep, many_deep = (deepest(config.depths, values["units"][str(n)]) for n in (few, many))
    chance = 1 / len(resume_states(config.symbols))
    change = f"(≥ {100 * CHANGE:g})"
    return [
        ledger_row(
            f"callers recovered from the fast weights: % of runs right with {config.depth} callers "
            f"waiting, {config.context_units} context units (≥ {100 * RIGHT:g})",
            QUALITATIVE,
            chains["hebbian"][:, column[config.depth]],
            at_least=RIGHT,
        ),
        ledger_row(
            "they are gone later: % of runs right in the last 5 of "
            f"{config.stream} runs, {config.pause:,} steps apart, less those with fast weights "
            f"wiped (≥ −{100 * NEAR:g})",
            QUALITATIVE,
            stream["decays"] - stream["wiped"],
            at_least=-NEAR,
        ),
        ledger_row(
            f"control without decay, earlier runs interfere: % lost in the last 5 runs {change}",
            CONTROL,
            stream["wiped"] - stream["kept"],
            at_least=CHANGE,
        ),
        ledger_row(
            "control without fast weights, returns are at chance: % to the right state "
            f"({100 * chance:.1f} ± {100 * NEAR:g})",
            CONTROL,
            values["returns"]["none"],
            at_least=chance - NEAR,
            at_most=chance + NEAR,
        ),
        ledger_row(
            f"control, callers stored in slow weights at rate {config.slow_rate:g}: % of runs "
            f"right with {config.depth} callers (≤ {100 * RARE:g})",
            CONTROL,
            chains["slow"][:, column[config.depth]],
            at_most=RARE,
        ),
        ledger_row(
            "control, one cue for every call of the procedure: % of runs right with 2 callers "
            f"(≤ {100 * RARE:g})",
            CONTROL,
            chains["one cue"][:, column[2]],
            at_most=RARE,
        ),
        ledger_row(
            f"upper bound, exact copies on a stack: % of runs right with "
            f"{max(config.control_depths)} callers (≥ {100 * RIGHT:g})",
            CONTROL,
            chains["stack"][:, column[max(config.control_depths)]],
            at_least=RIGHT,
        ),
        ledger_row(
            f"it breaks by crosstalk: the most callers at which half the runs are right, {many} "
            f"context units less {few} (≥ {DEEPER})",
            OURS,
            many_deep - few_deep,
            at_least=DEEPER,
            scale=1,
        ),
        ledger_row(
            "errors of the recalled contexts add up: % of runs right, mean over depths, gained by "
            f"putting contexts right {change}",
            OURS,
            (chains["cued"] - chains["hebbian"]).mean(1),
            at_least=CHANGE,
        ),
        ledger_row(
            "calls that are over interfere: % of runs right, mean over depths, gained by erasing "
            f"what a return has recalled {change}",
            OURS,
            (chains["erased"] - chains["hebbian"]).mean(1),
            at_least=CHANGE,
        ),
        ledger_row(
            "and it breaks by decay: % of runs right, mean over depths, lost at decay "
            f"{config.decays[-1]:g} against {config.decays[0]:g} {change}",
            OURS,
            (decays[0] - decays[-1]).mean(1),
            at_least=CHANGE,
        ),
    ]


def deepest(depths: Any, right: Any) -> Any:
    """The greatest depth at which at least half of a seed's runs are right, (seeds,); 0 if none."""
    return np.where(np.array(right) >= 0.5, depths, 0).max(1)


def control_table(config: RecursionConfig, values: Mapping[str, Any]) -> Table:
    """Runs right by depth, with the fast weights and with every control."""
    columns = {"fast weights": values["memories"]["hebbian"]["chain"]}
    columns |= {label: values["controls"][arm] for arm, label in CONTROLS.items()}
    return _table(
        "Runs right in % with the 95 % interval over seeds, by how many callers wait at once "
        f"(chains; {config.context_units} context units, decay {config.decay:g}).",
        "callers waiting",
        config.control_depths,
        columns,
    )


def memory_table(config: RecursionConfig, values: Mapping[str, Any], shape: str) -> Table:
    """Runs right by depth, by rule; ``shape`` is "chain" or "tree"."""
    words, depths = {
        "chain": ("chains", config.control_depths),
        "tree": ("full trees, where calls double with every level", config.tree_depths),
    }[shape]
    columns = {label: values["memories"][memory][shape] for memory, label in MEMORIES.items()}
    return _table(f"Runs right in %, by rule: {words}.", "callers waiting", depths, columns)


def _table(caption: str, head: str, depths: Any, columns: Mapping[str, Any]) -> Table:
    arrays = [np.array(rows) for rows in columns.values()]
    return Table(
        caption=caption,
        columns=(head, *columns),
        rows=[
            [str(depth), *(mean_interval(rows[:, i]).text(1, 100) for rows in arrays)]
            for i, depth in enumerate(depths)
        ],
    )
