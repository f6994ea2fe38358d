"""The command line. It imports neither Prefect nor torch before it knows that there is something to run."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import chat_command, compare, data, doctor_command, export_command, gc, init_command, publish_command, rows
from flows import runs as listing
from smollm3_ft import agreement, disk, gate, layers, locks, plan, report, reproduce, resolve, runs
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError, FinetuneError, Problem, RunBusy, Stopped
from smollm3_ft.reproduce import Wanted
from smollm3_ft.resolve import Resolved

DONE, FAILED, USAGE, BLOCKED = 0, 1, 2, 3
Words = Annotated[list[str] | None, typer.Argument(metavar="[RECIPE or FILE.yaml] [key=value ...]")]
RunsDir = Annotated[str, typer.Argument(help="The folder of all runs.", metavar="[runs_dir=FOLDER]")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def main() -> NoReturn:
    """The command `smollm3-ft`."""
    sys.exit(guarded(app))


def finetune() -> int:
    """The command `python -m flows.finetune`. Returns its exit code."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(_finetune)
    return guarded(command, prog_name="python -m flows.finetune")


def _finetune(
    words: Words = None,
    show_plan: Annotated[bool, typer.Option("--plan", help="Resolve, check, estimate; spend nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; the old folder is set aside.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although code, lock or a source changed.")
    ] = False,
    again: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN or CARD", help="Train a run, or a card's model, again, and compare."),
    ] = None,
    debug: Debug = False,  # noqa: ARG001  # read by guarded
) -> None:
    """Fine-tune SmolLM3: from a configuration to a verified model and a report."""
    wanted = _wanted(again, words or []) if again is not None else None
    resolved = resolve.resolve({}, os.environ, wanted.values) if wanted else load(words or [])
    if show_plan:
        _show_plan(resolved, wanted.origin.revisions if wanted else None)
        return
    config = _named(resolved.config, wanted)
    runs_dir = Path(config.runs_dir)
    assert config.name is not None
    if wanted is not None and str(runs_dir / config.name) == wanted.origin.place:
        remedy = "give another name, or none"
        if fresh:
            remedy += f"; to start it over, not compare: {report.command(runs.read(runs_dir / config.name))} --fresh"
        raise ConfigError(Problem("name", "is the run that is to be trained again", remedy))
    _check_first(config, wanted, accept_changes, fresh)
    if fresh:
        aside = runs.set_aside(runs_dir, config.name)
        if aside:
            console.print(f"The old run is in {aside}")
    if wanted is not None:
        with locks.hold(runs_dir, config.name):
            runs.begin(config, wanted.origin)
    raise typer.Exit(_run(config))


def _wanted(again: str, words: list[str]) -> Wanted:
    """What is trained again; the words of the command may only change keys of it."""
    given, file = layers.of_command(words)
    if file or "recipe" in given:
        raise ConfigError(Problem("--from", "names the configuration already", "give only key=value beside it"))
    return reproduce.find(again, Path(given.get("runs_dir") or "runs").expanduser().absolute(), given)


def load(words: list[str]) -> Resolved:
    """The configuration that the words of a command mean."""
    given, file = layers.of_command(words)
    return resolve.resolve(given, os.environ, file)


def _named(config: Config, wanted: Wanted | None) -> Config:
    """The name given, or that of the run to go on with, or a new one."""
    if config.name is not None:
        return config
    runs_dir = Path(config.runs_dir)
    if wanted is not None:
        name = runs.to_go_on_with(config, wanted.origin) or reproduce.new_name(runs_dir, wanted.name)
    else:
        name = runs.to_go_on_with(config) or runs.new_name(runs_dir, datetime.datetime.now())
    return config.model_copy(update={"name": name})


def _check_first(config: Config, wanted: Wanted | None, accept_changes: bool, fresh: bool) -> None:
    """What is wrong is said before a server is started: exit code 2, or 1 where the run is busy."""
    from smollm3_ft import models, sources

    runs_dir = Path(config.runs_dir)
    assert config.name is not None
    plan.check_writable(runs_dir)
    folder = runs_dir / config.name
    if locks.is_held_by_the_living(runs_dir, config.name):
        raise RunBusy(f"{config.name} is being worked on by {locks.owner(runs_dir, config.name)}", "give another name")
    if (folder / runs.RECORD).is_file() and not fresh:
        run = runs.read(folder)
        runs.check_same(run, config, wanted and wanted.origin)
        if runs.status(folder) in runs.FINISHED:
            return
        if accept_changes:
            runs.accept_changes(folder)
        runs.check_unchanged(runs.read(folder))
        return
    # What is on this machine is looked at now; what is on the Hub, by the step `plan`.
    if not models.is_on_hub(config.model.name):
        models.pin(config.model, runs_dir)
    if isinstance(config.data.source, str) and not sources.is_on_hub(config.data.source):
        sources.locate(config.data, runs_dir)


def _run(config: Config) -> int:
    """Run the flow against a server and report. Returns the exit code."""
    from flows import session

    runs_dir, name = Path(config.runs_dir), str(config.name)
    console.print(f"[bold]{name}[/]  {config.recipe}, {config.model.name}, {_sources(config)}")
    with session.opened(runs_dir, "flows.finetune", console) as prefect:
        from prefect.exceptions import TerminationSignal

        from flows.finetune import finetune_flow

        try:
            written = finetune_flow(config)
        except KeyboardInterrupt:
            return _stopped(runs_dir / name, 128 + signal.SIGINT)
        except (Stopped, SystemExit, TerminationSignal):
            return _stopped(runs_dir / name, 128 + signal.SIGTERM)
        except Exception as error:
            if isinstance(error, ConfigError | RunBusy) or "--debug" in sys.argv:
                raise  # said in its own words
            return _failed(runs_dir / name, error, session.how_to_retry(runs_dir / name, prefect))
    _summary(runs_dir / name, written)
    return BLOCKED if written["status"] == "blocked" else DONE


