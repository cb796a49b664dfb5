"""Chapters of a report from the folders of runs and sweeps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fastweights.files import is_there, printable, read_json
from fastweights.lab.experiment import NOT_FINISHED, Result
from fastweights.lab.plan import Plan, results_of
from fastweights.lab.sweep import Cell, Sweep
from fastweights.report.figures import own_style
from fastweights.report.html import Chapter
from fastweights.report.section import Section
from fastweights.training.config import ConfigError, as_dict


def chapters_of(whole: Sweep, failures: Mapping[str, str] = MappingProxyType({})) -> list[Chapter]:
    """One for each cell; before them, if there is a grid, one for the whole.

    Args:
        whole: what to show.
        failures: why runs failed just now, by folder: their own may have had no room to say so.
    """
    chapters = [_chapter(cell, failures) for cell in whole.cells]
    if not whole.grid:
        return chapters
    environments = [e for chapter in chapters for e in chapter.environments]
    return [
        Chapter(
            name=whole.base.folder.name,
            section=whole.section([chapter.section for chapter in chapters]),
            command=whole.command(),
            settings={**as_dict(whole.base.config), **whole.grid},
            environments=[e for i, e in enumerate(environments) if e not in environments[:i]],
            damaged=[text for chapter in chapters for text in chapter.damaged],
            failures={
                f"{chapter.name}/{name}": reason
                for chapter in chapters
                for name, reason in chapter.failures.items()
            },
        ),
        *chapters,
    ]


def _chapter(cell: Cell, failures: Mapping[str, str]) -> Chapter:
    plan = cell.plan
    environments, damaged = _environments(plan)
    found = []
    for result in results_of(plan):
        reason = failures.get(str(plan.unit_folder(result.unit).absolute()))
        if result.failure == NOT_FINISHED and reason is not None:
            result = dataclasses.replace(result, failure=printable(reason))
        found.append(result)
    section, results = _section(plan, found)
    return Chapter(
        name=cell.name or plan.folder.name or plan.experiment.name,
        section=section,
        command=plan.command(),
        settings=as_dict(plan.config),
        environments=environments,
        failures={r.unit.name: r.failure or "" for r in results if r.values is None},
        damaged=damaged,
    )


def _environments(plan: Plan) -> tuple[list[dict[str, Any]], list[str]]:
    """The machines that the units ran on, and which of their files cannot be read and why."""
    environments: list[dict[str, Any]] = []
    damaged = []
    for unit in plan.units:
        path, root = plan.unit_folder(unit) / "environment.json", plan.root or plan.folder
        try:
            if not is_there(path, root):
                continue
            found = read_json(path, root, checksum=plan.has_checksums)
            if not isinstance(found, dict):
                raise ValueError(f"{path} does not describe a machine")
        except ValueError as error:
            damaged.append(str(error))
        else:
            if found not in environments:
                environments.append(found)
    return environments, damaged


def _section(plan: Plan, results: Sequence[Result]) -> tuple[Section, Sequence[Result]]:
    """The section; results that it cannot be made from, of another version perhaps, are failures.

    Raises:
        ConfigError: none can be made without them either.
    """
    make = own_style()(functools.partial(plan.experiment.section, plan.config, folder=plan.folder))
    if not any(result.has_begun for result in results):
        intro = "No run has come to a result."
        return Section(plan.experiment.title, intro, claims=[], tables=[], pictures=[]), results
    try:
        return make(results=results), results
    except Exception:  # whatever a file that is no result of ours leads to
        checked = [_alone(plan, result, results, make) for result in results]
    try:
        return make(results=checked), checked
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"the results in {plan.folder} cannot be shown: {reason}") from error


def _alone(
    plan: Plan, result: Result, results: Sequence[Result], make: Callable[..., Section]
) -> Result:
    """A result if a section can be made from it beside failures, otherwise a failure."""
    if result.values is None:
        return dataclasses.replace(result, curve=())
    others = [r if r is result else Result(r.unit, None, "") for r in results]
    try:
        make(results=others)
    except Exception as error:
        path = plan.unit_folder(result.unit) / "result.json"
        reason = f"{path} is no result of this experiment: {type(error).__name__}: {error}"
        return Result(result.unit, None, reason)
    return result
