"""The command `python -m flows.finetune WORDS`, with a clock around each step's body.

python orchestration_clock.py RESULT WORDS: writes when each body began and ended, and what of it was spent in calls to
Prefect.
"""

import importlib
import pkgutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from flows import cli, session
from flows.display import shown
from smollm3_ft import files

Body = dict[str, Any]
BODIES: list[Body] = []
HERE = threading.local()  # the body that this thread is in


@contextmanager
def timed(console: Console) -> Iterator[None]:
    """What the command does last before its flow: by now the steps are imported."""
    import tasks

    for module in pkgutil.iter_modules(tasks.__path__, "tasks."):
        _put_clocks_into(vars(importlib.import_module(module.name)))
    with shown(console):
        yield


def _put_clocks_into(names: dict[str, Any]) -> None:
    from prefect import Task

    for name, value in list(names.items()):
        if isinstance(value, Task) and value.fn.__module__ == names["__name__"]:
            value.fn = _body(value.name, value.fn)
        elif callable(value) and value.__module__ == "prefect.artifacts":
            names[name] = _call_to_prefect(value)


def _body(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def body(*arguments: Any, **named: Any) -> Any:
        main = threading.current_thread() is threading.main_thread()
        HERE.body = {"name": name, "began": time.monotonic(), "prefect_s": 0.0, "beside": not main}
        try:
            return work(*arguments, **named)
        finally:
            BODIES.append({**HERE.body, "ended": time.monotonic()})
            HERE.body = None

    return body


def _call_to_prefect(work: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            return work(*arguments, **named)
        finally:
            if getattr(HERE, "body", None):
                HERE.body["prefect_s"] += time.monotonic() - began

    return call


if __name__ == "__main__":
    result = Path(sys.argv.pop(1))
    session.shown = timed  # type: ignore[attr-defined]  # where the command looks for it
    try:
        sys.exit(cli.finetune())
    finally:
        files.write_json(result, {"bodies": BODIES})
