"""One function on several cores: in order, a few at a time, and no worker is left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import documents, facts, write_rows

from smollm3_ft import data, processes, sources, workers
from smollm3_ft.config import Data
from smollm3_ft.errors import DataError

pytestmark = pytest.mark.process


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("count", [0, 1, workers.FEW - 1, 50])
def test_results_come_in_order(count: int) -> None:
    """Each task has its result, in the order of the tasks, with workers and without."""
    for cores in (1, 2):
        assert list(workers.ordered(square, range(count), cores)) == [number * number for number in range(count)]


def test_tasks_are_taken_as_they_are_needed() -> None:
    """No more tasks wait than keep the workers busy: memory does not grow with their number."""
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = workers.ordered(square, tasks(), 2)
    next(results)
    assert taken < 10
    results.close()  # type: ignore[attr-defined]


def fail(number: int) -> int:
    raise DataError(f"row {number} is bad", "mend it")


def test_a_worker_s_error_arrives() -> None:
    """What a worker raises is raised, with its words."""
    with pytest.raises(DataError, match="row 0 is bad; mend it"):
        list(workers.ordered(fail, range(50), 2))


FOREVER = """
import time
from smollm3_ft import workers
for result in workers.ordered(lambda task: print("at work", flush=True) or time.sleep(600), range(20), 2): pass
"""


def test_workers_end_with_a_killed_parent() -> None:
    """A parent that is killed leaves no worker behind."""
    with subprocess.Popen([sys.executable, "-c", FOREVER], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        os.kill(parent.pid, signal.SIGKILL)
        assert psutil.wait_procs(children, timeout=60)[1] == []


def request(tmp_path: Path, tiny: Path, name: str, rows: Path) -> data.Request:
    settings = Data(source=str(rows), max_length=512, validation="none", test="none")
    runs_dir = tmp_path / name
    pinned = sources.locate(settings)
    return data.request(pinned, settings, 1, "sft", tiny, "chat", runs_dir, tmp_path / name / "beside")


def test_data_is_the_same_from_one_core_and_from_several(tmp_path: Path, tiny: Path) -> None:
    """Prepared by one core, by two, and in a process of its own, the shards are the same bytes."""
    long = [{**row, "prompt": row["prompt"] + " and" * 200} for row in facts(6000)]
    rows = write_rows(tmp_path / "rows.jsonl", [*long, *facts(100), *long[:50]])
    lines: list[str] = []
    prepared = [
        data.prepare(request(tmp_path, tiny, "one", rows), cores=1),
        data.prepare(request(tmp_path, tiny, "two", rows), cores=2),
        data.prepare_apart(request(tmp_path, tiny, "apart", rows), lines.append),
    ]
    assert rows.stat().st_size > workers.FEW * 2**20
    assert [one.ledger["sources"][0]["dropped"] for one in prepared] == [{"duplicate": 50}] * 3
    shards = {(Path(one.folder) / "train.arrow").read_bytes() for one in prepared}
    assert len(shards) == 1
    assert lines == []


def test_a_fault_of_the_data_passes_through_the_process(tmp_path: Path, tiny: Path) -> None:
    """What is wrong with the data is said in its own words, and the quarantine lies beside the run."""
    rows = write_rows(tmp_path / "rows.jsonl", [*facts(5), "{cut"])
    with pytest.raises(DataError, match=r"1 of 6 rows of .*malformed_json"):
        data.prepare_apart(request(tmp_path, tiny, "apart", rows), print)
    assert (tmp_path / "apart" / "beside" / "quarantine.jsonl").is_file()


def test_a_second_time_needs_no_process(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared data that is there is found without starting anything."""
    asked = request(tmp_path, tiny, "apart", write_rows(tmp_path / "rows.jsonl", facts(9)))
    first = data.prepare_apart(asked, print)
    monkeypatch.setattr(data.processes, "run", None)
    assert data.prepare_apart(asked, print) == first
    assert len(documents(first)) == 9


def test_two_prepare_at_once(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose like was begun and done between its request and its process finds what that one made."""
    rows, run = write_rows(tmp_path / "rows.jsonl", facts(20)), processes.run
    first, second = request(tmp_path, tiny, "first", rows), request(tmp_path, tiny, "second", rows)

    def overtaken(*words: str, **given: Any) -> None:
        monkeypatch.setattr(processes, "run", run)
        data.prepare_apart(second.model_copy(update={"runs_dir": first.runs_dir}), print)
        run(*words, **given)

    monkeypatch.setattr(processes, "run", overtaken)
    assert data.prepare_apart(first, print).fingerprint == second.fingerprint
