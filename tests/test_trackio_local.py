"""Metrics reach the local Trackio once each, at their steps, whatever was delivered before."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import configure

from smollm3_ft import runs
from smollm3_ft.journal import Journal

# Trackio settles where its data lies when it is first imported: a process of its own for each folder of runs.
DELIVER = """
import json, sys
from pathlib import Path
from smollm3_ft import journal, runs
from smollm3_ft.monitoring import delivery, local_trackio, trackio_rows, trackio_sink

run = runs.read(Path(sys.argv[1]))
numbers = [delivery.deliver_new("trackio", run) for _ in range(2)]
for name in delivery.JOURNALS:
    trackio_sink.deliver(run, journal.read(run.path / name))  # all of it again
files = {"report.md": b"# a", "data/ledger.json": b"{}"}
for _ in range(2):
    local_trackio.attach(run, files)
from trackio.sqlite_storage import SQLiteStorage as storage

project = trackio_rows.PROJECT
print(json.dumps({
    "numbers": numbers,
    "runs": [dict(one) for one in storage.get_run_records(project)],
    "logs": storage.get_logs(project, run.name),
    "system": storage.get_system_logs(project, run.name),
    "config": storage.get_run_config(project, run.name),
    "alerts": storage.get_alerts(project, run.name),
    "artifacts": storage.get_run_artifacts(project, run.name, run.run_id),
}, default=str))
"""


def deliver(run: runs.Run) -> dict[str, Any]:
    """Deliver the run's journals, and then all of them again. Returns what Trackio has."""
    command = [sys.executable, "-c", DELIVER, run.folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A run's journals delivered, gone on with, and delivered again."""
    run = runs.begin(configure(name="a", runs_dir=str(tmp_path_factory.mktemp("trackio")), seed=7))
    metrics, host = Journal(run.path / "metrics.jsonl", run.run_id), Journal(run.path / "host.jsonl", run.run_id)
    metrics.write("alert", {"what": "loss jumped", "level": "warning"}, 10)
    host.write("alert", {"what": "stalled", "level": "error"})
    found = []
    for steps in ((10, 20), (30,)):
        for step in steps:
            metrics.write("train", {"loss": 1 / step, "grad_norm": float("nan")}, step)
            metrics.write("event", {"what": "checkpoint"}, step)
            metrics.write("event", {"what": "resumed"}, step)
            host.write("system", {"cpu_percent": float(step)})
        metrics.write("eval", {"loss": 2 / step}, step)
        found.append(deliver(run))
    metrics.close()
    host.close()
    return found


def test_only_what_is_new_is_delivered(delivered: list[dict[str, Any]]) -> None:
    """What was delivered before is not delivered again, in the same process or the next."""
    assert [one["numbers"] for one in delivered] == [[11, 0], [5, 0]]


def test_each_record_once(delivered: list[dict[str, Any]]) -> None:
    """Delivering records again stores each of them once, under its own step."""
    train = [(log["step"], log["train/loss"]) for log in delivered[1]["logs"] if "train/loss" in log]
    validation = [(log["step"], log["eval/loss"]) for log in delivered[1]["logs"] if "eval/loss" in log]
    assert train == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    assert validation == [(20, 0.1), (30, 2 / 30)]


def test_the_machine_once(delivered: list[dict[str, Any]]) -> None:
    """Samples of the machine are stored once each, by time."""
    assert [log["cpu_percent"] for log in delivered[1]["system"]] == [10.0, 20.0, 30.0]


def test_times_are_those_of_the_journal(delivered: list[dict[str, Any]]) -> None:
    """A record keeps the time at which it was written, not that of its delivery."""
    for log in delivered[1]["logs"]:
        assert log["wall_time"] == pytest.approx(timestamp(log["timestamp"]), abs=0.01)


def timestamp(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text).timestamp()


def test_one_run_with_its_configuration(delivered: list[dict[str, Any]]) -> None:
    """All of it is one run, which knows what it was told."""
    assert [one["name"] for one in delivered[1]["runs"]] == ["a"]
    assert delivered[1]["config"]["seed"] == 7


def test_another_folder_in_one_process_is_said(tmp_path: Path) -> None:
    """A process cannot write to the Trackio of two folders, and never writes to the wrong one."""
    code = """
import sys
from pathlib import Path
from smollm3_ft.monitoring import local_trackio
local_trackio.storage(Path(sys.argv[1]))
local_trackio.storage(Path(sys.argv[2]))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"Trackio writes to {tmp_path / 'a'} in this process, not to {tmp_path / 'b'}" in done.stderr


def test_a_damaged_database_fails_no_run(tmp_path: Path) -> None:
    """It is a sink that is away: also of the report, whose step would fail the run, it is said in a line."""
    run = runs.begin(configure(name="a", runs_dir=str(tmp_path)))
    place = tmp_path / ".trackio" / "smollm3-ft.db"
    place.parent.mkdir()
    place.write_bytes(b"no database" * 500)
    code = """
import sys
from pathlib import Path
from smollm3_ft import runs
from smollm3_ft.errors import Undelivered
from smollm3_ft.monitoring import local_trackio
try:
    local_trackio.attach(runs.read(Path(sys.argv[1])), {"report.md": b"# a"})
except Undelivered as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, run.folder], capture_output=True, text=True, check=False)
    assert "cannot be written (file is not a database)" in done.stdout, done.stderr


def test_events_once(delivered: list[dict[str, Any]]) -> None:
    """Events are there once each, as alerts of the lowest level at their steps; checkpoints are not."""
    alerts = delivered[1]["alerts"]
    found = [(alert["step"], alert["title"], alert["level"]) for alert in alerts if alert["level"] == "info"]
    assert sorted(found) == [(10, "resumed", "info"), (20, "resumed", "info"), (30, "resumed", "info")]


def test_alerts_of_both_journals(delivered: list[dict[str, Any]]) -> None:
    """Each journal numbers its own: the first of one does not pass for the first of the other."""
    found = [(alert["title"], alert["level"]) for alert in delivered[1]["alerts"] if alert["level"] != "info"]
    assert sorted(found) == [("loss jumped", "warn"), ("stalled", "error")]


def test_files_of_the_run_are_its_artifact(delivered: list[dict[str, Any]]) -> None:
    """The report and the ledger are an artifact of the run, of which the same content makes no second version."""
    assert [(one["name"], one["version"]) for one in delivered[1]["artifacts"]["output"]] == [("a-report", 0)]
