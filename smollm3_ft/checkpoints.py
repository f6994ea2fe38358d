"""Checkpoints that are complete or not there.

A checkpoint is written into a `.partial-*` folder, listed in a manifest (sizes and SHA-256), flushed, and renamed. The
newest one whose files are as listed is resumed from; one that is not is set aside under a name that says so.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from smollm3_ft import files

MANIFEST = "manifest.json"
NAME = re.compile(r"^checkpoint-(\d+)$")


def complete(folder: Path) -> list[Path]:
    """Checkpoints in the order of their steps, the oldest first; content not checked."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.match(path.name) and (path / MANIFEST).is_file()]
    return sorted(found, key=step)


def step(checkpoint: Path) -> int:
    match = NAME.match(checkpoint.name)
    assert match is not None
    return int(match[1])


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint, and the names under which damaged ones were set aside."""
    damaged: list[str] = []
    for checkpoint in reversed(complete(folder)):
        if is_undamaged(checkpoint):
            return checkpoint, damaged
        aside = folder / f".damaged-{checkpoint.name}"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        damaged.append(aside.name)
    return None, damaged


def is_undamaged(checkpoint: Path) -> bool:
    """Whether every file has the size and content that the manifest lists."""
    try:
        listed = files.read_json(checkpoint / MANIFEST)["files"]
        return all(
            (checkpoint / name).stat().st_size == entry["size"] and files.sha256(checkpoint / name) == entry["sha256"]
            for name, entry in listed.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def publish(staged: Path, folder: Path) -> Path:
    """Make a fully written folder `checkpoint-N` one of the checkpoints."""
    listed = {
        str(path.relative_to(staged)): {"size": path.stat().st_size, "sha256": files.sha256(path)}
        for path in sorted(staged.rglob("*"))
        if path.is_file()
    }
    files.write_json(staged / MANIFEST, {"files": listed})
    final = folder / staged.name
    files.move_folder(staged, final)
    files.sync_folder(folder.parent)  # the first checkpoint's folder is new itself
    return final


def rotate(folder: Path, keep: int, best: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints, by step, and the `best` one.

    A deletion cut short leaves no half checkpoint.
    """
    for checkpoint in complete(folder)[:-keep]:
        if step(checkpoint) == best:
            continue
        (checkpoint / MANIFEST).unlink()  # from here on it does not count
        shutil.rmtree(checkpoint)


def clear_partial(folder: Path) -> None:
    """Remove what an interrupted save or deletion left."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(".partial-") or (NAME.match(path.name) and not (path / MANIFEST).is_file()):
                shutil.rmtree(path)
