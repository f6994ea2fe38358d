"""Trials: a training with faults, what became of it, and whether that is what an undisturbed one would have left."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from crash_operations import NEEDS_ROOM, Operation

from smollm3_ft import files, fit, journal, processes, records

HERE = Path(__file__).parent
KILLED = -9
# Values that may differ.
TIMED = ("tokens_per_second", "seconds_left", "mfu", "memory_bytes", "peak_memory_bytes", "resumed_from")


class Attempt(NamedTuple):
    """A training process. `fault`: one of the shim's, or "kill at"; `at`: the operation's number, or the seconds."""

    fault: str = "none"
    at: float = 0
    power: bool = False  # what was not flushed is lost afterwards
    tell: bool = False  # all its operations, and not only the last


class Job(NamedTuple):
    """A run that is trained by several attempts. `template` holds its `run.json` and `plan.json`."""

    name: str
    folder: str
    template: str
    attempts: tuple[Attempt, ...]

    @classmethod
    def read(cls, line: str) -> "Job":
        name, folder, template, attempts = json.loads(line)
        return cls(name, folder, template, tuple(Attempt(*one) for one in attempts))


class End(NamedTuple):
    """How an attempt ended. `code`: exit code, or minus the signal; `explained`: its operations explain every file."""

    code: int
    steps: int
    resumed_from: int | None  # None: it did not come so far
    seconds: float
    said: str
    explained: bool
    operations: list[Operation]


class Outcome(NamedTuple):
    """What a job left."""

    name: str
    ends: list[End]
    state: dict[str, Any]

    @property
    def finished(self) -> bool:
        return self.ends[-1].code == 0

    @property
    def steps_repeated(self) -> int:
        """The most steps that an attempt made again."""
        again, made = 0, 0
        for end in self.ends:
            if end.resumed_from is not None:
                again = max(again, made - end.resumed_from)
            made = max(made, end.steps)
        return again

    def same_as(self, whole: "Outcome") -> bool:
        """Whether the model, its record and the journal are those of an undisturbed run, each id once."""
        told = ("model", "record", "journal", "twice")
        return self.finished and all(self.state[name] == whole.state[name] for name in told)

    def left_over(self, whole: "Outcome") -> list[str]:
        """Files that an undisturbed run does not have."""
        return sorted(set(self.state["names"]) - set(whole.state["names"]))

    def names_the_disk(self) -> bool:
        """Whether the attempt before the last failed with a full disk as its known cause."""
        end = self.ends[-2]
        return end.code == processes.FAILED and processes.MARK in end.said and "the disk is full" in end.said


def state(folder: Path) -> dict[str, Any]:
    """What must not depend on the faults: the model, its record, the journal without times, which files there are."""
    lines = journal.read(folder / "metrics.jsonl")
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    record = records.read(folder / fit.TRAINED, fit.mark(fit.read(folder / "plan.json")), folder / "model")
    return {
        "model": {path.name: files.sha256(path) for path in sorted((folder / "model").glob("*"))},
        "record": record and _untimed(record),
        "journal": [[line.id, line.step, _untimed(line.values)] for line in lines if line.kind in ("train", "eval")],
        "twice": len(lines) - len({line.id for line in lines}),
        "names": sorted(name for name in names if name.split("/")[0] != "data"),  # that is made before
    }


def _untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in TIMED}


def run(jobs: Sequence[Job], folder: Path, shim: Path, workers: int) -> list[Outcome]:
    """Every job, in as many processes that fork, each on its share; in the order of the jobs."""
    shares = [jobs[first::workers] for first in range(workers) if jobs[first::workers]]
    with _environment(), ThreadPoolExecutor(workers) as threads:
        futures = [threads.submit(_forge, share, folder / f"share-{at}", shim) for at, share in enumerate(shares)]
        found = {outcome.name: outcome for future in futures for outcome in future.result()}
    return [found[job.name] for job in jobs]


def train(plan: Any) -> dict[str, Any]:
    """Train as the pipeline does, in a process that imports for itself. Returns the state of the run."""
    said: list[str] = []
    with _environment():
        processes.run("smollm3_ft.training", f"{plan.folder}/plan.json", on_line=said.append)
    return state(Path(plan.folder))


def _environment() -> Any:
    """One thread a training, so that none is in the way of a fork, and the sums of all are in one order."""
    path = os.pathsep.join(filter(None, (str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", ""))))
    return mock.patch.dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1")


def _forge(jobs: Sequence[Job], folder: Path, shim: Path) -> list[Outcome]:
    folder.mkdir(parents=True, exist_ok=True)
    given, results = folder / "jobs.jsonl", folder / "results.jsonl"
    given.write_text("".join(json.dumps(job) + "\n" for job in jobs), encoding="utf-8")
    said: list[str] = []
    processes.run("crash_forge", str(given), str(results), str(shim), on_line=said.append)
    lines = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    return [Outcome(line["name"], [_end(end) for end in line["ends"]], line["state"]) for line in lines]


def _end(told: dict[str, Any]) -> End:
    return End(**{**told, "operations": [Operation(*one) for one in told["operations"]]})


def kills(operations: Sequence[Operation]) -> list[Attempt]:
    """Before each operation, after the last, and half way through each write."""
    points = [Attempt("kill before", one.number) for one in operations]
    points += [Attempt("kill half", one.number) for one in operations if one.kind == "write"]
    return [*points, Attempt("kill after", operations[-1].number)]


def power_cuts(operations: Sequence[Operation]) -> list[Attempt]:
    """Before each operation that relies on what was flushed before it, and those that flush."""
    kinds = ("rename", "fsync", "unlink", "rmdir")
    return [Attempt("kill before", one.number, power=True) for one in operations if one.kind in kinds]


def full_disks(operations: Sequence[Operation]) -> list[Attempt]:
    """From the middle of each write on, and from each other operation that needs room, or line of the journal."""
    others = [one for one in operations if one.kind in NEEDS_ROOM and (one.kind != "write" or "/" not in one.path)]
    points = [Attempt("full", one.number) for one in others]
    return points + [Attempt("full half", one.number) for one in operations if one.kind == "write"]
