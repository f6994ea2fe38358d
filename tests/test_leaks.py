"""Training rows that nearly are held-out ones are found, named with both lines, and left out where that is asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Prepare, documents, quarantine, write_rows

from smollm3_ft import leaks
from smollm3_ft.errors import DataError

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "red", "green", "blue", "black", "white"]


def talk(number: int, words: int = 30) -> dict[str, str]:
    """A row like no other."""
    said = np.random.default_rng(number).choice(WORDS, words)
    return {"prompt": f"Question {number}: {' '.join(said[: words // 2])}?", "completion": f"{' '.join(said)}."}


def nearly(row: dict[str, str]) -> dict[str, str]:
    """The same row with a word more at its end."""
    return {**row, "completion": f"{row['completion']} Indeed."}


def folder(tmp_path: Path, train: list[Any], test: list[Any]) -> Path:
    """A data set with its own test split."""
    write_rows(tmp_path / "set" / "train.jsonl", train)
    write_rows(tmp_path / "set" / "test.jsonl", test)
    return tmp_path / "set"


TEST = [talk(number) for number in range(20)]
TRAIN = [*map(talk, range(100, 140)), nearly(TEST[3]), *map(talk, range(140, 180)), TEST[5]]
GIVEN = {"validation": "none", "max_bad_rows": 1.0, "max_length": 512}


def test_a_planted_leak_is_named_with_both_lines(prepare: Prepare, tmp_path: Path) -> None:
    """An exact and a near copy of test rows in training are found, each with its line and the held-out one's."""
    place = folder(tmp_path, TRAIN, TEST)
    prepared = prepare(place, **GIVEN)
    found = prepared.ledger["leaks"]
    assert (found["exact"], found["near"], found["excluded"]) == (1, 1, 1)
    exact, near = found["first"]
    assert (exact["row"], exact["held_out"]) == (f"{place}/train.jsonl:82", f"{place}/test.jsonl:6")
    assert (near["row"], near["held_out"]) == (f"{place}/train.jsonl:41", f"{place}/test.jsonl:4")
    assert (near["split"], exact["alike"]) == ("test", 1.0)
    assert 0.8 <= near["alike"] < 1
    page = (Path(prepared.folder) / "report.html").read_text()
    assert "train.jsonl:41<td>" in page
    assert "test.jsonl:4<td>" in page


def test_what_repeats_a_row_is_named_with_it(prepare: Prepare, tmp_path: Path) -> None:
    """In the quarantine, a duplicate names the row that it repeats."""
    prepared = prepare(folder(tmp_path, TRAIN, TEST), **GIVEN)
    (row,) = quarantine(Path(prepared.folder))
    assert (row["line"], row["reason"]) == (82, "duplicate")
    assert row["detail"].endswith("test.jsonl:6")


def test_near_leaks_are_trained_on_unless_they_are_excluded(prepare: Prepare, tmp_path: Path) -> None:
    """With `data.exclude_leaks` the row is dropped as `leak`, the ledger adds up, and no held-out row goes."""
    place = folder(tmp_path, TRAIN, TEST)
    kept, left = prepare(place, **GIVEN), prepare(place, **GIVEN, exclude_leaks=True)
    lines = [{document.line for document in documents(one)} for one in (kept, left)]
    assert lines[0] - lines[1] == {41}
    (source,) = left.ledger["sources"]
    assert source["dropped"] == {"duplicate": 1, "leak": 1}
    assert source["rows"] == source["kept"] + 2 == len(TRAIN) + len(TEST)
    assert left.rows == {"train": len(TRAIN) - 2, "validation": 0, "test": len(TEST)}
    assert left.ledger["leaks"]["excluded"] == 2
    (bad,) = [row for row in quarantine(Path(left.folder)) if row["reason"] == "leak"]
    assert bad["line"] == 41
    assert "test.jsonl:4, which is held out" in bad["detail"]


def test_drawn_splits_leak_too(prepare: Prepare) -> None:
    """Where held-out rows are drawn from the training rows, their near copies stay behind, and are found."""
    rows = [one for number in range(60) for one in (talk(number), nearly(talk(number)))]
    found = prepare(rows, test=20, validation=10, max_length=512).ledger["leaks"]
    assert found["near"] >= 15
    assert {leak["split"] for leak in found["first"]} == {"test", "validation"}


def test_what_all_rows_have_is_no_leak(prepare: Prepare, tmp_path: Path) -> None:
    """A long system message that all rows share makes none like another, and hides no near copy."""
    system = " ".join(WORDS * 6)
    place = folder(tmp_path, [{**row, "system": system} for row in TRAIN], [{**row, "system": system} for row in TEST])
    found = prepare(place, **GIVEN).ledger["leaks"]
    assert (found["exact"], found["near"]) == (1, 1)


def test_short_rows_are_told_apart(prepare: Prepare, tmp_path: Path) -> None:
    """Questions of a few words that differ in one of them are different questions."""
    train = [{"prompt": f"What is {n} plus {n}?", "completion": f"{2 * n}"} for n in range(10, 60)]
    test = [{"prompt": f"What is {n} plus {n}?", "completion": f"{2 * n}"} for n in range(60, 80)]
    assert prepare(folder(tmp_path, train, test), **GIVEN).ledger["leaks"]["near"] == 0


def test_when_everything_leaks(prepare: Prepare, tmp_path: Path) -> None:
    """Where no training row would be left, it is said, and what to do."""
    place = folder(tmp_path, [nearly(row) for row in TEST[:3]], TEST[:3])
    with pytest.raises(DataError, match="every training row is nearly a held-out one"):
        prepare(place, **GIVEN, exclude_leaks=True)


def shingles(row: Any) -> set[tuple[int, ...]]:
    """Each run of SHINGLE tokens of a row."""
    return set(zip(*(row[n:].tolist() for n in range(leaks.SHINGLE)), strict=False))


def test_all_that_is_alike_is_found_and_nothing_else() -> None:
    """Of random rows, changed a little or much, the pairs are those that a comparison of all rows gives."""
    random = np.random.default_rng(3)
    held = [random.integers(0, 1000, size).astype(np.int32) for size in random.integers(1, 120, 150)]
    changed = []
    for row in held:
        copy = row.copy()
        copy[random.random(len(copy)) < random.choice([0.0, 0.01, 0.03, 0.2])] = 1001
        changed.append(copy)
    rows = [*held, *changed]
    sizes = np.array([len(row) for row in rows])

    def tokens(chosen: leaks.Indices) -> tuple[Any, Any]:
        return np.concatenate([rows[index] for index in chosen]), np.cumsum(sizes[chosen])

    wanted = {}
    sets = [shingles(row) for row in rows]
    for index, own in enumerate(sets[150:], start=150):
        alike = [len(own & other) / max(1, len(own | other)) for other in sets[:150]]
        if max(alike) >= leaks.ALIKE:
            wanted[index] = (int(np.argmax(alike)), pytest.approx(max(alike)))
    found = leaks.found(tokens, np.arange(150, 300), np.arange(150), seed=1)
    assert {leak.train: (leak.held_out, leak.alike) for leak in found} == wanted
    assert 40 < len(wanted) < 140


def test_nothing_held_out() -> None:
    """Without held-out rows nothing leaks, and nothing is read."""

    def tokens(chosen: leaks.Indices) -> tuple[Any, Any]:
        raise AssertionError

    assert leaks.found(tokens, np.arange(5), np.arange(0), seed=1) == []
