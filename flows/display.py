"""What a run shows in the terminal: a line a step, and a bar with loss, speed and time left while it trains.

Not on a terminal, the same as plain lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from smollm3_ft import pages

MARKS = {"Completed": "[green]✓[/]", "Cached": "[cyan]↺[/]"}


class Display(logging.Handler):
    """Shows the library's log: step records as a list, progress records as a bar, warnings as they are."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        super().__init__(logging.INFO)
        self.console = console
        self.progress = progress
        self.bar: TaskID | None = None

    def emit(self, record: logging.LogRecord) -> None:
        step, progress = getattr(record, "step", None), getattr(record, "progress", None)
        if step is not None:
            self._step(step, str(getattr(record, "state", "")), float(getattr(record, "seconds", 0.0)))
        elif progress is not None:
            self._progress(progress, record.getMessage())
        elif record.levelno >= logging.WARNING or self.progress is None:
            self.console.print(f"    {record.getMessage()}", style="dim", markup=False, highlight=False)

    def _step(self, name: str, state: str, seconds: float) -> None:
        if self.bar is not None and self.progress is not None and name == "train":
            self.progress.remove_task(self.bar)
            self.bar = None
        mark = MARKS.get(state, "[red]✗[/]")
        note = "" if state == "Completed" else f" [dim]{state.lower()}[/]"
        self.console.print(f"  {mark} {name:<28}[dim]{pages.duration(seconds):>12}[/]{note}", highlight=False)

    def _progress(self, values: dict[str, Any], line: str) -> None:
        if self.progress is None:
            self.console.print(f"    {line}", highlight=False, markup=False)
            return
        if self.bar is None:
            self.bar = self.progress.add_task("train", total=values["steps"], loss="", rate="")
        rate = f"{values['tokens_per_second']:,.0f} tokens/s"
        self.progress.update(self.bar, completed=values["done"], loss=f"loss {values['loss']:.4f}", rate=rate)


@contextmanager
def shown(console: Console) -> Iterator[None]:
    """Show what the library logs while a run goes on."""
    if console.is_terminal:
        columns = (
            TextColumn("    step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[loss]}  {task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        with Progress(*columns, console=console, transient=True) as progress, _listening(Display(console, progress)):
            yield
    else:
        with _listening(Display(console, None)):
            yield


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """The library's log goes to `handler` alone: Prefect's own console would say it again."""
    logger = logging.getLogger("smollm3_ft")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
