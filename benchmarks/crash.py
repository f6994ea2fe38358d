"""Crashes: a small training is killed at each of its file operations, and its disk fills at each of them.

python benchmarks/crash.py [--json] [--every N]
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import crash_operations
import crash_trials
import measure
import results
import training_ours
from crash_trials import KILLED, Attempt, Job, Outcome
from results import Row

from smollm3_ft import processes

SEED = 20260201
AT_RANDOM = 60
ROWS = 60
SAVE_STEPS = 2
TRAIN: Row = {
    "max_steps": 2 * SAVE_STEPS,
    "save_steps": SAVE_STEPS,
    "eval_steps": 2,
    "save_total_limit": 1,
    "logging_steps": 1,
    "warmup_steps": 1,
    "batch_size": 2,
    "effective_batch_size": 4,
}
AGAIN_EVERY = 3
EVERY = 8  # of the points of the smaller parts, one
PARTS: dict[str, Row] = {
    "lora": {"adapter": "lora", "lora": {"r": 4, "dropout": 0.1}},
    "best": {"early_stopping_patience": 1, "learning_rate": 0.1, "warmup_steps": 0},  # the model is not the last one
}
NAMES = {
    "killed": "killed before an operation",
    "half": "killed in the middle of a write",
    "random": "killed at a random time",
    "again": "killed, and killed while resuming",
    "power": "power cut: unflushed bytes are lost",
    "full": "disk full from an operation on",
    "full_half": "disk full in the middle of a write",
    "lora_killed": "LoRA: killed",
    "lora_full": "LoRA: disk full",
    "best_killed": "early stopping: killed",
    "best_full": "early stopping: disk full",
}
COLUMNS = {
    "points": "points",
    "as_meant": "as meant",
    "disk_named": "disk named",
    "bit_identical": "bit-identical",
    "steps_again": "steps again",
    "files_left": "files left",
}
GOALS = {
    "kill_points": (">=", 300),
    "bit_identical": ("=", 1),
    "steps_repeated_over_save_steps": ("<=", 1),
    "disk_full_named": ("=", 1),
    "disk_full_resumed": ("=", 1),
}


Attempts = tuple[Attempt, ...]  # with faults, one after the other


class Place(NamedTuple):
    """Where the trials are made, and by how many processes at once."""

    folder: Path
    shim: Path
    workers: int


def measure_all(place: Place, every: int) -> Row:
    """Every row of the table, and the goals. `every`: of so many points, one."""
    device = {"device": measure.processor(), "versions": measure.versions()}
    plan = make_plan(place, "whole")
    told = {**device, "precision": plan.config.model.dtype, "mask": "assistant"}
    whole = undisturbed(place, plan)
    rows = rows_of(place, plan, {kind: given[::every] for kind, given in points(place, plan, whole).items()}, whole)
    for name, train in PARTS.items():
        plan = make_plan(place, name, **train)
        whole = undisturbed(place, plan)
        operations = whole.ends[0].operations
        kinds = {"killed": crash_trials.kills(operations), "full": crash_trials.full_disks(operations)}
        chosen: dict[str, list[Attempts]] = {
            f"{name}_{kind}": [(one,) for one in found[:: EVERY * every]] for kind, found in kinds.items()
        }
        rows += rows_of(place, plan, chosen, whole)
    rows = [{**row, **told} for row in rows]
    return {"schema_version": 1, **device, "rows": rows, "goals": goals_of(rows)}


def points(place: Place, plan: Any, whole: Outcome) -> dict[str, list[Attempts]]:
    """What is tried with full fine-tuning: the attempts of every row."""
    operations, seconds = whole.ends[0].operations, whole.ends[0].seconds
    kills, full = crash_trials.kills(operations), crash_trials.full_disks(operations)
    drawn = random.Random(SEED)
    # Killed behind its first checkpoint, and when its model is there.
    places = (f"checkpoints/checkpoint-{SAVE_STEPS}", "model")
    firsts = [Attempt("kill after", one.number) for one in operations if one.kind == "rename" and one.other in places]
    resumed = trials(place, plan, "resumed", [(first,) for first in firsts], tell=True)
    again: list[Attempts] = [
        (first, one)
        for first, outcome in zip(firsts, resumed, strict=True)
        for one in crash_trials.kills(outcome.ends[-1].operations)
    ]
    return {
        "killed": [(one,) for one in kills if one.fault != "kill half"],
        "half": [(one,) for one in kills if one.fault == "kill half"],
        "random": [(Attempt("kill at", drawn.uniform(0, seconds)),) for _ in range(AT_RANDOM)],
        "again": again[::AGAIN_EVERY],
        "power": [(one,) for one in crash_trials.power_cuts(operations)],
        "full": [(one,) for one in full if one.fault == "full"],
        "full_half": [(one,) for one in full if one.fault == "full half"],
    }


def make_plan(place: Place, name: str, **train: Any) -> Any:
    """A run's folder with its plan, to be copied for each trial."""
    source = place.folder / "rows.jsonl"
    texts = [{"prompt": f"What is number {n}?", "completion": f"It is {n * 7 % 64} and no other."} for n in range(ROWS)]
    source.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    return training_ours.make_plan(
        {
            "name": name,
            "runs_dir": str(place.folder / "runs"),
            "model": {"name": "builtin:tiny"},
            "data": {"source": str(source), "max_length": 64},
            "train": {**TRAIN, **train},
        }
    )


