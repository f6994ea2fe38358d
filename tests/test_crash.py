"""A training that is killed at any of its file operations, or finds no room, ends as an undisturbed one does.

A sample of the points; benchmarks/crash.py tries them all.
"""

import importlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import MakePlan, facts

pytestmark = pytest.mark.process

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SAVE_STEPS = 2
STEPS = {
    "train__max_steps": 2 * SAVE_STEPS,
    "train__save_steps": SAVE_STEPS,
    "train__eval_steps": 2,
    "train__save_total_limit": 1,
    "train__logging_steps": 1,
    "train__warmup_steps": 1,
    "train__batch_size": 2,
    "train__effective_batch_size": 4,
}
# Where it is killed: how, at an operation of what kind, on which path (or to which), and at which of those.
KILLS = {
    "before the journal is there": ("kill before", "create", "metrics.jsonl", 0),
    "in a line of the journal": ("kill half", "write", "metrics.jsonl", 3),
    "in the optimizer's file": ("kill half", "write", "checkpoint-2/optimizer.pt", 5),
    "before the weights have their name": ("kill before", "rename", "checkpoint-4/model.safetensors", 0),
    "in a manifest": ("kill half", "write", ".partial-manifest.json", 0),
    "before a checkpoint counts": ("kill before", "rename", "checkpoints/checkpoint-2", 0),
    "when it counts": ("kill after", "rename", "checkpoints/checkpoint-4", 0),
    "in a rotation": ("kill after", "unlink", "checkpoints/checkpoint-2/manifest.json", 0),
    "in the final weights": ("kill half", "write", ".partial-model/", 4),
    "when the model is there": ("kill after", "rename", "model", 0),
    "before its record counts": ("kill before", "rename", "training.json", 0),
    "at the very end": ("kill before", "fsync", "metrics.jsonl", -1),
}
POWER_CUTS = {
    "no power before a checkpoint is found": ("kill before", "fsync", "checkpoints", 0),
    "no power before the older one goes": ("kill before", "unlink", "checkpoints/checkpoint-2/manifest.json", 0),
}
AT_SHARES = {"at a third of its time": 0.33, "at three quarters of its time": 0.75}
FULL = {
    "no room for the optimizer": ("full", "write", "checkpoint-4/optimizer.pt", 10),
    "no room within the tokenizer": ("full half", "write", "checkpoint-2/tokenizer.json", 0),
    "no room within the weights": ("full half", "write", "checkpoint-2/.tmp", 1),
    "no room in a line of the journal": ("full half", "write", "metrics.jsonl", 1),
    "no room for the journal": ("full", "create", "metrics.jsonl", 0),
}
TWICE = "and once more while it resumes"


class Crashed(NamedTuple):
    """The undisturbed run, and what became of the others by where they were disturbed."""

    whole: Any
    alone: dict[str, Any]
    attempts: dict[str, tuple[Any, ...]]
    outcomes: dict[str, Any]


@pytest.fixture(scope="module")
def crash() -> Iterator[Any]:
    """The benchmark's module of trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("crash_trials")


@pytest.fixture(scope="module")
def operations(crash: Any) -> Any:
    """The benchmark's module of file operations."""
    return importlib.import_module("crash_operations")


