"""The command ``fastweights``: list, run, sweep, report, generate and bench."""

from __future__ import annotations

import dataclasses
import errno
import functools
import importlib.util
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from fastweights import __version__
from fastweights.bench.base import Settings, Unit, run_benchmark
from fastweights.bench.registry import BENCHMARKS
from fastweights.bench.registry import find as find_benchmark
from fastweights.experiments.base import NOT_FINISHED, Result
from fastweights.experiments.language_study.generation import (
    CHECKPOINT,
    best_network,
    load_network,
    stream_text,
)
from fastweights.experiments.plan import Plan, results_of
from fastweights.experiments.registry import EXPERIMENTS, find
from fastweights.experiments.runner import run_units, taken_away
from fastweights.experiments.sweep import (
    Cell,
    Sweep,
    holds,
    load_sweep,
    prepare_sweep,
    read_grid,
    runs_in,
    seeds_in,
)
from fastweights.files import is_there, printable, read_json, write_json
from fastweights.report.figures import own_style
from fastweights.report.html import Chapter, write_figures, write_report
from fastweights.report.section import Section, Table
from fastweights.training import pool, ray_pool
from fastweights.training.config import ConfigError, as_dict, nearest, with_overrides
from fastweights.training.display import Display

__all__ = ["app"]

app = typer.Typer(
    help="Fast weights: experiments that redo what was published, with statistics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)


class _PlainConsole(Console):
    """Shows text as it is, wherever it came from.

    "[x]" is no style, ":x:" no picture, and an escape sequence is shown and not obeyed.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, stderr=stderr)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


out, err = _PlainConsole(), _PlainConsole(stderr=True)

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
    table = RichTable(box=None, pad_edge=False)
    for column in ("experiment", "what it redoes", "presets (seeds)"):
        table.add_column(column)
    for experiment in EXPERIMENTS.values():
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
        chapters = _chapters(whole, failures)
        path = folder / "report.html"
        if not holds(folder):
            raise taken_away(folder)
        try:
            write_report(path, chapters)
        finally:  # the numbers are shown even if there is no room for the page
            _show(chapters[0].section)
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
        found = _chapters(whole)
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
    home = best_network(folder)
    model, alphabet = load_network(home)
    characters = stream_text(
        model, alphabet, prompt, length=length, temperature=temperature, seed=seed
    )
    if home != folder:
        err.print(f"The best of {folder}: {home.name}", soft_wrap=True)
    typer.echo(prompt, nl=False)
    try:
        for character in characters:
            typer.echo(printable(character), nl=False)
    except FloatingPointError as error:
        raise ConfigError(f"{home / CHECKPOINT} is of no use: {error}") from None
    finally:
        typer.echo()


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
    with _Bar(units) as bar:

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
            _show_table(table)
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


class _Bar:
    """How far a benchmark is, and how long still; a line for each unit without a terminal."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=err,
            disable=not err.is_terminal,
            speed_estimate_period=600,
        )
        self._units = list(units)
        self._task = self._progress.add_task(
            self._units[0].label, total=sum(unit.weight for unit in units)
        )

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def done(self, unit: Unit) -> None:
        following = self._units[self._units.index(unit) + 1 :]
        self._progress.update(
            self._task,
            advance=unit.weight,
            description=following[0].label if following else "done",
        )
        if not err.is_terminal:
            err.print(f"{self._progress.tasks[0].percentage:3.0f} % done: {unit.label}")


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda or cuda:N, got {device!r}") from None
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} is not there: torch sees no CUDA device")


def _chapters(whole: Sweep, failures: Mapping[str, str] = MappingProxyType({})) -> list[Chapter]:
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


def _show_table(table: Table) -> None:
    shown = RichTable(box=None, padding=(0, 2, 0, 0))
    for i, column in enumerate(table.columns):
        shown.add_column(column, no_wrap=i == 0)
    for row in table.rows:
        shown.add_row(*row)
    out.print(shown)


def _compact(title: str) -> RichTable:
    return RichTable(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))


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
