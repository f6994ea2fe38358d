"""Run folders: how a run is named, begun, gone on with, set aside, and told apart from another of the same name."""

from __future__ import annotations

import datetime
import uuid
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from smollm3_ft import files, identity, locks, models, sources
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.layers import flatten
from smollm3_ft.models import ModelPlan
from smollm3_ft.plan import Plan
from smollm3_ft.sources import SourcePlan

RECORD = "run.json"
MARKS = "steps.json"
NOT_COMPARED = ("name", "runs_dir", "compute", "monitor", "publish")
HOW_A_STEP_IS_MADE = ("train.batch_size", "train.gradient_accumulation_steps", "train.gradient_checkpointing")
FINISHED = ("completed", "blocked")


class Origin(BaseModel):
    """What a run trains again: its name, its `place` (a run's folder, a card's path, a Hub id), what it was told, and
    what is to come out again."""

    model_config = ConfigDict(frozen=True)

    name: str
    place: str
    # The commits of datasets on the Hub.
    revisions: dict[str, str]
    values: dict[str, Any]
    expected: dict[str, dict[str, Any]]


class Run(BaseModel):
    """A run: where it lies, who it is, and what it began with. `accepted` holds later changes that were agreed to."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    name: str
    folder: str
    run_id: str
    created: str
    config: Config
    code: str
    lock: str
    # The early plan, once it is made: a run that goes on keeps its pinned revisions.
    plan: Plan | None = None
    accepted: list[dict[str, str]] = []
    reproduces: Origin | None = None

    @property
    def path(self) -> Path:
        return Path(self.folder)


def begin(config: Config, origin: Origin | None = None) -> Run:
    """The run that `config.name` names: begun now, to train `origin` again if it is given, or gone on with.

    Raises ConfigError where the name is taken by another configuration or origin, where the folder holds something
    else, or where an unfinished run's code or packages changed.
    """
    assert config.name is not None
    folder = Path(config.runs_dir) / config.name
    if not (folder / RECORD).is_file():
        if folder.exists() and any(folder.iterdir()):
            what = f"{folder} holds something that is no run"
            raise ConfigError(Problem("name", what, "give another name, or move it away"))
        run = Run(
            name=config.name,
            folder=str(folder),
            run_id=str(uuid.uuid4()),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            config=config,
            code=identity.code(),
            lock=identity.lock(),
            reproduces=origin,
        )
        return save(run)
    run = read(folder)
    check_same(run, config, origin)
    if status(folder) not in FINISHED:
        if run.folder != str(folder):
            what = f"run {run.name} was begun in {run.folder}, and its plan names that place"
            raise ConfigError(Problem("runs_dir", what, "move it back, or start over with --fresh"))
        check_unchanged(run)
    # What is not compared may differ from last time: it says where results go, not what is trained.
    return save(run.model_copy(update={"config": config, "folder": str(folder)}))


HOW_TO_GO_ON = "go on with --accept-changes, or start over with --fresh"


def save(run: Run) -> Run:
    try:
        files.write(run.path / RECORD, run.model_dump_json(indent=2) + "\n")
    except OSError as error:
        what = f"{run.path} cannot be written to ({error.strerror})"
        raise ConfigError(Problem("runs_dir", what, "name a folder that can, with room")) from None
    return run


def read(folder: Path) -> Run:
    """The run that lies in `folder`. Raises ConfigError where none does."""
    try:
        return Run.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(Problem("run", f"there is no run in {folder}", "`smollm3-ft runs` lists them")) from None
    except ValueError:
        raise ConfigError(Problem("run", f"{folder / RECORD} is damaged", "start over with --fresh")) from None


def find(run: str, runs_dir: Path) -> Path:
    """The folder of the run that a command names: by its name in `runs_dir`, or by its folder."""
    return next(
        (place.absolute() for place in (runs_dir / run, Path(run)) if (place / RECORD).is_file()), runs_dir / run
    )


def check_same(run: Run, config: Config, origin: Origin | None = None) -> None:
    """Raise ConfigError with each key in which the run of that name differs from `config`, or if its origin does."""
    if not _is_from(run, origin):
        what = f"run {run.name} is there, and does not train {origin and origin.name} again"
        raise ConfigError(Problem("name", what, "give another name"))
    finished = status(run.path) in FINISHED
    before, now = compared(run.config, finished), compared(config, finished)
    different = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if different:
        remedy = "give another name, or start over with --fresh"
        raise ConfigError(
            *(Problem(key, f"is {now.get(key)}, but run {run.name} has {before.get(key)}", remedy) for key in different)
        )


def _is_from(run: Run, origin: Origin | None) -> bool:
    """Whether a run trains `origin` again; any does where none is given."""
    return origin is None or (run.reproduces is not None and run.reproduces.place == origin.place)


def compared(config: Config, finished: bool = False) -> dict[str, Any]:
    """The keys that say what is trained. Until a run is finished, its steps may be made of smaller micro-batches."""
    values = config.model_dump(mode="json")
    found = dict(flatten({key: value for key, value in values.items() if key not in NOT_COMPARED}))
    return {key: value for key, value in found.items() if finished or key not in HOW_A_STEP_IS_MADE}


def changes(run: Run) -> dict[str, str]:
    """What of this checkout or of the local sources is not as when the run began, and was not agreed to since."""
    changed = {
        name: f"{name} changed since run {run.name} began ({then} then, {now} now)"
        for name, then, now in identity.changed(run.code, run.lock, run.accepted)
    }
    for before, after in _located_again(run):
        if before.digest != after.digest:
            changed["data.source"] = f"{before.source} changed since run {run.name} began"
    model = _model_now(run)
    if run.plan is not None and model != run.plan.model:
        changed["model.name"] = f"{run.plan.model.name} changed since run {run.name} began"
    return changed


def check_unchanged(run: Run, remedy: str = HOW_TO_GO_ON) -> None:
    """Raise ConfigError with each thing that changed since an unfinished run began."""
    changed = changes(run)
    if changed:
        raise ConfigError(*(Problem(name, what, remedy) for name, what in changed.items()))


def accept_changes(folder: Path) -> None:
    """Agree to this checkout and to the sources as they are now, for an unfinished run."""
    run = read(folder)
    changed = changes(run)
    if not changed:
        return
    agreed = {"code": identity.code(), "lock": identity.lock(), "what": "; ".join(changed.values())}
    plan = run.plan
    if plan is not None:
        now = {"sources": tuple(after for _, after in _located_again(run)), "model": _model_now(run)}
        plan = plan.model_copy(update=now)
    save(run.model_copy(update={"accepted": [*run.accepted, agreed], "plan": plan}))


def _model_now(run: Run) -> ModelPlan | None:
    """The model as it is now where it is a folder; one on the Hub stays at its commit."""
    if run.plan is None or run.plan.model.kind != "folder":
        return run.plan.model if run.plan else None
    return models.pin(run.config.model, run.path.parent)


def _located_again(run: Run) -> list[tuple[SourcePlan, SourcePlan]]:
    """Each source as it was pinned and as it is now; one on the Hub stays at its commit."""
    if run.plan is None or all(source.kind == "hub" for source in run.plan.sources):
        return [(source, source) for source in (run.plan.sources if run.plan else ())]
    now = sources.locate(run.config.data, run.path.parent)
    return [(old, old if old.kind == "hub" else new) for old, new in zip(run.plan.sources, now, strict=True)]


def marks(run: Run) -> dict[str, str]:
    """The fingerprints under which this run's steps are done: they hold whatever the code is now."""
    try:
        return dict(files.read_json(run.path / MARKS)["steps"])
    except (OSError, ValueError, KeyError):
        return {}