@pytest.fixture(scope="module")
def shim(operations: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the shim that counts file operations is written for Linux on x86-64")
    try:
        shim: Path = operations.build(tmp_path_factory.mktemp("shim"))
    except FileNotFoundError:
        pytest.skip("there is no C compiler (cc) to build the shim with")
    refusal = operations.refusal(shim, tmp_path_factory.mktemp("tried"))
    if refusal:
        pytest.skip(refusal)
    return shim


@pytest.fixture(scope="module")
def crashed(crash: Any, shim: Path, make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    """A training undisturbed, in a process of its own, and disturbed in many ways."""
    folder = tmp_path_factory.mktemp("crashed")
    plan = make_plan(folder / "runs", "whole", facts(60), **STEPS)

    def trials(attempts: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
        jobs = [
            crash.Job(name, str(folder / "trials" / name), plan.folder, (*given, crash.Attempt(tell=not given)))
            for name, given in attempts.items()
        ]
        return {outcome.name: outcome for outcome in crash.run(jobs, folder / "shares", shim, 2)}

    whole = trials({"whole": ()})["whole"]
    found, seconds = whole.ends[0].operations, whole.ends[0].seconds

    def at(fault: str, kind: str, path: str, which: int, **more: bool) -> Any:
        return crash.Attempt(fault, of(found, kind, path)[which].number, **more)

    attempts = {name: (at(*given),) for name, given in {**KILLS, **FULL}.items()}
    attempts |= {name: (at(*given, power=True),) for name, given in POWER_CUTS.items()}
    attempts |= {name: (crash.Attempt("kill at", share * seconds),) for name, share in AT_SHARES.items()}
    attempts[TWICE] = (at(*KILLS["in the optimizer's file"]), at(*KILLS["in the optimizer's file"]))
    return Crashed(whole, crash.train(plan), attempts, trials(attempts))


def of(operations: list[Any], kind: str, path: str) -> list[Any]:
    """The operations of a kind on a path, or a part of one; of a rename, to it."""
    places = [(one, one.other or one.path) for one in operations if one.kind == kind]
    exact = [one for one, place in places if place == path]
    return exact or [one for one, place in places if path in place]


def test_it_is_the_pipelines_training(crashed: Crashed) -> None:
    """A training that was forked from a process that had imported is the one that the pipeline starts, bit for bit."""
    assert crashed.whole.state == crashed.alone


def test_every_operation_is_counted(crashed: Crashed) -> None:
    """The operations that were counted make every file of the run, and each in its size."""
    assert all(end.explained for outcome in (crashed.whole, *crashed.outcomes.values()) for end in outcome.ends)


def test_an_operation_that_is_not_counted_is_found(crashed: Crashed, operations: Any) -> None:
    """Without a single one of its writes, creations and renames, the files would not be explained."""
    found = crashed.whole.ends[0].operations
    there = {path: file.size for path, file in operations.explained(found, {}).items()}
    assert operations.explain(found, {}, there, finished=True)
    kept = [one for one in found if one.path.startswith(".partial-model/") and one.kind in ("write", "create")]
    for missed in (*kept, *of(found, "rename", "model")):
        others = [one for one in found if one is not missed]
        assert not operations.explain(others, {}, there, finished=True), missed


@pytest.mark.parametrize("name", [*KILLS, *POWER_CUTS])
def test_the_kill_struck(crashed: Crashed, name: str) -> None:
    """The process was killed, and at the operation that was meant."""
    (attempt,), first = crashed.attempts[name], crashed.outcomes[name].ends[0]
    assert (first.code, first.operations[-1].number) == (-9, attempt.at)


@pytest.mark.parametrize("name", [*KILLS, *POWER_CUTS, *AT_SHARES, *FULL, TWICE])
def test_the_end_is_the_same(crashed: Crashed, name: str) -> None:
    """The same command again ends with the undisturbed run's model, record and journal, and with no file more."""
    outcome = crashed.outcomes[name]
    assert outcome.finished, outcome.ends[-1].said
    assert outcome.state == crashed.whole.state


@pytest.mark.parametrize("name", [*KILLS, *POWER_CUTS, *AT_SHARES, TWICE])
def test_no_more_than_the_steps_since_a_save_are_made_again(crashed: Crashed, name: str) -> None:
    """A resumed run repeats no more steps than lie between two saves."""
    assert crashed.outcomes[name].steps_repeated <= SAVE_STEPS


def test_steps_are_made_again_where_they_were_lost(crashed: Crashed) -> None:
    """Killed just before its first checkpoint counts, a run repeats all steps before it; just after, none."""
    assert crashed.outcomes["before a checkpoint counts"].steps_repeated == SAVE_STEPS
    assert crashed.outcomes["when it counts"].steps_repeated == 0


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_is_named(crashed: Crashed, name: str) -> None:
    """A training that finds no room fails and says that the disk is full, though there seems to be room."""
    outcome = crashed.outcomes[name]
    assert outcome.names_the_disk(), outcome.ends[0].said


def test_without_a_compiler(operations: Any, tmp_path: Path) -> None:
    """Where there is no compiler, or it refuses, that is what is said."""
    with pytest.raises(FileNotFoundError):
        operations.build(tmp_path, "no-such-compiler")
    with pytest.raises(RuntimeError, match="false -O2"):
        operations.build(tmp_path, "false")
