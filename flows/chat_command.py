"""`smollm3-ft chat RUN [--web]`: talk to what a run trained, in the terminal or in a browser on this machine."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from smollm3_ft import permitted, report, runs, unneeded
from smollm3_ft.errors import ConfigError, Problem

if TYPE_CHECKING:
    from smollm3_ft.chatapp import Chat, Message
    from smollm3_ft.runs import Run

LOOPBACK = "127.0.0.1"


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.")],
    runs_dir: Annotated[str, typer.Argument(help="The folder of all runs.", metavar="[runs_dir=FOLDER]")] = "runs",
    web: Annotated[bool, typer.Option("--web", help="As a page in the browser, on this machine alone.")] = False,
    thinking: Annotated[
        Literal["on", "off"], typer.Option(help="Let the model reason before it answers; the page has a switch.")
    ] = "off",
) -> None:
    """Talk to what a run trained. Without a terminal each line of the input is a question."""
    found = runs.read(runs.find(run, Path(runs_dir.removeprefix("runs_dir="))))
    if not (found.path / "model" / "config.json").is_file():
        what = f"{found.name} has no model yet"
        raise ConfigError(Problem("run", what, f"go on with it: {report.command(found)}"))
    if problems := list(permitted.of_the_model(found.config, os.environ)):
        raise ConfigError(*problems)
    if web and importlib.util.find_spec("gradio") is None:
        what = "the page needs the package gradio, which is not installed"
        raise ConfigError(Problem("--web", what, "make setup EXTRAS=web"))
    # Before the clients are imported: nobody is told of this.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    unneeded.leave_out([str(found.path / "model")])  # some of it has much to say when it is imported
    chat = _loaded(found)
    if web:
        _serve(chat)
    else:
        _talk(chat, thinking == "on")


def _loaded(run: Run) -> Chat:
    from safetensors import SafetensorError

    from smollm3_ft import chatapp

    try:
        return chatapp.load(str(run.path / "model"), name=run.name, code=run.config.model.trust_remote_code)
    except (OSError, ValueError, SafetensorError) as error:
        what = f"the model of {run.name} cannot be loaded ({str(error).strip().partition(chr(10))[0]})"
        raise ConfigError(Problem("run", what, f"the same run makes it again: {report.command(run)}")) from None


def _serve(chat: Chat) -> None:
    from smollm3_ft import chatapp

    served = chatapp.launch(chat, server_name=LOOPBACK, prevent_thread_lock=True)
    typer.echo(f"{served.local_url}\nCtrl-C ends it.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("")
    finally:
        served.close(verbose=False)


def _talk(chat: Chat, thinking: bool) -> None:
    """Answers go to stdout, and what the model thinks to stderr."""
    from smollm3_ft import chatapp

    thoughts = Console(stderr=True, highlight=False, style="dim")
    told: list[Message] = []
    for question in _questions(chat.name):
        told.append({"role": "user", "content": question})
        before = chatapp.Said("", "")
        try:
            for one in chatapp.said(chat, told, thinking):
                thoughts.out(one.thought[len(before.thought) :], end="")
                if one.answer and one.thought and not before.answer:
                    thoughts.out("")
                typer.echo(one.answer[len(before.answer) :], nl=False)
                before = one
        except chatapp.TooLong as error:
            thoughts.print(str(error))
            told = []
            continue
        typer.echo("")
        told.append({"role": "assistant", "content": before.answer})


def _questions(name: str) -> Iterator[str]:
    """What is asked, line by line, until the end of the input (Ctrl-D)."""
    asked: Iterator[str] = sys.stdin
    if sys.stdin.isatty():
        typer.echo(f"{name}. Ctrl-D ends it.")
        asked = _typed()
    yield from (line.strip() for line in asked if line.strip())


def _typed() -> Iterator[str]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            typer.echo("")
            return
