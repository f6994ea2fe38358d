"""What a run shows in the terminal: a line a step, and a bar with loss, speed and time left while it trains.

Not on a terminal, the same as plain lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from smollm3_ft import pages

MARKS = {"Completed": "[green]✓[/]", "Cached": "[cyan]↺[/]", "Blocked": "[yellow]■[/]"}


class Display(logging.Handler):
    """Shows the library's log. On a terminal the running step has a bar, and of lines from inside a step only those are
    shown that tell what is waited for."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        super().__init__(logging.INFO)
        self.console = console
        self.progress = progress
        self.bar = progress.add_task("", total=None, figures="", visible=False) if progress else None

    def emit(self, record: logging.LogRecord) -> None:
        step, progress = getattr(record, "step", None), getattr(record, "progress", None)
        if step is not None:
            self._step(step, str(getattr(record, "state", "")), float(getattr(record, "seconds", 0.0)))
        elif progress is not None and self.progress is not None and self.bar is not None:
            done, steps, figures = progress
            words = f"step {done}/{steps}"
            self.progress.update(self.bar, description=words, total=steps, completed=done, figures=figures)
        elif getattr(record, "heading", False):
            self.console.print(f"[bold]{escape(record.getMessage())}[/]", highlight=False, soft_wrap=True)
        elif record.levelno >= logging.WARNING or self.progress is None or getattr(record, "waits", False):
            style = "yellow" if record.levelno >= logging.WARNING else "dim"
            self.console.print(f"    {record.getMessage()}", style=style, markup=False, highlight=False, soft_wrap=True)

    def _step(self, name: str, state: str, seconds: float) -> None:
        if self.progress is not None and self.bar is not None:
            running = state == "Running"
            self.progress.reset(self.bar, total=None, description=name, figures="", visible=running)
        if state == "Running":
            return
        mark = MARKS.get(state, "[red]✗[/]")
        note = "" if state == "Completed" else f" [dim]{state.lower()}[/]"
        self.console.print(f"  {mark} {name:<28}[dim]{pages.duration(seconds):>12}[/]{note}", highlight=False)


@contextmanager
def shown(console: Console) -> Iterator[None]:
    """Show what the library logs while a run goes on."""
    if console.is_terminal:
        columns = (
            TextColumn("    {task.description}"),
            BarColumn(bar_width=30),
            TextColumn("[dim]{task.fields[figures]}"),
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
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
