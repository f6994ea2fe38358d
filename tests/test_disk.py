"""A disk without room is named, however the library that met it words it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from conftest import Prepare, facts
from safetensors import SafetensorError

from smollm3_ft import disk, shards
from smollm3_ft.errors import TrainingError


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A file on a device that has no room. A link: a library that renames replaces the link alone."""
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    return path


def by_python(path: Path) -> None:
    with path.open("w") as file:
        file.write("x")


def by_numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(100_000))


def by_tokenizers(path: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(path))


def by_arrow(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file:
        file.write(b"x" * 100_000)


def by_torch(path: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(100_000)}, path)


def by_torch_to_a_file(path: Path) -> None:
    import torch

    with path.open("wb") as file:
        torch.save({"a": torch.zeros(100_000)}, file)


@pytest.mark.parametrize("write", [by_python, by_numpy, by_tokenizers, by_arrow, by_torch, by_torch_to_a_file])
def test_a_full_disk_is_named(full: Path, write: Callable[[Path], None]) -> None:
    """Whatever a library says when there is no room, the failure is one of a full disk."""
    said = r"the disk is full: .* were to be written; make room"
    with pytest.raises(TrainingError, match=said), disk.named_when_full(full.parent, 2**60):
        write(full)


@pytest.mark.parametrize("write", [by_python, by_numpy, by_tokenizers, by_arrow])
def test_the_words_are_enough(full: Path, write: Callable[[Path], None]) -> None:
    """An error that says so is known for what it is, whatever is free by now."""
    with pytest.raises(Exception, match=r"No space left") as caught:
        write(full)
    assert disk.is_full(caught.value)


def test_the_words_of_safetensors() -> None:
    """Safetensors has an error of its own."""
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert disk.is_full(SafetensorError(words))


def failed_by(full: Path) -> Exception:
    """An error of another kind that a full disk led to."""
    try:
        try:
            by_python(full)
        except OSError as error:
            raise ValueError("cannot save") from error
    except ValueError as error:
        return error
    raise AssertionError


def test_a_cause_counts(full: Path) -> None:
    """A failure that came from a full disk is one of a full disk."""
    assert disk.is_full(failed_by(full))


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file"), RuntimeError("shapes"), SafetensorError("header")]
)
def test_other_failures_stay_as_they_are(tmp_path: Path, error: Exception) -> None:
    """Where there is room, a failure is what it says."""
    with pytest.raises(type(error)) as caught, disk.named_when_full(tmp_path, 1):
        raise error
    assert caught.value is error


def test_bugs_pass_through(tmp_path: Path) -> None:
    """What is no failure of writing is not looked at, however little is free."""
    with pytest.raises(KeyError), disk.named_when_full(tmp_path, 2**60):
        raise KeyError("x")


def test_preparing_on_a_full_disk(prepare: Prepare, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that finds no room while it is prepared says so."""
    monkeypatch.setattr(shards.pa, "OSFile", lambda _, mode: pa.PythonFile(full.open(mode)))
    with pytest.raises(TrainingError, match=r"the disk is full: .*\.prepared has .* free.*; make room"):
        prepare(facts(2000))
