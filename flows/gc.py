"""`smollm3-ft gc [--yes]`: what no run needs any more, with its size; deleted only where that is said."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.runs import folder
from smollm3_ft import files, garbage


def command(
    runs_dir: Annotated[str, typer.Argument(help="The folder of all runs.", metavar="[runs_dir=FOLDER]")] = "runs",
    yes: Annotated[bool, typer.Option("--yes", help="Delete it; without, it is only listed.")] = False,
) -> None:
    """What no run needs any more, and how much room it takes."""
    place = folder(runs_dir)
    console = Console(highlight=False)
    listed = garbage.found(place)
    table = Table(box=None, padding=(0, 2), show_header=False)
    for one in listed:
        table.add_row(f"{files.gib(one.size)}", escape(str(one.path.relative_to(place))), f"[dim]{escape(one.why)}[/]")
    console.print(table)
    if not listed:
        console.print(f"Every run in {place} needs all that is there.", soft_wrap=True)
    elif not yes:
        named = "" if place == Path("runs").absolute() else f" {shlex.quote(str(place))}"
        size = files.gib(sum(one.size for one in listed))
        console.print(f"{size} in all. Delete them:  smollm3-ft gc --yes{escape(named)}", soft_wrap=True)
    else:
        gone = [one for one in listed if garbage.delete(place, one)]
        console.print(f"{files.gib(sum(one.size for one in gone))} deleted.")
        for one in listed:
            if one not in gone:
                console.print(f"[yellow]kept[/] {escape(str(one.path))}: a run has begun to use it", soft_wrap=True)
