"""A step's output counts only with its record, and only as it was recorded."""

import json
import os
import shutil
from pathlib import Path

import pytest

from smollm3_ft import records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recorded output."""
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "a.bin").write_bytes(b"abc")
    (made / "deep" / "b.bin").write_bytes(b"def")
    records.write(made / records.RECORD, "mark", {"rows": 3}, made)
    return made


def read(folder: Path, mark: str = "mark") -> dict[str, int] | None:
    return records.read(folder / records.RECORD, mark, folder)


def test_a_recorded_output_is_a_hit(folder: Path) -> None:
    """An output that is as recorded gives the step's values."""
    assert read(folder) == {"rows": 3}


def test_another_fingerprint_is_no_hit(folder: Path) -> None:
    """An output made from something else does not count."""
    assert read(folder, "other") is None


def test_no_record_is_no_hit(folder: Path) -> None:
    """Without its record, which is written last, an output does not count."""
    (folder / records.RECORD).unlink()
    assert read(folder) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"fingerprint": "mark"}', '{"fingerprint": "mark", "files": 3}']
)
def test_a_damaged_record_is_no_hit(folder: Path, content: str) -> None:
    """A record that cannot be read is as none."""
    (folder / records.RECORD).write_text(content)
    assert read(folder) is None


@pytest.mark.parametrize("name", ["a.bin", "deep/b.bin"])
def test_a_missing_file_is_no_hit(folder: Path, name: str) -> None:
    """Every recorded file must be there."""
    (folder / name).unlink()
    assert read(folder) is None


@pytest.mark.parametrize("content", [b"abd", b"ab", b"abcd"])
def test_an_altered_file_is_no_hit(folder: Path, content: bytes) -> None:
    """Every recorded file must hold what it held."""
    (folder / "a.bin").write_bytes(content)
    assert read(folder) is None


def test_a_copy_is_a_hit(folder: Path, tmp_path: Path) -> None:
    """A copied folder has other times and the same content: it counts."""
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy)
    os.utime(copy / "a.bin", (1, 1))
    assert read(copy) == {"rows": 3}


def test_a_record_may_lie_beside_its_files(tmp_path: Path) -> None:
    """The record of a folder may lie outside of it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("x")
    records.write(tmp_path / "training.json", "mark", {"steps": 2}, tmp_path / "model")
    assert list(json.loads((tmp_path / "training.json").read_text())["files"]) == ["a"]
    assert records.read(tmp_path / "training.json", "mark", tmp_path / "model") == {"steps": 2}
