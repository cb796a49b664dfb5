"""The command ``fastweights``: list, run, sweep, report, generate and bench."""

from __future__ import annotations

import errno
import functools
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from fastweights import __version__, generation
from fastweights.bench.base import Settings, Unit, run_benchmark
from fastweights.bench.progress import Bar
from fastweights.bench.registry import BENCHMARKS
from fastweights.bench.registry import find as find_benchmark
from fastweights.files import write_json
from fastweights.lab import pool, ray_pool
from fastweights.lab.chapters import chapters_of
from fastweights.lab.display import Display
from fastweights.lab.plan import Plan
from fastweights.lab.registry import EXPERIMENTS, find
from fastweights.lab.runner import run_units, taken_away
from fastweights.lab.sweep import (
    Sweep,
    holds,
    load_sweep,
    prepare_sweep,
    read_grid,
    runs_in,
    seeds_in,
)
from fastweights.report.figures import own_style
from fastweights.report.html import Chapter, write_figures, write_report
from fastweights.report.terminal import err, out, show_section, show_table
from fastweights.training.config import ConfigError, nearest, with_overrides

app = typer.Typer(
    help="Fast weights: experiments that redo what was published, with statistics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)


# What the commands share.
Name = Annotated[str, typer.Argument(help="Which experiment; `fastweights list` shows them.")]
Preset = Annotated[str, typer.Option(help="Named settings.")]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="How many seeds; the preset has its own number.")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda or cuda:N.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Worker processes.  [default: the number of cores]")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
]
RETRIES = 2


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
    table = Table(box=None, pad_edge=False)
    for column in ("experiment", "what it redoes", "presets (seeds)"):
        table.add_column(column)
    for experiment in map(find, EXPERIMENTS):
        presets = ", ".join(f"{p} ({experiment.seeds[p]})" for p in experiment.presets)
        table.add_row(experiment.name, experiment.summary, presets)
    out.print(table)


@app.command()
def run(
    name: Name,
    preset: Preset = "quick",
    seeds: Seeds = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the results.  [default: runs/NAME-PRESET]"),
    ] = None,
    device: Device = "cpu",
    workers: Workers = None,
    resume: Resume = False,
    tensorboard: TensorBoard = False,
    overrides: Overrides = None,
) -> None:
    """Run an experiment, and end with a table and a report."""
    folder = out_folder or Path("runs") / f"{name}-{preset}"
    plan = _plan(name, preset, seeds, folder, device, resume, tensorboard, overrides)
    _carry_out(Sweep(plan), plan.command(), workers, tensorboard, resume)


@app.command()
def sweep(
    name: Name,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2,…", help="Run every value; more keys: every combination."),
    ] = None,
    preset: Preset = "quick",
    seeds: Seeds = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the results.  [default: runs/NAME-PRESET-sweep]"),
    ] = None,
    device: Device = "cpu",
    workers: Workers = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on this Ray cluster; local starts one here."),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a run that fails is tried again.")
    ] = RETRIES,
    resume: Resume = False,
    tensorboard: TensorBoard = False,
    overrides: Overrides = None,
) -> None:
    """Run an experiment for every combination of settings, here or on a Ray cluster."""
    folder = out_folder or Path("runs") / f"{name}-{preset}-sweep"
    attempts = retries + 1
    words = [] if retries == RETRIES else ["--retries", str(retries)]
    execute: pool.Execute = functools.partial(pool.run_all, attempts=attempts)
    if ray is not None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError('--ray needs: pip install "fastweights[ray]"')
        if device != "cpu":
            raise ConfigError(f"--ray computes on CPUs: --device must be cpu, got {device!r}")
        words += ["--ray", ray]
        execute = functools.partial(ray_pool.run_all, attempts=attempts, address=ray, folder=folder)
    plan = _plan(name, preset, seeds, folder, device, resume, tensorboard, overrides)
    whole = Sweep(plan, read_grid(grid or []))
    _carry_out(whole, whole.command(), workers, tensorboard, resume, words, execute)


