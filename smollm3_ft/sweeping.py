"""A sweep: a search among configurations, begun once, gone on with by its name, in `<runs_dir>/.sweeps/<name>/`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from smollm3_ft import files, locks, runs, searchspace
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.searchspace import Sweep

FOLDER = ".sweeps"
RECORD = "sweep.json"
FILE = "sweep.yaml"  # what goes on with it


class Search(BaseModel):
    """A sweep that has begun: where it lies and what it was told."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    name: str
    folder: str
    created: str
    config: Config
    sweep: Sweep

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def runs_dir(self) -> Path:
        return self.path.parent.parent

    def run_name(self, number: int) -> str:
        """The run of a trial; Optuna counts from 0."""
        return f"{self.name}-{number + 1}"


def begin(config: Config, sweep: Sweep) -> Search:
    """The sweep that `config.name` names: begun now, or gone on with, perhaps with more trials.

    Raises ConfigError where it cannot work, and where the name is taken by another sweep or by runs.
    """
    assert config.name is not None
    folder = Path(config.runs_dir) / FOLDER / config.name
    searchspace.check(config, sweep)
    search = Search(name=config.name, folder=str(folder), created=_now(), config=config, sweep=sweep)
    if (folder / RECORD).is_file():
        before = read(folder)
        _check_same(before, search)
        _check_free(search, before.sweep.trials)
        search = search.model_copy(update={"created": before.created})
    else:
        _check_free(search, 0)
    files.write(folder / RECORD, search.model_dump_json(indent=2) + "\n")
    told = {**config.model_dump(mode="json"), "sweep": sweep.model_dump(mode="json")}
    files.write(folder / FILE, yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
    return search


def read(folder: Path) -> Search:
    """The sweep in a folder. Raises ConfigError where there is none."""
    try:
        return Search.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(Problem("name", f"there is no sweep in {folder}", "begin one")) from None
    except ValueError:
        raise ConfigError(Problem("name", f"{folder / RECORD} is damaged", "give another name")) from None


def to_go_on_with(config: Config, sweep: Sweep) -> str | None:
    """The newest sweep of the same search that is not finished and that nobody works on."""
    found = []
    for folder in (Path(config.runs_dir) / FOLDER).glob("*"):
        search = _readable(folder)
        if search is not None and not locks.is_held_by_the_living(Path(config.runs_dir), lock(folder.name)):
            same = _compared(search.config, search.sweep) == _compared(config, sweep)
            if same and runs.status(folder) != "completed":
                found.append(search)
    return max(found, key=lambda search: search.created).name if found else None


def _readable(folder: Path) -> Search | None:
    try:
        return read(folder)
    except ConfigError:
        return None  # damaged, or of another version: it is named when it is asked for by its name


def new_name(runs_dir: Path, at: datetime.datetime) -> str:
    """smollm3_sweep_YYYYMMDD_HHMMSS, with a number behind it where that is taken."""
    name = f"smollm3_sweep_{at:%Y%m%d_%H%M%S}"
    taken = {path.name for path in (runs_dir / FOLDER).glob("*")}
    return next(one for one in (name, *(f"{name}_{number}" for number in range(2, 10**6))) if one not in taken)


def lock(name: str) -> str:
    return f"{FOLDER}-{name}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _compared(config: Config, sweep: Sweep) -> dict[str, Any]:
    """What makes two sweeps the same: how many trials and what becomes of the best may change."""
    space = {f"sweep.space.{key}": values.model_dump(mode="json") for key, values in sweep.space.items()}
    return {**runs.compared(config), "sweep.metric": sweep.metric, "sweep.pruner": sweep.pruner, **space}


def _check_same(before: Search, now: Search) -> None:
    old, new = _compared(before.config, before.sweep), _compared(now.config, now.sweep)
    different = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if different:
        raise ConfigError(
            *(
                Problem(key, f"is {new.get(key)}, but sweep {now.name} has {old.get(key)}", "give another name")
                for key in different
            )
        )


def _check_free(search: Search, before: int) -> None:
    """Raise ConfigError where a trial behind the first `before` would go on with a run of somebody else."""
    for number in range(before, search.sweep.trials):
        if (search.runs_dir / search.run_name(number)).exists():
            what = f"there is a run {search.run_name(number)} already"
            raise ConfigError(Problem("name", what, "give the sweep another name"))
