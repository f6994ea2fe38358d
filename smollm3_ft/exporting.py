"""A run's model in a folder of its own: merged, with its quantized variants in folders of their names."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from smollm3_ft import disk, files, fit, locks, records, report, variants
from smollm3_ft.config import Variant
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.runs import Run

NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)  # a run that may only be read is read without its lock
RECORD = "export.json"  # by which such a folder is known again


def trained(run: Run) -> TrainingPlan:
    """The plan of a run whose model is there as it was trained. Raises ConfigError where it is not."""
    path = run.path / "plan.json"
    plan = fit.read(path) if path.is_file() else None
    if plan is None or records.read(run.path / fit.TRAINED, fit.mark(plan), run.path / "model") is None:
        what = f"{run.name} is not trained, or its model is not as it was"
        raise ConfigError(Problem("run", what, f"go on with it first: {report.command(run)}"))
    return plan


def check_place(place: Path) -> None:
    """Raise ConfigError where something lies in `place` that is no export: it would be replaced."""
    if place.exists() and not (place / RECORD).is_file() and not (place.is_dir() and not any(place.iterdir())):
        what = f"{place} holds something that is no export"
        raise ConfigError(Problem("folder", what, "name another folder, or move it away"))


def export(run: Run, kinds: Sequence[Variant], place: Path, on_line: Callable[[str], None]) -> int:
    """Write the model, and variants of these kinds, into `place`, all of it or nothing. Returns its bytes.

    Raises ConfigError as `trained`, `check_place` and `variants.make` do, TrainingError where the disk is full, RunBusy
    where another process works on the run or exports it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locks.hold(run.path.parent, run.name))
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise
        plan = trained(run)
        check_place(place)
        variants.check(kinds, plan.model)
        return _written(run, plan, kinds, place, on_line)


def _written(
    run: Run, plan: TrainingPlan, kinds: Sequence[Variant], place: Path, on_line: Callable[[str], None]
) -> int:
    partial = place.with_name(f".partial-{place.name}-{run.run_id}")  # another run may be on its way to the same place
    try:
        with disk.named_when_full(_there(place)):
            shutil.rmtree(partial, ignore_errors=True)
            _make(partial, place)
            for name in files.read_json(run.path / fit.TRAINED)["files"]:
                shutil.copy2(run.path / "model" / name, partial / name)
            for kind in kinds:
                if variants.there(plan, kind) is not None:
                    shutil.copytree(variants.folder(plan, kind), partial / kind)
                else:
                    variants.make(plan, kind, partial / kind, on_line)
            model = files.read_json(run.path / fit.TRAINED)["values"]["model"]
            files.write_json(partial / RECORD, {"run": run.name, "run_id": run.run_id, "model": model})
            size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
            files.move_folder(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return size


def _make(partial: Path, place: Path) -> None:
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        what = f"{place} cannot be written ({error.strerror})"
        raise ConfigError(Problem("folder", what, "name a folder that can")) from None


def _there(place: Path) -> Path:
    """The nearest folder above that is there."""
    return next(folder for folder in place.parents if folder.is_dir())