def set_mark(run: Run, step: str, fingerprint: str) -> None:
    files.write_json(run.path / MARKS, {"steps": {**marks(run), step: fingerprint}})


def status(folder: Path) -> str:
    """completed, blocked, failed, or interrupted (also one that was killed)."""
    try:
        return str(files.read_json(folder / "report.json")["status"])
    except (OSError, ValueError, KeyError):
        return "interrupted"


def set_aside(runs_dir: Path, name: str) -> Path | None:
    """Move a run's folder to `.old/<name>-<time>`. Returns where to, or None where there was none."""
    folder = runs_dir / name
    if not folder.exists():
        return None
    aside = runs_dir / ".old" / f"{name}-{datetime.datetime.now():%Y%m%d_%H%M%S_%f}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    with locks.hold(runs_dir, name):
        folder.rename(aside)
    return aside


def listed(runs_dir: Path) -> list[Run]:
    """Every run below `runs_dir`, the newest first, where it lies now. A record that cannot be read is passed over."""
    if not runs_dir.is_dir():
        return []
    folders = [path for path in runs_dir.iterdir() if not path.name.startswith(".") and (path / RECORD).is_file()]
    return sorted(filter(None, map(_readable, folders)), key=lambda run: run.created, reverse=True)


def _readable(folder: Path) -> Run | None:
    try:
        return read(folder).model_copy(update={"folder": str(folder)})
    except ConfigError:
        return None  # damaged, or of another version: it is named when it is asked for by its name


def to_go_on_with(config: Config, origin: Origin | None = None) -> str | None:
    """The newest failed or interrupted run of the same configuration, and of `origin`, that nobody works on."""
    runs_dir = Path(config.runs_dir)
    for run in listed(runs_dir):
        same = compared(run.config) == compared(config) and _is_from(run, origin)
        if same and status(run.path) not in FINISHED and not locks.is_held_by_the_living(runs_dir, run.name):
            return run.name
    return None


def new_name(runs_dir: Path, at: datetime.datetime) -> str:
    """smollm3_finetune_YYYYMMDD_HHMMSS, with a number behind it where that is taken."""
    name = f"smollm3_finetune_{at:%Y%m%d_%H%M%S}"
    number = 1
    while (runs_dir / (name if number == 1 else f"{name}_{number}")).exists():
        number += 1
    return name if number == 1 else f"{name}_{number}"
