"""Rows are found where the user put them, each with the line that it has there."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import facts, write_rows

from smollm3_ft import sources
from smollm3_ft.config import Data
from smollm3_ft.errors import ConfigError, DataError
from smollm3_ft.formats import BadRow
from smollm3_ft.sources import SourcePlan


def located(source: Path | str, **given: Any) -> SourcePlan:
    (plan,) = sources.locate(Data.model_validate({"source": str(source), **given}))
    return plan


def lines(path: Path, split: str = "train") -> list[tuple[int, Any]]:
    """The line and the row (or why there is none) of everything that is read."""
    read = sources.read(located(path), split)
    return [(line.number, line.row.reason if isinstance(line.row, BadRow) else line.row) for line in read]


def test_lines_count_as_in_the_file(tmp_path: Path) -> None:
    """A byte order mark, CRLF and blank lines are no rows, and bad lines are told with their number."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"n": 1}\r\n'
        b"\r\n"
        b'{"n": 3}\r\n'
        b"{bad}\n"
        b"   \n"
        b'"text"\n'
        b'{"n": "\xe9"}\n'
        b'{"n": 8} {"n": 8}\n'
        b'[{"n": 9}]\n'
        b'{"n": "\xe2\x80\xa8"}\n'
        b'{"n": 11, "cut'
    )
    assert lines(path) == [
        (1, {"n": 1}),
        (3, {"n": 3}),
        (4, "malformed_json"),
        (6, "not_an_object"),
        (7, "not_utf8"),
        (8, "malformed_json"),
        (9, "not_an_object"),
        (10, {"n": "\u2028"}),
        (11, "malformed_json"),
    ]


def test_a_last_line_without_its_end(tmp_path: Path) -> None:
    """A file that does not end in a newline loses no row."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": 2}')
    assert lines(path) == [(1, {"n": 1}), (2, {"n": 2})]


def test_deep_nesting_is_a_bad_line(tmp_path: Path) -> None:
    """A line nested beyond what can be read is a bad row, not a crash."""
    path = write_rows(tmp_path / "rows.jsonl", ["[" * 100_000, '{"n": 2}'])
    assert lines(path) == [(1, "malformed_json"), (2, {"n": 2})]


def test_a_number_of_thousands_of_digits_is_a_bad_line(tmp_path: Path) -> None:
    """A number beyond what Python reads is a bad row, not a crash."""
    path = write_rows(tmp_path / "rows.jsonl", [f'{{"n": {"1" * 5000}}}', '{"n": 2}'])
    assert lines(path) == [(1, "malformed_json"), (2, {"n": 2})]


def test_a_json_list(tmp_path: Path) -> None:
    """The rows of a list count from one."""
    path = tmp_path / "rows.json"
    path.write_text('\ufeff[{"n": 1}, "text", {"n": 3}]', encoding="utf-8")
    assert lines(path) == [(1, {"n": 1}), (2, "not_an_object"), (3, {"n": 3})]


def test_a_json_object_is_one_row(tmp_path: Path) -> None:
    """A top-level object in a .json file is one row."""
    path = tmp_path / "rows.json"
    path.write_text('{\n  "n": 1\n}\n')
    assert lines(path) == [(1, {"n": 1})]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"n": 1},\n{"n"]', r"rows\.json:2 is not JSON"),
        (b'["\xff"]', r"rows\.json is not UTF-8"),
        (b"[" * 100_000, r"rows\.json cannot be read as JSON"),
        (b"[" + b"1" * 5000 + b"]", r"rows\.json cannot be read as JSON"),
    ],
)
def test_a_broken_json_file(tmp_path: Path, content: bytes, said: str) -> None:
    """A .json file that cannot be read as a whole is named, with its line."""
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        lines(path)


def held(tmp_path: Path, *names: str, **given: Any) -> dict[str, list[str]]:
    """Make a folder of these files. Returns which are taken for which split."""
    for name in names:
        write_rows(tmp_path / name, facts(1))
    splits = located(tmp_path, **given).splits
    return {split: sorted(str(Path(file).relative_to(tmp_path)) for file in found) for split, found in splits.items()}


def test_splits_of_a_folder(tmp_path: Path) -> None:
    """The files of a folder are what their names begin with, and training otherwise."""
    (tmp_path / "notes.txt").write_text("not read")
    names = ["train-0.jsonl", "train-1.json", "more.jsonl", "validation.jsonl", "test_a.jsonl", "tests.jsonl"]
    assert held(tmp_path, *names) == {
        "train": ["more.jsonl", "tests.jsonl", "train-0.jsonl", "train-1.json"],
        "validation": ["validation.jsonl"],
        "test": ["test_a.jsonl"],
    }


def test_splits_by_folders(tmp_path: Path) -> None:
    """A folder's name tells the split of the files in it."""
    assert held(tmp_path, "train/a.jsonl", "validation/a.jsonl", "test/a.jsonl") == {
        "train": ["train/a.jsonl"],
        "validation": ["validation/a.jsonl"],
        "test": ["test/a.jsonl"],
    }


def test_the_name_of_the_folder_itself_tells_nothing(tmp_path: Path) -> None:
    """What the user named is the source: that it is called test makes its files no held-out ones."""
    assert sorted(held(tmp_path / "test", "a.jsonl", "b.jsonl")) == ["train"]


