"""Each record once, whole, and readable while the journal is written."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smollm3_ft import journal
from smollm3_ft.journal import Journal

Start = Callable[[], Journal]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.jsonl"


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Opens the journal, as a process that starts does."""
    opened: list[Journal] = []

    def work() -> Journal:
        opened.append(Journal(path, "r"))
        return opened[-1]

    yield work
    for one in opened:
        one.close()


def test_a_record(path: Path, start: Start) -> None:
    """A line has an id of run, kind and step, a time, the step, the kind and the values."""
    start().write("train", {"loss": 1.5}, 3)
    (line,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert line.pop("time") > 1e9
    assert line == {"id": "r:train:3", "step": 3, "kind": "train", "values": {"loss": 1.5}}


def test_steps_are_written_once(path: Path, start: Start) -> None:
    """A second training or evaluation record of a step is skipped, also by a journal opened again."""
    first = start()
    first.write("train", {"loss": 1.0}, 1)
    first.write("train", {"loss": 2.0}, 1)
    first.write("eval", {"loss": 3.0}, 1)
    first.close()
    again = start()
    again.write("train", {"loss": 4.0}, 1)
    again.write("train", {"loss": 5.0}, 2)
    assert [(record.id, record.values["loss"]) for record in journal.read(path)] == [
        ("r:train:1", 1.0),
        ("r:eval:1", 3.0),
        ("r:train:2", 5.0),
    ]


def test_other_records_are_numbered(path: Path, start: Start) -> None:
    """Events, alerts and samples count on, whatever their step, also in a journal opened again."""
    first = start()
    first.write("event", {"what": "started"}, 0)
    first.write("event", {"what": "checkpoint"}, 0)
    first.write("system", {"cpu_percent": 1.0})
    start().write("event", {"what": "resumed"}, 0)
    assert [record.id for record in journal.read(path)] == ["r:event:1", "r:event:2", "r:system:1", "r:event:3"]


@pytest.mark.parametrize("torn", ['{"id": "r:train:2", "ti', '{"id": "r:train:2"}', "\ufeff"])
def test_a_torn_last_line_is_cut_off(path: Path, start: Start, torn: str) -> None:
    """What a crash left of a line goes, and the record can be written again."""
    start().write("train", {"loss": 1.0}, 1)
    with path.open("a", encoding="utf-8") as file:
        file.write(torn)
    start().write("train", {"loss": 2.0}, 2)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["r:train:1", "r:train:2"]


@pytest.mark.parametrize("damaged", [b"\0" * 40, b'{"id": "r:train:2"}', b"[1]", b"\xff", b'{"id": "r:tra{"id": "r"}'])
def test_a_damaged_line_is_passed_over_and_counted(path: Path, start: Start, damaged: bytes) -> None:
    """What a power cut made of it takes no other line with it, and the record can be written again."""
    start().write("train", {"loss": 1.0}, 1)
    with path.open("ab") as file:
        file.write(damaged + b"\n")
    start().write("train", {"loss": 2.0}, 2)
    assert [record.step for record in journal.read(path)] == [1, 2]
    assert journal.damaged(path) == 1


def test_what_is_written_behind_a_damaged_line_is_there(path: Path, start: Start) -> None:
    """Its number may have been in use: an event is not taken for one that is there already."""
    first = start()
    for what in ("started", "checkpoint", "finished"):
        first.write("event", {"what": what}, 0)
    path.write_bytes(path.read_bytes().replace(b'"checkpoint"', b'"check'))
    start().write("event", {"what": "resumed"}, 0)
    assert [record.values["what"] for record in journal.read(path)] == ["started", "finished", "resumed"]
    assert len({record.id for record in journal.read(path)}) == 3


@pytest.mark.parametrize(("value", "name"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_no_number_is_text(path: Path, start: Start, value: float, name: str) -> None:
    """JSON has no NaN: it is written as its name."""
    start().write("train", {"loss": value}, 1)
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail)["values"] == {"loss": name}


def test_read_new_goes_on_where_it_was(path: Path, start: Start) -> None:
    """Reading from an offset gives what came since, and the next offset."""
    written = start()
    written.write("train", {"loss": 1.0}, 1)
    first, offset = journal.read_new(path, 0)
    written.write("train", {"what": "größer"}, 2)
    written.write("train", {"loss": 3.0}, 3)
    second, end = journal.read_new(path, offset)
    assert [record.step for record in first] == [1]
    assert [record.step for record in second] == [2, 3]
    assert end == path.stat().st_size
    assert journal.read_new(path, end) == ([], end)


def test_read_new_leaves_a_line_that_is_not_whole(path: Path, start: Start) -> None:
    """A line that is just being written is read when it is there as a whole."""
    start().write("train", {"loss": 1.0}, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-20])
    records, offset = journal.read_new(path, 0)
    assert (len(records), offset) == (1, len(whole))
    path.write_bytes(whole + whole)
    assert len(journal.read_new(path, offset)[0]) == 1


def test_no_journal_is_an_empty_one(path: Path) -> None:
    """Before anything is written there is nothing to read."""
    assert journal.read(path) == []
    assert journal.read_new(path, 0) == ([], 0)


def test_threads_share_a_journal(path: Path, start: Start) -> None:
    """Lines of several threads do not mix, and no number is given twice."""
    written = start()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(200):
            threads.submit(written.write, "event", {"what": "x" * 500})
    assert sorted(int(record.id.rpartition(":")[2]) for record in journal.read(path)) == list(range(1, 201))


def test_how_long_a_training_took(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From each start to its last line: the night in which a killed run lay there is not counted."""
    assert journal.seconds([]) is None
    times = iter([100.0, 110.0, 130.0, 9000.0, 9004.0, 9005.0])
    monkeypatch.setattr(journal.time, "time", lambda: next(times))
    with Journal(path, "r") as killed:
        killed.write("event", {"what": "started"}, 0)
        killed.write("train", {"loss": 2.0}, 10)
        killed.write("train", {"loss": 1.0}, 20)
    with Journal(path, "r") as resumed:
        resumed.write("event", {"what": "resumed"}, 10)
        resumed.write("train", {"loss": 0.5}, 30)
        resumed.write("event", {"what": "finished"}, 30)
    assert journal.seconds(journal.read(path)) == 30 + 5
