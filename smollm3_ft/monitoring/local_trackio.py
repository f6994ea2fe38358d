"""Trackio on this machine: a database below `<runs_dir>/.trackio`, which `smollm3-ft dashboard` shows.

Every record goes in under its journal id, so that delivering it again has no effect, and with its own time and step.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

from smollm3_ft.journal import Record
from smollm3_ft.runs import Run, compared

PROJECT = "smollm3-ft"


def folder(runs_dir: Path) -> Path:
    return runs_dir / ".trackio"


def deliver(run: Run, records: list[Record]) -> None:
    """Write records into Trackio's database: steps on the axis for training and validation, time for the machine."""
    storage = _storage(folder(run.path.parent))
    stepped = [r for r in records if r.kind in ("train", "eval")]
    machine = [r for r in records if r.kind == "system"]
    if stepped:
        storage.bulk_log(
            PROJECT,
            run.name,
            [_named(record) for record in stepped],
            steps=[record.step for record in stepped],
            timestamps=[_time(record) for record in stepped],
            config=compared(run.config),
            log_ids=[record.id for record in stepped],
            run_id=run.run_id,
        )
    if machine:
        storage.bulk_log_system(
            PROJECT,
            run.name,
            [record.values for record in machine],
            timestamps=[_time(record) for record in machine],
            log_ids=[record.id for record in machine],
            run_id=run.run_id,
        )


def _storage(place: Path) -> Any:
    """Trackio's storage in `place`. It reads the place when it is first imported, once a process."""
    place.mkdir(parents=True, exist_ok=True)
    os.environ["TRACKIO_DIR"] = str(place)
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    if Path(utils.TRACKIO_DIR) != place:
        raise RuntimeError(f"Trackio writes to {utils.TRACKIO_DIR} in this process, not to {place}")
    return SQLiteStorage


def _named(record: Record) -> dict[str, Any]:
    return {f"{record.kind}/{key}": value for key, value in record.values.items()} | {"wall_time": record.time}


def _time(record: Record) -> str:
    return datetime.datetime.fromtimestamp(record.time, datetime.UTC).isoformat()