def _sources(config: Config) -> str:
    source = config.data.source
    return source if isinstance(source, str) else ", ".join(one.source for one in source)


def _summary(folder: Path, written: dict[str, Any]) -> None:
    evaluation = written["evaluation"]
    if evaluation["difference"]:
        table = Table(box=None, padding=(0, 2))
        for column in ("", "base", "tuned", "difference"):
            table.add_column(column, justify="left" if not column else "right")
        for name in evaluation["difference"]:
            values = [evaluation[side][name]["value"] for side in ("base", "tuned", "difference")]
            table.add_row(name.replace("_", " "), *(f"{value:.3f}" for value in values))
        console.print(table)
    agreed = written.get("reproduced")
    if agreed:
        console.print(f"{escape(agreed['from'])}, trained again:")
        for line in agreement.words(agreed):
            console.print(f"  {escape(line)}", soft_wrap=True)
    colour = "green" if written["status"] == "completed" else "yellow"
    console.print(f"[{colour}]{written['status']}[/]  {folder / 'report.html'}")
    why = gate.blocked(folder)
    if why is not None and not written["published"].get("despite_gate"):
        console.print(f"[yellow]not published:[/] {escape(why)}", soft_wrap=True)
    for line in written["next_steps"]:
        console.print(f"  {line}", soft_wrap=True)


def _failed(folder: Path, error: Exception, retry: str | None) -> int:
    """The last lines of a failed run: the step, the cause, what to do, and the commands to go on with."""
    failure = report.read_failure(folder)
    if failure is None or (isinstance(error, FinetuneError) and failure.cause != error.message):
        remedy = error.remedy if isinstance(error, FinetuneError) else "see it whole with --debug"
        if disk.is_full(error):
            remedy = "make room, then go on"
        cause = error.message if isinstance(error, FinetuneError) else f"{type(error).__name__}: {error}"
        failure = report.Failure("finetune", cause, remedy)
    errors.print(f"[red]{failure.step} failed:[/] {escape(failure.cause)}", soft_wrap=True)
    errors.print(escape(failure.remedy), soft_wrap=True)
    if (folder / runs.RECORD).is_file():
        run = runs.read(folder)
        errors.print(f"Go on:  {report.command(run)}", soft_wrap=True)
        if retry:
            errors.print(f"Retry:  {retry}", soft_wrap=True)
        errors.print(f"Look:   {report.ui(run)}", soft_wrap=True)
    return FAILED


def _stopped(folder: Path, code: int) -> int:
    errors.print("Interrupted; what was done is kept.")
    if (folder / runs.RECORD).is_file():
        errors.print(f"Go on:  {report.command(runs.read(folder))}", soft_wrap=True)
    return code


def _show_plan(resolved: Resolved, revisions: dict[str, str] | None = None) -> None:
    made = plan.make(resolved.config, revisions)
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, value in plan.facts(made, resolved.from_environment):
        table.add_row(f"[dim]{name}[/]", escape(value))
    console.print(table)


app.command("init")(init_command.command)
app.command("data")(data.command)
app.command("rows")(rows.command)
app.command("chat")(chat_command.command)
app.command("gc")(gc.command)
app.command("runs")(listing.command)
app.command("compare")(compare.command)
app.command("doctor")(doctor_command.command)
app.command("publish")(publish_command.command)
app.command("export")(export_command.command)


@app.command("plan")
def _plan(words: Words = None, debug: Debug = False) -> None:  # noqa: ARG001  # debug is read by guarded
    """What a run would do, what it needs, and how long it takes; spends nothing."""
    _show_plan(load(words or []))


@app.command("dashboard")
def _dashboard(runs_dir: RunsDir = "runs") -> None:
    """Trackio's dashboard over the local runs, until Ctrl-C."""
    from smollm3_ft.monitoring import local_trackio, trackio_rows

    os.environ["TRACKIO_DIR"] = str(local_trackio.folder(listing.folder(runs_dir)))
    os.execvp(sys.executable, [sys.executable, "-m", "trackio.cli", "show", "--project", trackio_rows.PROJECT])  # noqa: S606


@app.command("ui")
def _ui(runs_dir: RunsDir = "runs") -> None:
    """Prefect's pages over the local runs, until Ctrl-C."""
    from flows import server, session

    signal.signal(signal.SIGTERM, session.terminated)
    place = listing.folder(runs_dir)
    plan.check_writable(place)
    with server.running(place) as prefect:
        login = f"  (password {prefect.password})" if prefect.password else ""
        console.print(f"{prefect.url}/v2/runs{login}\nCtrl-C ends it.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("")


def guarded(command: typer.Typer, **options: Any) -> int:
    """The outermost border: a user's mistake is one clear line and an exit code; `--debug` shows the whole of it."""
    try:
        command(**options)
    except KeyboardInterrupt:
        errors.print("Interrupted; what was done is kept.")
        return 128 + signal.SIGINT
    except FinetuneError as error:
        if "--debug" in sys.argv:
            errors.print_exception()
        errors.print(escape(str(error)), soft_wrap=True)
        return USAGE if isinstance(error, ConfigError) else FAILED
    return DONE
