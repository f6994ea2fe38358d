"""Metrics from a run's journals to where people look at them. A sink that is away costs training nothing.

`SINKS[name](run, records)` delivers records; each sink has its own saved offsets, so what was not delivered is at the
next start. A new sink is one file and one entry.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from smollm3_ft import files, journal
from smollm3_ft.journal import Record
from smollm3_ft.monitoring import local_trackio
from smollm3_ft.runs import Run

Sink = Callable[[Run, list[Record]], None]
SINKS: dict[str, Sink] = {"trackio": local_trackio.deliver}
JOURNALS = ("metrics.jsonl", "host.jsonl")
SECONDS_BETWEEN = 5


def follow(name: str, run: Run, stop: threading.Event) -> int:
    """Deliver what the journals gain until told to stop, and then the rest. Returns the number of records."""
    delivered = 0
    while True:
        ending = stop.is_set()
        delivered += deliver_new(name, run)
        if ending:
            return delivered
        stop.wait(SECONDS_BETWEEN)


def deliver_new(name: str, run: Run) -> int:
    """Deliver every record that this sink has not had, once."""
    saved = run.path / f".delivered-{name}.json"
    offsets = files.read_json(saved) if saved.is_file() else {}
    delivered = 0
    for file in JOURNALS:
        records, offset = journal.read_new(Path(run.folder) / file, int(offsets.get(file, 0)))
        if records:
            SINKS[name](run, records)
            offsets[file] = offset
            files.write_json(saved, offsets)
            delivered += len(records)
    return delivered
