"""`smollm3-ft runs`: the runs there are, the newest first, in a folder or in an experiment dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from smollm3_ft import experimentreading, sidebyside
from smollm3_ft.errors import ConfigError, Problem

Dataset = Annotated[str | None, typer.Option("--dataset", metavar="OWNER/NAME", help="Of an experiment dataset.")]
NARROW = 100  # columns of a terminal, below which some things are left out
LEFT_OUT = ("recipe", "published")
STATUS = {"completed": "green", "running": "cyan", "failed": "red", "blocked": "yellow", "interrupted": "yellow"}


def command(
    runs_dir: Annotated[str, typer.Argument(help="The folder of all runs.", metavar="[runs_dir=FOLDER]")] = "runs",
    dataset: Dataset = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """The runs there are, the newest first."""
    if dataset is not None:
        listed = experimentreading.listed_of_dataset(dataset)
    else:
        listed = experimentreading.listed(folder(runs_dir))
    if as_json:
        typer.echo(json.dumps({"schema_version": 1, "runs": [one.model_dump() for one in listed]}, indent=2))
        return
    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("name", overflow="fold")
    left_out = LEFT_OUT if console.width < NARROW else ()
    rows = [{k: v for k, v in sidebyside.row(one).items() if k not in left_out} for one in listed]
    for column in rows[0] if rows else ():
        table.add_column(column, justify="right" if column in ("steps", "trained") else "left", no_wrap=True)
    for name, one in zip(sidebyside.names(listed), rows, strict=True):
        colour = STATUS.get(one["status"], "")
        status = f"[{colour}]{escape(one['status'])}[/]" if colour else escape(one["status"])
        table.add_row(escape(name), status, *map(escape, list(one.values())[1:]))
    console.print(table if rows else "There are no runs.")


def folder(words: str) -> Path:
    """The folder that `runs`, or `runs_dir=runs`, names."""
    place = Path(words.removeprefix("runs_dir=")).absolute()
    if not place.is_dir():
        raise ConfigError(Problem("runs_dir", f"there is no folder {place}", "begin a run first, or name another"))
    return place
