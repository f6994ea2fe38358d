"""A checkpoint is complete or not there."""

import os
from pathlib import Path

import pytest

from smollm3_ft import checkpoints, files


def publish(folder: Path, step: int) -> Path:
    """Make a small checkpoint."""
    staged = folder / ".partial-save" / f"checkpoint-{step}"
    (staged / "deep").mkdir(parents=True)
    (staged / "model.bin").write_text(f"weights of {step}")
    (staged / "deep" / "state.bin").write_text("state")
    return checkpoints.publish(staged, folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 5, 10 and 100."""
    for step in (10, 100, 5):
        publish(tmp_path / "checkpoints", step)
    return tmp_path / "checkpoints"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_in_the_order_of_steps(folder: Path) -> None:
    """Checkpoints are ordered by step, not by name or time."""
    assert [checkpoints.step(path) for path in checkpoints.complete(folder)] == [5, 10, 100]


def test_the_newest_is_resumed_from(folder: Path) -> None:
    """The newest is that of the highest step."""
    assert checkpoints.newest(folder) == (folder / "checkpoint-100", [])


def test_no_checkpoint(tmp_path: Path) -> None:
    """Where there is none, training begins at the start."""
    assert checkpoints.newest(tmp_path / "none") == (None, [])


def test_the_manifest_lists_every_file(folder: Path) -> None:
    """A checkpoint says each of its files with size and hash."""
    listed = files.read_json(folder / "checkpoint-5" / checkpoints.MANIFEST)["files"]
    assert listed == {
        name: {"size": size, "sha256": files.sha256(folder / "checkpoint-5" / name)}
        for name, size in (("deep/state.bin", 5), ("model.bin", 12))
    }


def same_size(path: Path) -> None:
    path.write_text("w" * path.stat().st_size)


def shorter(path: Path) -> None:
    os.truncate(path, 3)


DAMAGES = [same_size, shorter, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.bin", "deep/state.bin"])
def test_a_damaged_one_is_set_aside(folder: Path, name: str, damage: object) -> None:
    """A checkpoint that is not as its manifest says is kept under a name that says so, and the one before is taken."""
    damage(folder / "checkpoint-100" / name)  # type: ignore[operator]
    assert checkpoints.newest(folder) == (folder / "checkpoint-10", [".damaged-checkpoint-100"])
    assert names(folder) == [".damaged-checkpoint-100", ".partial-save", "checkpoint-10", "checkpoint-5"]


@pytest.mark.parametrize("content", ["", '{"fi', "{}", "[]", '{"files": []}', '{"files": {"model.bin": 12}}'])
def test_a_damaged_manifest_is_damage(folder: Path, content: str) -> None:
    """A manifest that cannot be read proves nothing."""
    (folder / "checkpoint-100" / checkpoints.MANIFEST).write_text(content)
    assert checkpoints.newest(folder) == (folder / "checkpoint-10", [".damaged-checkpoint-100"])


def test_all_damaged(folder: Path) -> None:
    """Where none is whole, training begins at the start, and each is named."""
    for step in (5, 10, 100):
        same_size(folder / f"checkpoint-{step}" / "model.bin")
    newest, aside = checkpoints.newest(folder)
    assert newest is None
    assert aside == [".damaged-checkpoint-100", ".damaged-checkpoint-10", ".damaged-checkpoint-5"]


def test_a_partial_one_does_not_count(folder: Path) -> None:
    """A folder without its manifest, or under a partial name, is no checkpoint."""
    (folder / "checkpoint-200").mkdir()
    (folder / "checkpoint-200" / "model.bin").touch()
    (folder / ".partial-save" / "checkpoint-300").mkdir(parents=True)
    (folder / "checkpoint-4x").mkdir()
    assert checkpoints.newest(folder) == (folder / "checkpoint-100", [])


def test_what_was_interrupted_is_cleared(folder: Path) -> None:
    """What an interrupted save or deletion left is removed, and nothing else."""
    (folder / ".partial-save" / "checkpoint-300").mkdir(parents=True)
    (folder / ".partial-old-checkpoint-5-1").mkdir()
    (folder / "checkpoint-10" / checkpoints.MANIFEST).unlink()
    (folder / ".damaged-checkpoint-7").mkdir()
    checkpoints.clear_partial(folder)
    assert names(folder) == [".damaged-checkpoint-7", "checkpoint-100", "checkpoint-5"]


def test_rotation_goes_by_step(folder: Path) -> None:
    """The oldest steps are deleted, though their files are the newest."""
    for age, step in ((1, 100), (2, 10), (3, 5)):
        os.utime(folder / f"checkpoint-{step}", (age, age))
    checkpoints.rotate(folder, 2)
    assert [checkpoints.step(path) for path in checkpoints.complete(folder)] == [10, 100]


def test_rotation_keeps_what_there_is(folder: Path) -> None:
    """Fewer checkpoints than are kept stay as they are."""
    checkpoints.rotate(folder, 5)
    assert len(checkpoints.complete(folder)) == 3


def test_a_step_may_be_saved_again(folder: Path) -> None:
    """A checkpoint of a step that is there replaces it."""
    same_size(folder / "checkpoint-10" / "model.bin")
    publish(folder, 10)
    assert checkpoints.is_undamaged(folder / "checkpoint-10")
