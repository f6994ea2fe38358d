"""`smollm3-ft compare RUN ...`: runs side by side, in the terminal, as JSON, or as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.runs import Dataset
from smollm3_ft import experimentreading, files, sidebyside
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.sidebyside import Line, View

BLOCKS = "▁▂▃▄▅▆▇█"
STYLES = ("blue", "yellow", "green", "magenta", "cyan", "red")  # of the runs, in their order


def command(
    words: Annotated[
        list[str], typer.Argument(metavar="RUN ... [runs_dir=FOLDER]", help="Names of runs, or their folders.")
    ],
    dataset: Dataset = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page that needs nothing else.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON, with the points of the curves.")] = False,
) -> None:
    """Runs side by side: configuration, data, curves, evaluation."""
    names = [word for word in words if not word.startswith("runs_dir=")]
    place = next((word for word in words if word.startswith("runs_dir=")), "runs")
    found = experimentreading.found(names, Path(place.removeprefix("runs_dir=")).absolute(), dataset)
    seen = sidebyside.view([one.experiment for one in found], [one.curves for one in found])
    if html is not None:
        _write(html, sidebyside.page(seen))
    if as_json:
        typer.echo(json.dumps(_as_json(seen), indent=2))
        return
    console = Console(highlight=False)
    if html is not None:
        console.print(f"{html.absolute()}", soft_wrap=True, markup=False)
    else:
        show(console, seen)


def _write(file: Path, page: str) -> None:
    try:
        files.write(file, page)
    except OSError as error:
        raise ConfigError(
            Problem("--html", f"{file} cannot be written ({error.strerror})", "name another file")
        ) from None


def show(console: Console, seen: View) -> None:
    """The view in the terminal. What is the same in all runs is dimmed."""
    _table(console, "", seen, seen.summary)
    for title, lines in seen.curves.items():
        console.print(Text(f"\n{title}", style="bold"))
        _curves(console, seen, lines)
    _table(console, "Where their configurations differ", seen, seen.config)
    if not seen.config:
        console.print("\nTheir configurations differ nowhere, in what is trained.")
    _table(console, "What else they were made of", seen, seen.made_of)
    _table(console, "Evaluation, with 95 % intervals", seen, seen.evaluation)
    _table(console, "Data", seen, seen.ledger)


def _table(console: Console, title: str, seen: View, lines: list[Line]) -> None:
    if not lines:
        return
    if title:
        console.print(Text(f"\n{title}", style="bold"))
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("", style="dim", overflow="fold")
    for number, name in enumerate(seen.names):
        table.add_column(Text(name, style=STYLES[number % len(STYLES)]), overflow="fold")
    for line in lines:
        table.add_row(escape(line.name), *map(escape, line.values), style=None if line.differs else "dim")
    console.print(table)


def _curves(console: Console, seen: View, lines: tuple[list[tuple[float, float]], ...]) -> None:
    """Each curve as a row of blocks over the same steps and the same range, with its first and last value."""
    points = [point for line in lines for point in line]
    last, low, high = max(x for x, _ in points), min(y for _, y in points), max(y for _, y in points)
    room = max(map(len, seen.names))
    width = max(10, min(console.width, 120) - room - 24)
    for number, (name, line) in enumerate(zip(seen.names, lines, strict=True)):
        drawn = _blocks(line, last, low, high, width)
        ends = f"{sidebyside.shown(line[0][1])} → {sidebyside.shown(line[-1][1])}" if line else sidebyside.NOTHING
        console.print(Text.assemble(f"{name:<{room}} ", (drawn, STYLES[number % len(STYLES)]), f" {ends}"))


def _blocks(line: list[tuple[float, float]], last: float, low: float, high: float, width: int) -> str:
    """The mean of the points of each column; a column without any goes on as before."""
    columns: list[list[float]] = [[] for _ in range(width)]
    for step, value in line:
        columns[min(width - 1, int(step / max(last, 1) * width))].append(value)
    drawn, before = "", " "
    ends = max((index for index, values in enumerate(columns) if values), default=-1)
    for index, values in enumerate(columns):
        if values:
            share = (sum(values) / len(values) - low) / max(high - low, 1e-12)
            before = BLOCKS[min(len(BLOCKS) - 1, int(share * len(BLOCKS)))]
        drawn += before if index <= ends else " "
    return drawn


def _as_json(seen: View) -> dict[str, Any]:
    tables = ("summary", "config", "made_of", "ledger", "evaluation")
    return {
        "schema_version": 1,
        "runs": [one.model_dump() for one in seen.runs],
        "differences": {name: [line._asdict() for line in getattr(seen, name) if line.differs] for name in tables},
        "curves": {title: dict(zip(seen.names, lines, strict=True)) for title, lines in seen.curves.items()},
    }