def undisturbed(place: Place, plan: Any) -> Outcome:
    """The run that the others must equal. It is one with the pipeline's own, whose process imports for itself."""
    whole = trials(place, plan, f"{plan.name}-whole", [()], tell=True)[0]
    assert whole.state == crash_trials.train(plan), "a forked training is not what the pipeline's is"
    assert whole.ends[0].explained, "operations that the shim did not see"
    return whole


def trials(place: Place, plan: Any, name: str, attempts: Sequence[Attempts], tell: bool = False) -> list[Outcome]:
    """Each tuple of attempts, with an undisturbed one behind it, whose operations are told if they are to be."""
    runs = place.folder / "trials"
    jobs = [
        Job(f"{name}-{at}", str(runs / f"{name}-{at}"), plan.folder, (*given, Attempt(tell=tell)))
        for at, given in enumerate(attempts)
    ]
    return crash_trials.run(jobs, place.folder / name, place.shim, place.workers)


def rows_of(place: Place, plan: Any, kinds: dict[str, list[Attempts]], whole: Outcome) -> list[Row]:
    """A row of the table for each kind of trial, all of them made in one go."""
    began = time.monotonic()
    outcomes = iter(trials(place, plan, plan.name, [one for given in kinds.values() for one in given]))
    rows = [judged(kind, [(one, next(outcomes)) for one in given], whole) for kind, given in kinds.items()]
    _say(f"{plan.name}: {sum(map(len, kinds.values()))} points in {time.monotonic() - began:.0f} s")
    return rows


def judged(kind: str, found: list[tuple[Attempts, Outcome]], whole: Outcome) -> Row:
    """What became of the trials of one kind."""
    is_full, outcomes = "full" in kind, [outcome for _, outcome in found]
    for given, one in found:
        if not one.same_as(whole) or one.left_over(whole) or (is_full and not one.names_the_disk()):
            ends = [end._replace(operations=end.operations[-1:]) for end in one.ends]
            _say(f"{NAMES[kind]}: {given}: left {one.left_over(whole)}, {ends}")
    return {
        "contender": kind,
        "points": len(found),
        "as_meant": sum(is_as_meant(one, given) for given, one in found),
        "disk_named": sum(one.names_the_disk() for one in outcomes) if is_full else "-",
        "bit_identical": sum(one.same_as(whole) for one in outcomes),
        "steps_again": max((one.steps_repeated for one in outcomes), default=0),
        "files_left": sum(bool(one.left_over(whole)) for one in outcomes),
        "explained": all(end.explained for one in outcomes for end in one.ends),
    }


def is_as_meant(outcome: Outcome, attempts: Attempts) -> bool:
    """Whether each fault struck, and where it was to: the process was killed, or refused room, at that operation."""
    for end, given in zip(outcome.ends, attempts, strict=False):
        struck = end.code == KILLED if given.fault.startswith("kill") else end.code == processes.FAILED
        last = end.operations[-1].number if end.operations else 0
        if not struck or (given.fault in crash_operations.KILLS and last != given.at):
            return False
    return True


def goals_of(rows: list[Row]) -> dict[str, Row]:
    """Every goal with its value and whether it is met."""
    full = [row for row in rows if "full" in row["contender"]]
    others = [row for row in rows if row not in full]
    at_operations = [row for row in others if row["contender"] not in ("random", "power")]
    values = {
        "kill_points": sum(row["as_meant"] for row in at_operations),
        "bit_identical": int(all(row["bit_identical"] == row["points"] for row in others)),
        "steps_repeated_over_save_steps": max(row["steps_again"] for row in rows) / SAVE_STEPS,
        "disk_full_named": int(all(row["disk_named"] == row["points"] for row in full)),
        "disk_full_resumed": int(all(row["bit_identical"] == row["points"] for row in full)),
    }
    return results.judged(values, GOALS)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(result: Row) -> str:
    """All of it as text."""
    row = result["rows"][0]
    return "\n".join(
        [
            f"On {result['device']}, a training on each; {row['precision']}, loss on the {row['mask']}'s tokens.",
            results.versions(result["versions"]),
            "",
            *results.rows(result["rows"], NAMES, COLUMNS),
            "",
            f"Every file is what the counted operations make of it: {all(row['explained'] for row in result['rows'])}",
            "",
            *results.goals(result["goals"]),
        ]
    )


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth point (1: all)")
    given = parser.parse_args()
    if given.every < 1:
        parser.error("--every: at least 1")
    with tempfile.TemporaryDirectory(prefix="benchmark-crash-") as name:
        folder = Path(name)
        place = Place(folder, crash_operations.build(folder), len(os.sched_getaffinity(0)))
        (folder / "tried").mkdir()
        refusal = crash_operations.refusal(place.shim, folder / "tried")
        if refusal:
            sys.exit(refusal)
        result = measure_all(place, given.every)
    print(json.dumps(result, indent=2) if given.json else table(result))


if __name__ == "__main__":
    main()
