"""Rows are found where the user put them, each with the line that it has there."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import facts, write_rows

from smollm3_ft import files, sources
from smollm3_ft.config import Data
from smollm3_ft.errors import ConfigError, DataError
from smollm3_ft.sources import SourcePlan


def located(source: Path | str, **given: Any) -> SourcePlan:
    (plan,) = sources.locate(Data.model_validate({"source": str(source), **given}))
    return plan


def held(tmp_path: Path, *names: str, **given: Any) -> dict[str, list[str]]:
    """Make a folder of these files. Returns which are taken for which split."""
    for name in names:
        write_rows(tmp_path / name, facts(1))
    splits = located(tmp_path, **given).splits
    return {split: sorted(str(Path(file).relative_to(tmp_path)) for file in found) for split, found in splits.items()}


def test_splits_of_a_folder(tmp_path: Path) -> None:
    """The files of a folder are what their names begin with, and training otherwise."""
    (tmp_path / "notes.md").write_text("not read")
    names = ["train-0.jsonl", "train-1.json", "more.csv", "validation.jsonl.gz", "test_a.TSV.zst", "tests.jsonl"]
    assert held(tmp_path, *names) == {
        "train": ["more.csv", "tests.jsonl", "train-0.jsonl", "train-1.json"],
        "validation": ["validation.jsonl.gz"],
        "test": ["test_a.TSV.zst"],
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
        ("rows.xlsx", r"cannot be read: its ending is \.xlsx; use \.jsonl, "),
        ("rows", "rows has no ending"),
        ("pipe.jsonl", "pipe.jsonl is neither a file nor a folder"),
        ("piped", "pipe.jsonl is no file that can be read"),
        ("linked", r"lost.jsonl cannot be read \(No such file"),
        ("builtin:nothing", "there is no builtin:nothing"),
    ],
)
def test_a_source_that_is_not_there(tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that cannot be read is said before anything is spent, with its key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for held in ("test", "validation"):
        write_rows(tmp_path / "held-out" / f"{held}.jsonl", facts(1))
    (tmp_path / "rows.xlsx").touch()
    (tmp_path / "rows").touch()
    for folder in ("piped", "linked"):
        write_rows(tmp_path / folder / "train.jsonl", facts(1))
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.mkfifo(tmp_path / "piped" / "pipe.jsonl")
    (tmp_path / "linked" / "lost.jsonl").symlink_to(tmp_path / "nowhere")
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


def digest(path: Path, runs_dir: Path) -> str:
    (plan,) = sources.locate(Data.model_validate({"source": str(path)}), runs_dir)
    return plan.digest


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed; a change shows in their times at once."""
    names: list[str] = []
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: names.append(path.name) or sha256(path))
    monkeypatch.setattr(sources, "SETTLED_NS", -1_000_000_000)
    return names


def test_a_file_that_is_as_it_was_is_not_hashed_again(tmp_path: Path, hashed: list[str]) -> None:
    """Whoever locates a source again reads none of it, and gets the same digest."""
    path = write_rows(tmp_path / "rows.jsonl", facts(3))
    assert digest(path, tmp_path / "runs") == digest(path, tmp_path / "runs")
    assert hashed == ["rows.jsonl"]


def test_a_change_that_hides_is_noticed(tmp_path: Path, hashed: list[str]) -> None:
    """A file of the same size whose time of change was put back is another file."""
    path = write_rows(tmp_path / "rows.jsonl", facts(3))
    state, before = path.stat(), digest(path, tmp_path / "runs")
    changed = path.read_bytes().replace(b"number 1", b"number 7")
    while path.stat().st_ctime_ns == state.st_ctime_ns:  # the clock of a file system ticks in hundredths
        path.write_bytes(changed)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert digest(path, tmp_path / "runs") != before


def test_a_file_that_was_just_written_is_hashed_again(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change within the same tick of the clock would not show, so nothing is remembered yet."""
    monkeypatch.setattr(sources, "SETTLED_NS", 2_000_000_000)
    path = write_rows(tmp_path / "rows.jsonl", facts(3))
    assert digest(path, tmp_path / "runs") == digest(path, tmp_path / "runs")
    assert hashed == ["rows.jsonl", "rows.jsonl"]


def test_without_a_folder_of_runs_every_file_is_hashed(tmp_path: Path, hashed: list[str]) -> None:
    """Nothing is remembered where there is nowhere to keep it."""
    path = write_rows(tmp_path / "rows.jsonl", facts(3))
    assert located(path).digest == located(path).digest
    assert hashed == ["rows.jsonl", "rows.jsonl"]


def test_files_that_are_gone_are_forgotten(tmp_path: Path, hashed: list[str]) -> None:
    """The record of digests holds files that are there."""
    for name in ("a.jsonl", "b.jsonl"):
        digest(write_rows(tmp_path / name, facts(1)), tmp_path / "runs")
        (tmp_path / "a.jsonl").unlink(missing_ok=True)
    assert list(files.read_json(tmp_path / "runs" / ".sources.json")["files"]) == [str(tmp_path / "b.jsonl")]


def test_a_record_that_is_broken_is_not_believed(tmp_path: Path, hashed: list[str]) -> None:
    """A record of digests that cannot be read costs a reading of the files, no more."""
    path = write_rows(tmp_path / "rows.jsonl", facts(3))
    (tmp_path / "runs").mkdir()
    for content in ("{cut", '{"files": [1]}', json.dumps({"files": {str(path): "x"}})):
        (tmp_path / "runs" / ".sources.json").write_text(content)
        assert digest(path, tmp_path / "runs") == located(path).digest


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


def test_rows_are_counted_without_being_read(tmp_path: Path) -> None:
    """A split's rows are counted over its files, whatever is in them."""
    write_rows(tmp_path / "a.jsonl", [*facts(3), "", "{cut"])
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("a,b\n1,2\n1\n")
    assert sources.count(located(tmp_path), "train") == 8


def test_rows_of_a_hub_dataset_count_on_over_its_files(tmp_path: Path) -> None:
    """What is cached of a split is read as one, by the dataset's name and the split's own."""
    names = []
    for number in range(2):
        names.append(str(tmp_path / f"{number}.arrow"))
        table = pa.table({"n": list(range(3))})
        with pa.OSFile(names[-1], "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    plan = SourcePlan(
        source="a/b", kind="hub", format="auto", splits={"train": ("all",)}, cached={"train": tuple(names)}, digest=""
    )
    assert [(line.place, line.number, line.row) for line in sources.read(plan, "train")] == [
        ("a/b:all", number, {"n": (number - 1) % 3}) for number in range(1, 7)
    ]
    assert sources.count(plan, "train") == 6


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    """A file that is gone when it is read is said so by its name."""
    plan = located(write_rows(tmp_path / "rows.jsonl", facts(1)))
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl cannot be read \(No such file or directory\)"):
        list(sources.read(plan, "train"))
