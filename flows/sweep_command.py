"""The command `python -m flows.sweep`. It imports neither Prefect, torch nor Optuna to say what is wrong."""

from __future__ import annotations

import datetime
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from flows import cli
from flows.cli import DONE, FAILED, Debug, console, errors
from smollm3_ft import layers, locks, models, plan, redaction, resolve, searchspace, sources, sweeping, sweepreport
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError, FinetuneError, RunBusy, Stopped
from smollm3_ft.searchspace import Sweep

Words = Annotated[
    list[str] | None, typer.Argument(metavar="[RECIPE or FILE.yaml] [key=value ...] [sweep.key=value ...]")
]


def sweep() -> int:
    """Returns the command's exit code."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(_sweep)
    return cli.guarded(command, prog_name="python -m flows.sweep")


def _sweep(
    words: Words = None,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Go on although code, lock or a source changed."),
    ] = False,
    debug: Debug = False,  # noqa: ARG001  # read by guarded
) -> None:
    """Search for better values of any key: each trial is a fine-tuning, judged by its validation rows."""
    config, asked = load(words or [])
    _check_first(config, asked, accept_changes)
    raise typer.Exit(_run(config, asked))


def load(words: list[str]) -> tuple[Config, Sweep]:
    """The configuration and the search that the words of a command mean, with the name settled."""
    given, file = layers.of_command(words)
    for layer in (file, given):
        redaction.check(layer, os.environ)
    asked = searchspace.read(file, given)
    config = resolve.resolve(_without_sweep(given), os.environ, _without_sweep(file)).config
    searchspace.check(config, asked)
    if config.name is None:
        name = sweeping.to_go_on_with(config, asked)
        name = name or sweeping.new_name(Path(config.runs_dir), datetime.datetime.now())
        config = config.model_copy(update={"name": name})
    return config, asked


def _without_sweep(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "sweep"}


def _check_first(config: Config, asked: Sweep, accept_changes: bool) -> None:
    """What is wrong is said before a server is started: exit code 2, or 1 where the sweep is busy."""
    runs_dir, name = Path(config.runs_dir), str(config.name)
    plan.check_writable(runs_dir)
    if locks.is_held_by_the_living(runs_dir, sweeping.lock(name)):
        owner = locks.owner(runs_dir, sweeping.lock(name))
        raise RunBusy(f"sweep {name} is being worked on by {owner}", "give another name")
    if (runs_dir / sweeping.FOLDER / name / sweeping.RECORD).is_file():
        from smollm3_ft import trials

        trials.check_unfinished(sweeping.begin(config, asked), accept_changes)
        return
    if not models.is_on_hub(config.model.name):
        models.pin(config.model, runs_dir)
    if isinstance(config.data.source, str) and not sources.is_on_hub(config.data.source):
        sources.locate(config.data, runs_dir)


def _run(config: Config, asked: Sweep) -> int:
    """Run the flow against a server and report. Returns the exit code."""
    from flows import session

    runs_dir = Path(config.runs_dir)
    folder = runs_dir / sweeping.FOLDER / str(config.name)
    console.print(f"[bold]{config.name}[/]  {asked.trials} trials of {', '.join(asked.space)}")
    with session.opened(runs_dir, "flows.sweep", console):
        from prefect.exceptions import TerminationSignal

        from flows.sweep import sweep_flow

        try:
            written = sweep_flow(config, asked)
        except KeyboardInterrupt:
            return _stopped(folder, 128 + signal.SIGINT)
        except (Stopped, SystemExit, TerminationSignal):
            return _stopped(folder, 128 + signal.SIGTERM)
        except Exception as error:
            if isinstance(error, ConfigError | RunBusy) or "--debug" in sys.argv:
                raise  # said in its own words
            return _failed(folder, error)
    return _summary(folder, written)


def _summary(folder: Path, written: dict[str, Any]) -> int:
    rows = sweepreport.rows(sweeping.read(folder), written)
    table = Table(box=None, padding=(0, 2))
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(escape, row.values()))
    console.print(table)
    console.print(f"[green]{written['status']}[/]  {folder / 'report.html'}", soft_wrap=True)
    return DONE


def _failed(folder: Path, error: Exception) -> int:
    known = isinstance(error, FinetuneError)
    cause = str(error) if known else f"{type(error).__name__}: {error}; see it whole with --debug"
    errors.print(f"[red]the sweep failed:[/] {escape(cause)}", soft_wrap=True)
    return _go_on(folder, FAILED)


def _stopped(folder: Path, code: int) -> int:
    errors.print("Interrupted; what was done is kept.")
    return _go_on(folder, code)


def _go_on(folder: Path, code: int) -> int:
    if (folder / sweeping.RECORD).is_file():
        errors.print(f"Go on:  {sweepreport.command(sweeping.read(folder))}", soft_wrap=True)
    return code
