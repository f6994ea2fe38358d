"""A sweep on a pool, and a kill -9 of its flow's process in the middle: `python benchmarks/sweep.py [--json]`.

A server, a worker of `default` and several of `cuda`, each in a folder of its own; the sweep is started as the UI does,
killed when a third of its trials has been noted and the next ones train, and retried as the UI does.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import flow_runs
import measure
import results
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    temporary_settings,
)
from prefect.states import Scheduled
from results import Row

from flows import pool_workers, server
from smollm3_ft import files

ROOT = Path(__file__).parent.parent
CONFIG: Row = {
    "data": {"source": "builtin:demo"},
    "train": {"max_steps": 60, "eval_steps": 10, "save_steps": 10},
    "monitor": {"trackio": "off"},
}
SPACE = {"train.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
SECONDS_UNTIL_RETRIED = 5  # a worker says twice that a process has died: in between a retry would be crashed again
COLUMNS = {
    "state": "noted as",
    "worker": "worker",
    "starts": "starts",
    "trainings": "of training",
    "began": "began, s",
    "ended": "ended, s",
}


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        result = measured(Path(folder), given.trials, given.workers)
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if given.json else "\n".join(_table(result)) + "\n")


def measured(folder: Path, trials: int, workers: int) -> Row:
    """Run it, kill it, retry it, and count."""
    runs_dir, began = folder / "runs", time.time()
    with opened(folder, workers) as client:
        sweep = client.read_deployment_by_name("sweep/cuda")
        parameters = {
            "config": {**CONFIG, "name": "s", "runs_dir": str(runs_dir)},
            "sweep": {"trials": trials, "space": SPACE},
        }
        run = client.create_flow_run_from_deployment(sweep.id, parameters=parameters).id
        third = max(1, trials // 3)
        flow_runs.until(lambda: _noted(runs_dir) >= third and _begun(runs_dir) >= min(third + workers, trials))
        noted, begun, prepared = _noted(runs_dir), _begun(runs_dir), _prepared(runs_dir)
        flow_runs.kill_process(run)
        killed = flow_runs.ended(client, run)
        time.sleep(SECONDS_UNTIL_RETRIED)
        client.set_flow_run_state(run, Scheduled(name="AwaitingRetry"), force=True)
        state = flow_runs.ended(client, run, starts=2)
        found = [_row(client, child, runs_dir, began) for child in _children(client, run)]
        rows = sorted(found, key=lambda row: row["began"])
    values = {
        "noted": _noted(runs_dir),
        "failed": sum(row["state"] == "failed" for row in rows),
        "workers_used": len({row["worker"] for row in rows} - {"none"}),
        "most_at_once": max(_at_once(rows)),
        "prepared": len(_prepared(runs_dir) | prepared),
        "started_again": sum(max(row["starts"], row["trainings"]) - 1 for row in rows),
    }
    goals = {"noted": ("=", trials), "failed": ("=", 0), "workers_used": ("=", workers), "most_at_once": ("=", workers)}
    return {
        "schema_version": 1,
        "device": measure.processor(),
        "versions": measure.versions(),
        "killed": {"noted": noted, "begun": begun, "state": killed},
        "state": state,
        "rows": rows,
        "goals": results.judged(values, goals | {"prepared": ("=", 1), "started_again": ("=", 0)}),
    }


@contextmanager
def opened(folder: Path, workers: int) -> Iterator[SyncPrefectClient]:
    """The server, what is registered, and the workers."""
    os.environ |= {"PREFECT_HOME": str(folder / "home"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with server.running(folder / "runs") as prefect:
        subprocess.run([sys.executable, "-m", "flows.up", "deploy"], cwd=ROOT, check=True, stdout=sys.stderr)
        names = [("default", "default"), *(("cuda", f"cuda-{number}") for number in range(workers))]
        started = []
        for pool, name in names:
            place = folder / name
            place.mkdir()
            with (folder / f"{name}.log").open("wb") as log:
                worker = pool_workers.Worker(pool, name, {})
                started.append((worker, pool_workers.start(worker, place, log)))
        settings = {
            PREFECT_API_URL: prefect.api,
            PREFECT_API_AUTH_STRING: prefect.password,
            PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True,
        }
        try:
            with temporary_settings(settings), get_client(sync_client=True) as client:
                yield client
        finally:
            pool_workers.stop(started)


def _row(client: SyncPrefectClient, trial: FlowRun, runs_dir: Path, began: float) -> Row:
    """What became of a trial: its flow run, and the one that trained it, if it came to that."""
    told = next(one for one in _report(runs_dir)["trials"] if one["name"] == trial.name)
    row = {"contender": trial.name, "state": told["state"], "cause": told["cause"], "starts": trial.run_count}
    for training in _children(client, trial.id):
        assert training.start_time is not None
        assert training.end_time is not None
        row |= {"worker": str(training.labels["prefect.worker.name"]), "trainings": training.run_count}
        row |= {"began": training.start_time.timestamp() - began, "ended": training.end_time.timestamp() - began}
    return {"worker": "none", "trainings": 0, "began": 0.0, "ended": 0.0} | row


def _at_once(rows: list[Row]) -> Iterator[int]:
    """How many trained, each time that one began."""
    for row in rows:
        yield sum(one["began"] <= row["began"] < one["ended"] for one in rows)


def _prepared(runs_dir: Path) -> set[tuple[str, int, int]]:
    """The prepared data: each folder as it was made, by its inode and the time of its making."""
    found = ((path, path.stat()) for path in (runs_dir / ".prepared").iterdir() if not path.name.startswith("."))
    return {(path.name, stat.st_ino, stat.st_mtime_ns) for path, stat in found}


def _children(client: SyncPrefectClient, parent: UUID) -> list[FlowRun]:
    only = FlowRunFilterParentFlowRunId(any_=[parent])
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=only))


def _report(runs_dir: Path) -> dict[str, Any]:
    return files.read_json(runs_dir / ".sweeps" / "s" / "report.json")


def _noted(runs_dir: Path) -> int:
    """Trials that the sweep knows the end of."""
    try:
        return sum(one["state"] != "unfinished" for one in _report(runs_dir)["trials"])
    except OSError:
        return 0


def _begun(runs_dir: Path) -> int:
    """Trials whose training has written something."""
    return len(list(runs_dir.glob("s-*/metrics.jsonl")))


def _table(result: Row) -> Iterator[str]:
    yield f"{result['device']}; {results.versions(result['versions'])}"
    killed = result["killed"]
    counts = f"{killed['noted']} trials noted, {killed['begun']} begun"
    yield f"killed with {counts}: {killed['state']}; retried: {result['state']}"
    yield from (f"{row['contender']}: {row['cause']}" for row in result["rows"] if row["cause"])
    yield from results.rows(result["rows"], {row["contender"]: row["contender"] for row in result["rows"]}, COLUMNS)
    yield from results.goals(result["goals"])


if __name__ == "__main__":
    main()
