"""What lies below the folder of all runs and no run needs any more: found, and on request deleted.

Shared outputs count as needed while a run's marks or plans name them. What a living run holds, or may be about to take,
is no garbage, and neither is what an unfinished run goes on from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from smollm3_ft import files, locks, pruning, runs
from smollm3_ft.errors import RunBusy

GONE = ".gone-"  # what is being deleted: a deletion cut short leaves nothing that looks whole
LEFT_OVER = re.compile(r"^\.(partial|failed|gone)-(?:old-)?(.+?)(?:-\d{1,7})?$")


class Garbage(NamedTuple):
    """Something that may go: where it lies, why nobody needs it, its bytes, and the lock of who could be at it."""

    path: Path
    why: str
    size: int
    lock: str


class Needs(NamedTuple):
    """What the runs name of what they share, and the shared folders that a living run may be about to take from."""

    names: frozenset[str]
    unsettled: frozenset[str]


def found(runs_dir: Path) -> list[Garbage]:
    """Everything that may go, the largest first. Changes nothing."""
    return sorted(_found(runs_dir, needs(runs_dir)), key=lambda one: one.size, reverse=True)


def delete(runs_dir: Path, one: Garbage) -> bool:
    """Delete it, if nobody took it meanwhile. Returns whether it is gone."""
    try:
        with locks.hold(runs_dir, one.lock):
            if not one.path.exists() or _is_wanted(runs_dir, one):
                return False
            aside = one.path.with_name(GONE + one.path.name.removeprefix(GONE))
            if aside != one.path:
                _remove(aside)
                one.path.rename(aside)
            _remove(aside)
            return True
    except RunBusy:
        return False


def _is_wanted(runs_dir: Path, one: Garbage) -> bool:
    """Whether somebody has come to need it since it was found. Its lock is held, by us."""
    if one.path.parent.parent == runs_dir and one.path.parent.name == one.lock:  # a run's checkpoints
        return _why_checkpoints_may_go(one.path.parent) is None or _is_trained(runs_dir, one.lock)
    needed = needs(runs_dir)
    return one.path.name in needed.names or one.path.parent.name in needed.unsettled


def needs(runs_dir: Path) -> Needs:
    """What the runs there need of what they share."""
    names, unsettled = set[str](), set[str]()
    for folder in _runs(runs_dir):
        marks = files.read_json_if_there(folder / runs.MARKS).get("steps", {})
        early = files.read_json_if_there(folder / runs.RECORD).get("plan") or {}
        plan = files.read_json_if_there(folder / "plan.json")
        names |= {str(mark) for mark in marks.values()} | {str(plan.get("prepared", {}).get("fingerprint"))}
        names |= {Path(str(one.get("model", {}).get("folder"))).name for one in (early, plan)}
        if locks.owner(runs_dir, folder.name) is not None or _is_trained(runs_dir, folder.name):
            unsettled |= {".models"} if not early else set()
            unsettled |= {".prepared"} if "prepare data" not in marks else set()
            unsettled |= {".evaluated"} if "evaluate tuned" not in marks else set()
    return Needs(frozenset(names), frozenset(unsettled))


def _found(runs_dir: Path, needed: Needs) -> Iterator[Garbage]:
    for place, what in ((".prepared", "prepared data"), (".evaluated", "an evaluation"), (".models", "a built model")):
        for path in _inside(runs_dir / place):
            left = LEFT_OVER.match(path.name)
            lock = f"{place}-{_of_lock(place, left[2] if left else path.name)}"
            wanted = path.name in needed.names or place in needed.unsettled
            if wanted or locks.owner(runs_dir, lock) is not None:
                continue
            failed = left is not None and left[1] == "failed"
            why = "the quarantine of data that could not be prepared" if failed else "left by work that did not end"
            yield _garbage(path, why if left else f"{what} that no run uses", lock)
    for path in _inside(runs_dir / ".old"):
        yield _garbage(path, "a run that was set aside by --fresh", f".old-{path.name}")
    for folder in _runs(runs_dir):
        unneeded = _why_checkpoints_may_go(folder)
        for path in (folder / "checkpoints", folder / f"{GONE}checkpoints"):
            worked_on = locks.owner(runs_dir, folder.name) is not None or _is_trained(runs_dir, folder.name)
            if unneeded and path.is_dir() and not worked_on:
                yield _garbage(path, unneeded, folder.name)


def _is_trained(runs_dir: Path, name: str) -> bool:
    """Whether processes of a launcher, or a worker of a pool, train the run: they hold locks beside the run's own."""
    return any(locks.owner(runs_dir, lock) is not None for lock in (f".training-{name}", f".{name}-on-device"))


def _why_checkpoints_may_go(folder: Path) -> str | None:
    if pruning.reason(folder):
        return "checkpoints of a trial that was pruned"
    return "checkpoints of a finished run" if runs.status(folder) in runs.FINISHED else None


def _of_lock(place: str, name: str) -> str:
    """What the lock of a shared output is called after: a built model's by the digest in its name."""
    return name.rpartition("-")[2] if place == ".models" else name


def _garbage(path: Path, why: str, lock: str) -> Garbage:
    below = [path, *path.rglob("*")] if path.is_dir() else [path]
    return Garbage(path, why, sum(one.lstat().st_size for one in below if one.is_symlink() or one.is_file()), lock)


def _runs(runs_dir: Path) -> list[Path]:
    """Every run's folder, also of one whose record is damaged: what it names is needed until it is set aside."""
    return [path for path in _inside(runs_dir) if not path.name.startswith(".") and (path / runs.RECORD).is_file()]


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
