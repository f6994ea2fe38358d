"""`smollm3-ft publish RUN [publish.key=value ...]`: publish a run that is there, or go on with it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from smollm3_ft import (
    demospace,
    files,
    gate,
    layers,
    locks,
    permission,
    permitted,
    publishing,
    redaction,
    report,
    resolve,
    runs,
)
from smollm3_ft.config import Publish
from smollm3_ft.errors import ConfigError, FinetuneError, Problem, RunBusy, Stopped
from smollm3_ft.layers import merged
from smollm3_ft.runs import Run
from smollm3_ft.unbuilt import unbuilt
from smollm3_ft.validation import validate

FAILED, BLOCKED = 1, 3
PATIENCE = 30.0  # seconds with a Hub that does not answer, before anything is begun
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def command(
    words: Annotated[list[str], typer.Argument(metavar="RUN [publish.key=value ...]")],
    despite_gate: Annotated[
        str | None, typer.Option("--despite-gate", help="Why to publish a model that its gate is against.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,  # noqa: ARG001  # read by guarded
) -> None:
    """Publish a run that is there, or go on publishing it, as its configuration or these words say."""
    redaction.check({"--despite-gate": despite_gate}, os.environ)
    run = _asked(words)
    why = gate.blocked(run.path)
    if despite_gate is not None and not despite_gate.strip():
        raise ConfigError(Problem("--despite-gate", "has no reason", "say why, for the card and the record"))
    if despite_gate is not None and why is None:
        raise ConfigError(Problem("--despite-gate", f"the gate is not against {run.name}", "leave it out"))
    found = publishing.published(run)
    done = publishing.still_there(run, found) if found else None
    if found is not None and done != found:
        what = "demo Space" if done else found["repo"]
        errors.print(f"[yellow]the Hub has no {what} any more,[/] or hides it from this token", soft_wrap=True)
    reason = despite_gate.strip() if despite_gate else None
    if done is not None and publishing.is_finished(done, run) and publishing.states(done, reason):
        _say(run, done)
        return
    if why is not None and despite_gate is None:
        errors.print(f"[yellow]not published:[/] {escape(why)}", soft_wrap=True)
        errors.print('It goes all the same with a reason, which its card states: --despite-gate "…"', soft_wrap=True)
        raise typer.Exit(BLOCKED)
    if run.config.publish.target == "hub":  # before a server is started
        permission.check(run.config.publish, run.name, PATIENCE)
        demospace.check(run.config, permission.repository(run.config.publish, run.name, PATIENCE), PATIENCE)
    raise typer.Exit(_publish(run, words, reason))


def _asked(words: list[str]) -> Run:
    """The run that the words name, with what they say of `publish`. Raises ConfigError for any other key."""
    named = [word for word in words if "=" not in word]
    if len(named) != 1:
        raise ConfigError(Problem("run", f"{len(named)} runs are named", "name one, by its name or its folder"))
    given = layers.parse_words([word for word in words if "=" in word])
    runs_dir = Path(str(given.pop("runs_dir", "runs"))).expanduser().absolute()
    others = [key for key, _ in layers.flatten(given) if not key.startswith("publish.")]
    if others:
        remedy = "what was trained stays; only publish.* can be given here"
        raise ConfigError(*(Problem(key, "is no key of publishing", remedy) for key in others))
    redaction.check(given, os.environ)
    run = runs.read(runs.find(named[0], runs_dir))
    if locks.is_held_by_the_living(run.path.parent, run.name):
        owner = locks.owner(run.path.parent, run.name)
        raise RunBusy(f"{run.name} is being worked on by {owner}", "try again when that has ended")
    config = validate(merged(run.config.model_dump(mode="json"), layers.without_nulls(given)))
    found = (*permitted.refused(config, os.environ), *unbuilt(config), *resolve.contradictions(config))
    problems = [one for one in found if one.where.startswith("publish.")]
    if problems:
        raise ConfigError(*problems)
    return run.model_copy(update={"config": config})


def _publish(run: Run, words: list[str], despite_gate: str | None) -> int:
    """Run the flow against a server. Returns the exit code."""
    from flows import session

    again = f"{report.programs()}smollm3-ft publish {shlex.join(words)}"
    again += f" --despite-gate {shlex.quote(despite_gate)}" if despite_gate else ""
    console.print(f"[bold]{run.name}[/]  to {_place(run.config.publish, run.name)}")
    with session.opened(run.path.parent, "flows.publish", console):
        from prefect.exceptions import TerminationSignal

        from flows.publish import publish_as_asked

        try:
            publish_as_asked(str(run.path), run.config.publish, despite_gate)
        except KeyboardInterrupt:
            return _stopped(again, 128 + signal.SIGINT)
        except (Stopped, SystemExit, TerminationSignal):
            return _stopped(again, 128 + signal.SIGTERM)
        except Exception as error:
            if isinstance(error, ConfigError | RunBusy) or "--debug" in sys.argv:
                raise  # said in its own words
            return _failed(error, again)
    _say(run, files.read_json(run.path / publishing.PUBLISHED))
    return 0


def _place(publish: Publish, name: str) -> str:
    return f"the Hub, {publish.repo or name}" if publish.target == "hub" else publish.target


def _say(run: Run, record: dict[str, Any]) -> None:
    place = f"{report.links(run).get('model page')} at {record['commit'][:12]}" if record["repo"] else None
    tag = f", tag {record['tag']}" if record.get("tag") else ""
    console.print(f"[green]published and verified[/]  {place or run.path / 'model'}{tag}", soft_wrap=True)
    if record.get("despite_gate"):
        console.print(f"[yellow]despite the gate:[/] {escape(record['despite_gate'])}", soft_wrap=True)


def _failed(error: Exception, again: str) -> int:
    cause = error.message if isinstance(error, FinetuneError) else f"{type(error).__name__}: {error}"
    errors.print(f"[red]publishing failed:[/] {escape(cause)}", soft_wrap=True)
    errors.print(escape(error.remedy if isinstance(error, FinetuneError) else "see it whole with --debug"))
    errors.print(f"Go on:  {again}", soft_wrap=True)
    return FAILED


def _stopped(again: str, code: int) -> int:
    errors.print("Interrupted; what was done is kept.")
    errors.print(f"Go on:  {again}", soft_wrap=True)
    return code