def _plan(
    name: str,
    preset: str,
    seeds: int | None,
    folder: Path,
    device: str,
    resume: bool,
    tensorboard: bool,
    overrides: list[str] | None,
) -> Plan:
    """What the command line asks for, checked as far as it can be without its folder."""
    experiment = find(name)
    if preset not in experiment.presets:
        raise ConfigError(f"unknown preset {preset!r}: {nearest(preset, list(experiment.presets))}")
    config = with_overrides(experiment.presets[preset](), overrides or [])
    _check_device(device)
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError('--tensorboard needs: pip install "fastweights[tensorboard]"')
    if seeds is None:
        seeds = (seeds_in(folder) if resume else None) or experiment.seeds[preset]
    return Plan(experiment, preset, config, seeds, folder, device)


def _carry_out(
    whole: Sweep,
    command: str,
    workers: int | None,
    tensorboard: bool,
    resume: bool,
    more: Sequence[str] = (),
    execute: pool.Execute | None = None,
) -> None:
    """Do what is left to do, show what came out, and exit with 1 if a run failed."""
    folder = whole.base.folder
    words = ["--out", str(folder), *more, "--resume"]
    if workers is not None:
        words += ["--workers", str(workers)]
    elif whole.base.device.startswith("cuda"):
        workers = 1
    command = f"{command} {shlex.join(words)}" + " --tensorboard" * tensorboard
    try:
        prepare_sweep(whole, resume=resume)
        whole = load_sweep(folder)  # which knows whether its files have checksums
        homes = {name: Path(name) for name in whole.runs}
        with Display(list(whole.runs.values()), homes) as display:
            failures = run_units(
                list(homes.values()),
                folder=folder,
                workers=workers,
                tensorboard=tensorboard,
                tick=display.tick,
                execute=execute,
            )
        chapters = chapters_of(whole, failures)
        path = folder / "report.html"
        if not holds(folder):
            raise taken_away(folder)
        try:
            write_report(path, chapters)
        finally:  # the numbers are shown even if there is no room for the page
            show_section(chapters[0].section)
            failed = _list_failures(chapters[:1])
        out.print(f"\nReport: {path}", soft_wrap=True)
    except KeyboardInterrupt:
        err.print(f"Stopped; nothing is lost. Go on with:\n  {command}", soft_wrap=True)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read what we print has had enough
            raise
        err.print(f"Error: {error}", soft_wrap=True)
        failed = True
    if failed:
        err.print(
            f"What was finished is kept. Mended, it goes on with:\n  {command}", soft_wrap=True
        )
        raise typer.Exit(1)


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR…", help="Folders of runs and sweeps, or folders of those."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    figures: Annotated[
        Path | None, typer.Option(help="Write every figure as a PNG into this folder too.")
    ] = None,
) -> None:
    """Make one HTML page from the folders of one or more runs."""
    _check_output(output)
    chapters: list[Chapter] = []
    wholes: list[Chapter] = []
    for whole in [load_sweep(run) for folder in folders for run in runs_in(folder)]:
        found = chapters_of(whole)
        if figures is not None:
            for chapter in found:
                write_figures(figures / chapter.name if whole.grid else figures, chapter.section)
        chapters += found
        wholes.append(found[0])
    write_report(output, chapters)
    out.print(f"Report: {output}", soft_wrap=True)
    if _list_failures(wholes):
        raise typer.Exit(1)


