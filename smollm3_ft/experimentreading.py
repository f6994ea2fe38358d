"""Runs to look at: those of a folder, and those of an experiment dataset, found by name."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from smollm3_ft import experimentfiles, experiments, hub, runs
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.experiments import Curves, Experiment


class Found(NamedTuple):
    """A run and its curves."""

    experiment: Experiment
    curves: Curves


def listed(runs_dir: Path) -> list[Experiment]:
    """Every run of a folder, the newest first."""
    return [experiments.of_run(run.path) for run in runs.listed(runs_dir)]


def listed_of_dataset(repo: str) -> list[Experiment]:
    """Every run of an experiment dataset, the newest first."""
    return experimentfiles.read(_fetched(repo, [f"{experimentfiles.FOLDER}/*/{experimentfiles.SUMMARY}"]))


def found(names: list[str], runs_dir: Path, repo: str | None) -> list[Found]:
    """The runs that a command names: folders, and names in `runs_dir` or, with `repo`, in that dataset.

    In a dataset the newest of that name is meant, or the one of `name-<first digits of its id>`.
    """
    folders = {name: runs.find(name, Path(name).parent if repo else runs_dir) for name in names}
    of_folders = {name: folder for name, folder in folders.items() if (folder / runs.RECORD).is_file() or repo is None}
    there = dict[str, Found]()
    if repo is not None and len(of_folders) < len(names):
        there = _of_dataset([name for name in names if name not in of_folders], repo)
    return [there[name] if name in there else _of_folder(of_folders[name]) for name in names]


def _of_folder(folder: Path) -> Found:
    return Found(experiments.of_run(folder), experiments.curves(experiments.values(folder)))


def _of_dataset(names: list[str], repo: str) -> dict[str, Found]:
    listed = listed_of_dataset(repo)
    chosen = {}
    for name in names:
        same = [one for one in listed if name in (one.name, experimentfiles.label(one))]
        if not same:
            raise ConfigError(
                Problem("run", f"{repo} has no run {name}", f"`smollm3-ft runs --dataset {repo}` lists them")
            )
        chosen[name] = same[0]
    folder = _fetched(repo, [f"{experimentfiles.FOLDER}/{experimentfiles.label(one)}/*" for one in chosen.values()])
    return {name: Found(one, experimentfiles.curves(folder, one)) for name, one in chosen.items()}


def _fetched(repo: str, patterns: list[str]) -> Path:
    return hub.fetch_dataset_files("--dataset", repo, patterns)
