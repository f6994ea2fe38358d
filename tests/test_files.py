"""A file is there as a whole or not at all, and a digest is of what is in it."""

import json
import resource
from pathlib import Path

import pytest

from smollm3_ft import files


def test_write_replaces_the_whole(tmp_path: Path) -> None:
    """A written file holds the new content alone, and nothing is left beside it."""
    path = tmp_path / "new" / "a.txt"
    files.write(path, "long old content")
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [one.name for one in path.parent.iterdir()] == ["a.txt"]


def test_a_write_that_fails_leaves_the_old(tmp_path: Path) -> None:
    """Where there is no room for the new content, the old one stays, and nothing is left beside it."""
    path = tmp_path / "a.txt"
    files.write(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_write_sets_the_mode(tmp_path: Path) -> None:
    """A file that others must not read is never readable by them."""
    files.write(tmp_path / "secret", "x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_json_has_a_schema_version(tmp_path: Path) -> None:
    """Every JSON file says its version, and keeps text as it is."""
    files.write_json(tmp_path / "a.json", {"name": "Zürich"})
    assert files.read_json(tmp_path / "a.json") == {"schema_version": 1, "name": "Zürich"}
    assert "Zürich" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["[1]", "{cut", ""])
def test_json_that_is_no_object(tmp_path: Path, content: str) -> None:
    """Anything but a JSON object is a ValueError."""
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"JSON|Expect"):
        files.read_json(tmp_path / "a.json")


def test_a_folder_is_moved_into_its_place(tmp_path: Path) -> None:
    """A finished folder replaces what was there, and nothing of either is left over."""
    for name in ("partial", "runs/final"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / name.replace("/", "-")).touch()
    files.move_folder(tmp_path / "partial", tmp_path / "runs" / "final")
    assert [path.name for path in (tmp_path / "runs" / "final" / "deep").iterdir()] == ["partial"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "final", "partial", "runs"]


def test_what_was_cut_short_is_cleared(tmp_path: Path) -> None:
    """What a killed process left beside a file or a folder goes; the file, the folder and all others stay."""
    for name in ("model", ".partial-model", ".partial-old-model-12", ".partial-old-other-12"):
        (tmp_path / name / "deep").mkdir(parents=True)
    for name in ("a.json", ".partial-a.json-12", ".partial-b.json-12"):
        (tmp_path / name).touch()
    for name in ("model", "a.json"):
        files.clear_partial(tmp_path / name)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".partial-b.json-12", ".partial-old-other-12", "a.json", "model"]


def test_digests_are_of_the_data() -> None:
    """The order of keys does not matter, everything else does."""
    assert files.digest({"a": 1, "b": [1, 2]}) == files.digest(json.loads('{"b": [1, 2], "a": 1}'))
    assert (
        len({files.digest(value) for value in ({"a": 1}, {"a": "1"}, {"a": [1]}, {"a": 1, "b": None}, [1, 2], [2, 1])})
        == 6
    )


def test_digest_of_files(tmp_path: Path) -> None:
    """Files are told apart by name and content, in any order."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    second.write_text("2")
    before = files.digest_of([first, second])
    assert files.digest_of([second, first]) == before
    second.write_text("3")
    assert files.digest_of([first, second]) != before


@pytest.mark.parametrize(
    ("size", "said"), [(2**20, "1.0 MiB"), (3 * 2**29, "1.5 GiB"), (2**30, "1.0 GiB"), (0, "0.0 MiB")]
)
def test_bytes_as_people_read_them(size: int, said: str) -> None:
    """Sizes are said in MiB or GiB."""
    assert files.gib(size) == said
