"""Questions with defaults: at a terminal, by lines of stdin, or asked of nobody."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from smollm3_ft.errors import ConfigError, Problem

Answer = TypeVar("Answer")


class Asker(NamedTuple):
    """Who answers: somebody at a terminal, lines of stdin, or with `yes` the defaults."""

    console: Console
    yes: bool

    def ask(self, question: str, default: str, read: Callable[[str], Answer]) -> Answer:
        """What `read` makes of the answer; asked again where it raises ConfigError, while somebody answers."""
        while True:
            prompt, text, ended = f"[bold]{question}[/] [dim]\\[{escape(default)}][/] ", "", self.yes
            try:
                if self.yes:
                    self.console.print(prompt, end="")
                else:
                    text = self.console.input(prompt).strip()
            except EOFError:
                ended = True
            if ended or not sys.stdin.isatty():
                self.console.print(text or default, markup=False)  # as it stands there when it is typed
            try:
                return read(text or default)
            except ConfigError as error:
                if ended:
                    raise
                self.console.print(f"  [red]{escape(str(error))}[/]", soft_wrap=True)

    def choose(self, question: str, options: Mapping[str, str], default: str, read: Callable[[str], Answer]) -> Answer:
        """As `ask`, with options that can be named by their number, each with what there is to say of it."""
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        for _ in range(3):
            table.add_column(overflow="fold")
        for number, (name, about) in enumerate(options.items(), start=1):
            table.add_row(f"  {number}", escape(name), f"[dim]{escape(about)}[/]")
        self.console.print("")
        self.console.print(table)
        names = list(options)
        shown = str(names.index(default) + 1) if default in names else default
        return self.ask(question, shown, lambda text: read(_meant(text, names)))


def _meant(text: str, names: Sequence[str]) -> str:
    """The name that a number stands for."""
    if not text.isdigit():
        return text
    if not 1 <= int(text) <= len(names):
        raise ConfigError(Problem("answer", f"{text} is none of the numbers", f"give 1 to {len(names)}, or a name"))
    return names[int(text) - 1]
