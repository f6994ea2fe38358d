"""Trackio on this machine: a database below `<runs_dir>/.trackio`, which `smollm3-ft dashboard` shows."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smollm3_ft.errors import Undelivered
from smollm3_ft.monitoring import trackio_rows
from smollm3_ft.monitoring.trackio_rows import PROJECT, Entry, Rows
from smollm3_ft.runs import Run


def folder(runs_dir: Path) -> Path:
    return runs_dir / ".trackio"


def log(run: Run, rows: Rows) -> None:
    """Write entries into Trackio's database, with their own times. Raises Undelivered."""
    with _storage(run) as (storage, who):
        if rows.metrics:
            steps, config = [entry["step"] for entry in rows.metrics], trackio_rows.configuration(run)
            storage.bulk_log(**who, **_columns(rows.metrics), steps=steps, config=config)
        if rows.system:
            storage.bulk_log_system(**who, **_columns(rows.system))
        if rows.alerts:
            names = {"titles": "title", "texts": "text", "levels": "level", "steps": "step"}
            names |= {"timestamps": "timestamp", "alert_ids": "alert_id"}
            columns = {name: [entry[key] for entry in rows.alerts] for name, key in names.items()}
            storage.bulk_alert(**who, **columns)


def attach(run: Run, files: dict[str, bytes]) -> None:
    """Store files as an artifact of the run, a new version where they changed. Raises Undelivered."""
    with _storage(run) as (storage, who):
        from trackio import cas

        manifest = []
        for name, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            cas.stage_blob_from_chunks([content], digest, cas.blob_path(PROJECT, digest))
            manifest.append({"path": name, "digest": digest, "size": len(content)})
        storage.commit_artifact_version(
            PROJECT,
            f"{run.name}-report",
            "report",
            None,
            manifest,
            None,
            None,
            run_name=who["run"],
            run_id=who["run_id"],
        )


def _columns(entries: list[Entry]) -> dict[str, list[Any]]:
    names = {"metrics_list": "metrics", "timestamps": "timestamp", "log_ids": "log_id"}
    return {name: [entry[key] for entry in entries] for name, key in names.items()}


@contextmanager
def _storage(run: Run) -> Iterator[tuple[Any, dict[str, str]]]:
    """Trackio's storage for this folder of runs, and who the run is there. Its failures as Undelivered."""
    place = folder(run.path.parent)
    try:
        yield storage(place), {"project": PROJECT, "run": run.name, "run_id": run.run_id}
    except (sqlite3.DatabaseError, OSError) as error:
        remedy = "make room there, or move what is damaged away"
        raise Undelivered(f"Trackio's data in {place} cannot be written ({error})", remedy) from error


def storage(place: Path) -> Any:
    """Trackio's storage in `place`. It reads the place when it is first imported, once a process."""
    place.mkdir(parents=True, exist_ok=True)
    os.environ["TRACKIO_DIR"] = str(place)
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    if Path(utils.TRACKIO_DIR) != place:
        raise RuntimeError(f"Trackio writes to {utils.TRACKIO_DIR} in this process, not to {place}")
    return SQLiteStorage
