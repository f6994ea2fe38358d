"""What Trackio is told of a run, wherever it is: entries of its own interface, made of the journals' records.

One project holds all runs. A run goes under its name and its `run_id`, so another one of the same name is another one.
Every entry has an id that its record gives it: Trackio takes each id once. Events are alerts of the level `info`, but
for checkpoints: alerts are shown to whoever looks at the curves.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import Any, NamedTuple

from smollm3_ft import experiments, files, journal, pages
from smollm3_ft.config import tracker_of
from smollm3_ft.journal import Record
from smollm3_ft.runs import Run

PROJECT = "smollm3-ft"
CHECKPOINT = "checkpoint"
LEVELS = {"warning": "warn", "error": "error"}

Entry = dict[str, Any]


class Rows(NamedTuple):
    """Entries by step, by time, and alerts."""

    metrics: list[Entry]
    system: list[Entry]
    alerts: list[Entry]


def of(run: Run, records: list[Record]) -> Rows:
    """The entries of records. Steps are training steps; `wall_time` (seconds since 1970) is a record's own time."""
    who = {"project": PROJECT, "run": run.name, "run_id": run.run_id}
    rows = Rows([], [], [])
    for record in records:
        when = datetime.datetime.fromtimestamp(record.time, datetime.UTC).isoformat()
        known = {**who, "timestamp": when}
        if record.kind in ("train", "eval"):
            values = {f"{record.kind}/{key}": value for key, value in record.values.items()}
            metrics = {**values, "wall_time": record.time}
            rows.metrics.append({**known, "metrics": metrics, "step": record.step, "log_id": record.id})
        elif record.kind == "system":
            rows.system.append({**known, "metrics": record.values, "log_id": record.id})
        elif record.values["what"] != CHECKPOINT:
            level = LEVELS.get(record.values.get("level", ""), "info")
            said = {"title": record.values["what"], "text": None, "level": level, "step": record.step}
            of_its_own = f"{record.id}@{record.time}"  # both journals number their alerts and events from one
            rows.alerts.append({**known, **said, "alert_id": of_its_own})
    return rows


def configuration(run: Run) -> Entry:
    """What the run was told, by dotted keys, and what `auto` was settled to once that is known."""
    settled = files.read_json_if_there(run.path / "plan.json").get("settings", {})
    config = experiments.configuration(run)
    told = config if _is_here(run) else experiments.shared_configuration(config, run.config.publish.samples)
    return {"name": run.name, **told, **{f"settled.{key}": value for key, value in settled.items()}}


def attachments(run: Run) -> dict[str, bytes]:
    """Report, ledger and loss curve, by the names of files.

    Elsewhere, the report of a run that failed is left out: its cause may hold anything.
    """
    found = {}
    report = run.path / "report.md"
    has_failed = files.read_json_if_there(run.path / "report.json").get("failure") is not None
    if report.is_file() and (_is_here(run) or not has_failed):
        text = report.read_text(encoding="utf-8")
        found["report.md"] = (text if _is_here(run) else _without_folders(run, text)).encode()
    if ledger := files.read_json_if_there(run.path / "data" / "ledger.json"):
        told = ledger if _is_here(run) else experiments.without_folders(ledger)
        found["data/ledger.json"] = (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()
    if curves := journal.curves(run.path / "metrics.jsonl", "loss"):
        found["loss.svg"] = str(pages.curves(curves)).encode()
    return found


def _without_folders(run: Run, text: str) -> str:
    """A report without the places of this machine that it may name: of runs, programs, and what was trained on."""
    source, runs_dir = run.config.data.source, str(run.path.parent)
    sources = [source] if isinstance(source, str) else [one.source for one in source]
    text = text.replace(f"{runs_dir}/", "")
    for place in sorted([runs_dir, run.config.model.name, *sources], key=len, reverse=True):
        text = text.replace(place, str(experiments.without_folders(place)))
    return re.sub(r"\S*/bin/(smollm3-ft|python)\b", r"\1", text)


def _is_here(run: Run) -> bool:
    return tracker_of(run.config) == "local"
