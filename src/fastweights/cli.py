"""The command ``fastweights``: list, run and report."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable

from fastweights import __version__
from fastweights.experiments.base import Result
from fastweights.experiments.registry import EXPERIMENTS, find
from fastweights.experiments.runner import (
    Plan,
    load_plan,
    prepare,
    results_of,
    run_plan,
    stored_seeds,
)
from fastweights.report.html import Chapter, write_figures, write_report
from fastweights.report.section import Section
from fastweights.training.config import ConfigError, as_dict, nearest, with_overrides
from fastweights.training.display import Display
from fastweights.training.files import read_json

__all__ = ["app"]

app = typer.Typer(
    help="Fast weights: experiments that redo what was published, with statistics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)
# Paths and messages are shown as they are: "[x]" is no style, ":x:" no picture.
out = Console(markup=False, emoji=False, highlight=False)
err = Console(markup=False, emoji=False, highlight=False, stderr=True)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_experiments() -> None:
    """List the experiments and their presets."""
    table = RichTable(box=None, pad_edge=False)
    for column in ("experiment", "what it redoes", "presets (seeds)"):
        table.add_column(column)
    for experiment in EXPERIMENTS.values():
        presets = ", ".join(f"{p} ({experiment.seeds[p]})" for p in experiment.presets)
        table.add_row(experiment.name, experiment.summary, presets)
    out.print(table)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Which experiment; `fastweights list` shows them.")],
    preset: Annotated[str, typer.Option(help="Named settings.")] = "quick",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds; the preset has its own number.")
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the results.  [default: runs/NAME-PRESET]"),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda or cuda:N.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes.  [default: the number of cores]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
) -> None:
    """Run an experiment, and end with a table and a report."""
    experiment = find(name)
    if preset not in experiment.presets:
        raise ConfigError(f"unknown preset {preset!r}: {nearest(preset, list(experiment.presets))}")
    config = with_overrides(experiment.presets[preset](), overrides or [])
    _check_device(device)
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError('--tensorboard needs: pip install "fastweights[tensorboard]"')
    folder = out_folder or Path("runs") / f"{name}-{preset}"
    if seeds is None:
        seeds = (stored_seeds(folder) if resume else None) or experiment.seeds[preset]
    plan = Plan(experiment, preset, config, seeds, folder, device)
    prepare(plan, resume=resume)
    if workers is None:
        workers = 1 if device.startswith("cuda") else max(1, torch.get_num_threads())
    try:
        with Display(plan.units, {u.name: plan.unit_folder(u) for u in plan.units}) as display:
            run_plan(plan, workers=workers, tensorboard=tensorboard, tick=display.tick)
    except KeyboardInterrupt:
        words = ["--out", str(folder), "--workers", str(workers), "--resume"]
        command = f"{plan.command()} {shlex.join(words)}" + " --tensorboard" * tensorboard
        err.print(f"Stopped; nothing is lost. Go on with:\n  {command}", soft_wrap=True)
        raise typer.Exit(130) from None
    results = results_of(plan)
    section = experiment.section(plan.config, results, plan.folder)
    _show(section)
    path = folder / "report.html"
    write_report(path, [_chapter(plan, section, results)])
    out.print(f"\nReport: {path}", soft_wrap=True)
    _exit_if_failed({plan.folder: results})


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of runs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    figures: Annotated[
        Path | None, typer.Option(help="Write every figure as a PNG into this folder too.")
    ] = None,
) -> None:
    """Make one HTML page from the folders of one or more runs."""
    plans = [load_plan(folder) for folder in folders]
    everything = {plan.folder: results_of(plan) for plan in plans}
    chapters = []
    for plan in plans:
        results = everything[plan.folder]
        section = plan.experiment.section(plan.config, results, plan.folder)
        chapters.append(_chapter(plan, section, results))
        if figures is not None:
            write_figures(figures, section)
    write_report(output, chapters)
    out.print(f"Report: {output}", soft_wrap=True)
    _exit_if_failed(everything)


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda or cuda:N, got {device!r}") from None
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} is not there: torch sees no CUDA device")


def _chapter(plan: Plan, section: Section, results: list[Result]) -> Chapter:
    environments = []
    for unit in plan.units:
        path = plan.unit_folder(unit) / "environment.json"
        if path.exists() and (found := read_json(path)) not in environments:
            environments.append(found)
    return Chapter(
        name=plan.folder.name or plan.experiment.name,
        section=section,
        command=plan.command(),
        settings=as_dict(plan.config),
        environments=environments,
        failures={r.unit.name: r.failure or "" for r in results if r.values is None},
    )


def _show(section: Section) -> None:
    out.print()
    for table in section.tables[:1]:
        shown = _compact(section.title)
        for i, column in enumerate(table.columns):
            shown.add_column(column, no_wrap=i > 0)
        for row in table.rows:
            shown.add_row(*row)
        if Measurement.get(out, out.options.update(width=1000), shown).minimum > out.width:
            continue  # too wide for this terminal; the report has it
        out.print(shown)
        out.print(table.caption, style="dim")
    if section.claims:
        out.print()
        shown = _compact("Beside what was published")
        for column in ("claim", "published", "ours", "n", "verdict"):
            shown.add_column(column)
        for c in section.claims:
            shown.add_row(c.claim, c.published, c.ours, str(c.n), c.verdict)
        out.print(shown)


def _compact(title: str) -> RichTable:
    return RichTable(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))


def _exit_if_failed(results: Mapping[Path, list[Result]]) -> None:
    failed = [r for folder in results.values() for r in folder if r.values is None]
    if failed:
        err.print(f"{len(failed)} run(s) did not finish:")
        for result in failed:
            err.print(f"  {result.unit.name}: {result.failure}", soft_wrap=True)
        raise typer.Exit(1)