@pytest.mark.parametrize(
    ("name", "split"),
    [("dev", "validation"), ("val", "validation"), ("valid-1", "validation"), ("eval", "test"), ("testing", "test")],
)
def test_names_that_people_give_to_splits(tmp_path: Path, name: str, split: str) -> None:
    """What the Hub takes for held out is not trained on."""
    assert held(tmp_path, "train.jsonl", f"{name}.jsonl") == {"train": ["train.jsonl"], split: [f"{name}.jsonl"]}


def test_hidden_files_are_not_read(tmp_path: Path) -> None:
    """Files and folders with a leading dot are some program's, not the user's rows."""
    names = ["train.jsonl", ".train.jsonl", ".ipynb_checkpoints/train-checkpoint.jsonl"]
    assert held(tmp_path, *names) == {"train": ["train.jsonl"]}


def test_a_split_that_is_switched_off(tmp_path: Path) -> None:
    """With none, a split that the source brings is neither held out nor trained on."""
    names = ["train.jsonl", "validation.jsonl", "test.jsonl"]
    assert held(tmp_path, *names, validation="none") == {"train": ["train.jsonl"], "test": ["test.jsonl"]}


def test_the_split_that_is_trained_on_is_not_held_out(tmp_path: Path) -> None:
    """data.split=test trains on the test files, and holds them out no more."""
    names = ["train.jsonl", "validation.jsonl", "test.jsonl"]
    assert held(tmp_path, *names, split="test") == {"train": ["test.jsonl"], "validation": ["validation.jsonl"]}


def test_a_split_by_its_name(tmp_path: Path) -> None:
    """data.validation and data.test may name the files that are held out."""
    names = ["train.jsonl", "ours.jsonl", "final.jsonl"]
    assert held(tmp_path, *names, validation="ours", test="final") == {
        "train": ["train.jsonl"],
        "validation": ["ours.jsonl"],
        "test": ["final.jsonl"],
    }


def test_a_file_alone_is_for_training(tmp_path: Path) -> None:
    """A file that is named is trained on, whatever its name."""
    assert located(write_rows(tmp_path / "test.jsonl", facts(1))).splits == {"train": (str(tmp_path / "test.jsonl"),)}


def test_a_glob(tmp_path: Path) -> None:
    """A pattern stands for the files that it matches, below folders too."""
    for name in ("a.jsonl", "deep/b.jsonl", "c.json", "d.txt"):
        write_rows(tmp_path / name, [{"n": 1}])
    found = [str(Path(file).relative_to(tmp_path)) for file in located(tmp_path / "**" / "*.json*").splits["train"]]
    assert sorted(found) == ["a.jsonl", "c.json", "deep/b.jsonl"]


def test_the_demo_has_its_splits() -> None:
    """builtin:demo is files of several formats with validation and test held out."""
    splits = located("builtin:demo").splits
    assert sorted(splits) == ["test", "train", "validation"]
    assert len(splits["train"]) > 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.jsonl", "there is no"),
        ("./missing", "there is no"),
        ("missing/*.jsonl", "holds no file to read"),
        ("empty", "holds no file to read"),
        ("held-out", "has no training file"),
        ("rows.parquet", r"reading \.parquet is not built yet"),
        ("rows", "reading files without an ending is not built yet"),
        ("builtin:nothing", "there is no builtin:nothing"),
    ],
)
def test_a_source_that_is_not_there(tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that cannot be read is said before anything is spent, with its key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for held in ("test", "validation"):
        write_rows(tmp_path / "held-out" / f"{held}.jsonl", facts(1))
    (tmp_path / "rows.parquet").touch()
    (tmp_path / "rows").touch()
    with pytest.raises(ConfigError, match=said) as caught:
        located(name)
    assert [problem.where for problem in caught.value.problems] == ["data.source"]


def test_local_files_have_no_configurations(tmp_path: Path) -> None:
    """data.config is for the Hub's datasets, and said so."""
    with pytest.raises(ConfigError, match=r"data\.config: is for Hub datasets"):
        located(write_rows(tmp_path / "rows.jsonl", facts(1)), config="SFT")


def test_a_changed_file_has_another_digest(tmp_path: Path) -> None:
    """The digest is of the content: the same bytes again give the same, others another."""
    path = write_rows(tmp_path / "rows.jsonl", facts(3))
    before = located(path).digest
    assert located(write_rows(path, facts(3))).digest == before
    assert located(write_rows(path, [*facts(2), {"prompt": "x", "completion": "y"}])).digest != before


@pytest.mark.parametrize("place", ["owner/set", "squad"])
def test_what_may_be_on_the_hub(place: str) -> None:
    """A name with at most one slash may be the Hub's."""
    assert sources.is_on_hub(place)


@pytest.mark.parametrize("place", ["a/b/c", "./set", "../set", "/set", "rows.jsonl", "data/*", "builtin:demo", "tests"])
def test_what_is_never_on_the_hub(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, a pattern, a file's name or something that is here is not the Hub's."""
    monkeypatch.chdir(Path(__file__).parents[1])
    assert not sources.is_on_hub(place)


def test_rows_of_several_sources(tmp_path: Path) -> None:
    """A list of sources gives a plan each, with its own format and columns."""
    first, second = write_rows(tmp_path / "a.jsonl", facts(1)), tmp_path / "b.json"
    second.write_text(json.dumps([{"q": "x", "a": "y"}]))
    given = [{"source": str(first)}, {"source": str(second), "columns": {"q": "question", "a": "answer"}}]
    plans = sources.locate(Data.model_validate({"source": given}))
    assert [(plan.source, plan.columns) for plan in plans] == [
        (str(first), None),
        (str(second), {"q": "question", "a": "answer"}),
    ]
