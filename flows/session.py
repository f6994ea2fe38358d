"""What a command has around its flow: settings and server before it, the display beside it, delivery behind it."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from flows import server
from flows.display import shown
from smollm3_ft import report

# The terminal shows our own lines, Prefect's pages those and its own; nobody is told that this ran.
SETTINGS = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "smollm3_ft",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # each event that a server which is away does not take
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@contextmanager
def opened(runs_dir: Path, module: str, console: Console) -> Iterator[server.Server]:
    """Run a flow inside: its `module` is imported while the server may still be starting, and SIGTERM ends it."""
    signal.signal(signal.SIGTERM, terminated)
    for setting, value in SETTINGS.items():
        os.environ.setdefault(setting, value)
    logging.raiseExceptions = False  # Prefect would print each batch of lines that its server does not take
    with server.running(runs_dir, lambda: _import(module)) as prefect:
        login = f"  (password {prefect.password})" if prefect.password else ""
        console.print(f"[dim]Prefect {prefect.url}{login}[/]")
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        # A command's locks say whether it lives; Prefect would wait for its heartbeat's thread, a second at most.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), shown(console):
            try:
                yield prefect
            finally:
                _deliver()


def _import(module: str) -> None:
    """Import what stays: no garbage is looked for among it, neither now nor later."""
    gc.disable()
    try:
        importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def _deliver() -> None:
    """Send Prefect what it has not had yet, before its server may end: states travel as events."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=10)


def how_to_retry(folder: Path, prefect: server.Server) -> str | None:
    """Prefect's command that does again what failed of a run's flow run, and what follows.

    Where no server stays, Prefect starts one for it, over the same database.
    """
    from tasks.setup import FLOW_RUN

    path = folder / FLOW_RUN
    if not path.is_file():
        return None
    entrypoint = os.path.relpath(Path(__file__).with_name("finetune.py"))
    quiet = "PREFECT_SERVER_ANALYTICS_ENABLED=false " if prefect.password else ""
    words = f"flow-run retry {path.read_text(encoding='utf-8')} --entrypoint {shlex.quote(entrypoint)}:finetune_flow"
    return f"{quiet}{report.programs()}prefect {words}"


def terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