def _check_output(path: Path) -> None:
    """Make the folder of a file that will be written, and see that it replaces only a file.

    Raises:
        ConfigError: a device, a pipe, a folder or a link (``/dev/stdout`` is one) has its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"{path} is not a regular file; choose another to write to")


@app.command()
def generate(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run of language, or one network of it.")
    ],
    prompt: Annotated[str, typer.Option(help="Where the text begins.")],
    length: Annotated[int, typer.Option(help="How many characters to add.")] = 500,
    temperature: Annotated[
        float, typer.Option(help="Below 1 safer, above 1 wilder; 0 is always the likeliest.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
) -> None:
    """Continue a text, a character at a time, with the best network of a run."""
    generation.generate(
        folder,
        prompt,
        length=length,
        temperature=temperature,
        seed=seed,
        show=functools.partial(typer.echo, nl=False),
        note=functools.partial(err.print, soft_wrap=True),
    )


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help=f"{', '.join(BENCHMARKS)}.")] = "recurrence",
    cases: Annotated[
        str,
        typer.Option(help="Which, with commas: 128x11x50,8x4096x128 or sgd-1e6.  [default: all]"),
    ] = "",
    peers: Annotated[
        str, typer.Option(help="Against whom, with commas: lstm,eager-matrix.  [default: all]")
    ] = "",
    threads: Annotated[
        str, typer.Option(help="How many threads, with commas.  [default: 1, and all]")
    ] = "",
    rounds: Annotated[int, typer.Option(min=3, help="Rounds that medians are taken over.")] = 15,
    budget: Annotated[
        float, typer.Option(min=0, help="Seconds for a peer in a case; slower ones are skipped.")
    ] = 10.0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda or cuda:N.")] = "cpu",
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Time torch.compile too; it needs a C++ compiler."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option(help="Time first calls, in new processes with empty caches.")
    ] = True,
    install: Annotated[
        bool,
        typer.Option("--install", help="Time `pip install` of this source to a first gradient."),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything that was measured here.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Write every figure as a PNG into this folder.")
    ] = None,
) -> None:
    """Measure speed and memory beside peers that run in the same process."""
    benchmark = find_benchmark(name)
    _check_device(device)
    if json_file is not None:
        _check_output(json_file)
    settings = Settings(
        cases=_names(cases),
        peers=_names(peers),
        compile=compile,
        threads=_thread_counts(threads, device),
        rounds=rounds,
        budget=budget,
        device=device,
        fresh=fresh,
        install=install,
    )
    units = benchmark.units(settings)
    with Bar(units) as bar:

        def done(unit: Unit, report: dict[str, Any]) -> None:
            bar.done(unit)
            if json_file is not None:
                write_json(json_file, report)  # a kill leaves what was measured so far

        report = run_benchmark(benchmark, settings, units, done)
    with own_style():
        section = benchmark.section(report)
    for table in section.tables:
        if table.rows:
            out.print()
            out.print(table.caption)
            show_table(table)
    if json_file is not None:
        out.print(f"\nMeasurements: {json_file}", soft_wrap=True)
    if figures is not None:
        write_figures(figures, section)
    wrong = [row for row in report["rows"] if "disagrees" in row]
    for row in wrong:
        err.print(f"{row['case']} is not timed: {row['disagrees']}", soft_wrap=True)
    if wrong:
        raise typer.Exit(1)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _thread_counts(text: str, device: str) -> tuple[int, ...]:
    if not text:
        every = torch.get_num_threads()
        return (every,) if device != "cpu" else tuple(sorted({1, every}))
    counts = []
    for part in _names(text):
        if not part.isdecimal() or int(part) < 1:
            raise ConfigError(f"threads must be counts of at least 1, got {part!r}")
        counts.append(int(part))
    return tuple(counts)


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda or cuda:N, got {device!r}") from None
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} is not there: torch sees no CUDA device")


def _list_failures(chapters: Sequence[Chapter]) -> bool:
    """Show what failed; whether anything did."""
    failures = [item for chapter in chapters for item in chapter.failures.items()]
    damaged = [text for chapter in chapters for text in chapter.damaged]
    if failures:
        err.print(f"{len(failures)} run(s) did not finish:")
        for name, reason in failures:
            err.print(f"  {name}: {reason}", soft_wrap=True)
    for text in damaged:
        err.print(text, soft_wrap=True)
    return bool(failures or damaged)
