"""A trial that is ended early: who judges it writes why into the run's folder, and who trains it looks there.

So it does not matter on which machine the training runs: both see the folder.
"""

from __future__ import annotations

from pathlib import Path

from smollm3_ft import files
from smollm3_ft.errors import Stopped

PRUNED = "pruned.json"


def prune(folder: Path, why: str) -> None:
    """Ask whoever trains this run to end it."""
    files.write_json(folder / PRUNED, {"why": why})


def reason(folder: Path) -> str | None:
    """Why the run was pruned; None where it was not."""
    why = files.read_json_if_there(folder / PRUNED).get("why")
    return None if why is None else str(why)


def check(folder: Path) -> None:
    """Raise Stopped where the run is not wanted any more."""
    why = reason(folder)
    if why is not None:
        raise Stopped(f"pruned: {why}", "the sweep goes on with the next trial; this run's own command goes on with it")


def take_back(folder: Path) -> None:
    """Whoever starts a pruned run by its name wants it after all."""
    (folder / PRUNED).unlink(missing_ok=True)
