"""Runs that are trained for the tests: undisturbed, killed, stopped, damaged."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from conftest import MakePlan, facts

from smollm3_ft import checkpoints, devices, files, fit, journal, processes, records, runs
from smollm3_ft import plan as plans
from smollm3_ft.errors import FinetuneError
from smollm3_ft.fit import TrainingPlan

# The training process, sent a signal by itself as soon as its journal holds a line: at the worst moment, every time.
SIGNALLED = """
import gc, os, signal, sys

gc.disable()  # as the training process does, until it has imported
from smollm3_ft import unneeded

unneeded.leave_out(sys.argv[1:2])
from smollm3_ft import journal, processes, training

number, kind, step = signal.Signals[sys.argv.pop()], sys.argv.pop(), int(sys.argv.pop())
write = journal.Journal.write


def then_send(self, written, values, at=None):
    write(self, written, values, at)
    if at == step and kind in (written, values.get("what")):
        os.kill(os.getpid(), number)


journal.Journal.write = then_send
os._exit(processes.child(training.main))
"""
STEPS = {
    "train__max_steps": 20,  # in the middle of an epoch
    "train__batch_size": 4,
    "train__effective_batch_size": 8,
    "train__warmup_steps": 4,
    "train__save_steps": 4,
    "train__eval_steps": 5,
    "train__logging_steps": 3,
}
# Every row in a single step, two at a time.
ONE_STEP = {
    "data__packing": False,
    "data__validation": "none",
    "data__test": "none",
    "train__batch_size": 2,
    "train__effective_batch_size": 60,
    "train__max_steps": 1,
    "train__warmup_steps": 0,
    "train__logging_steps": 1,
}

# Far too fast: validation is best early, and stops the training at its second worse one.
EARLY = {
    "train__max_steps": 60,
    "train__save_steps": 50,
    "train__eval_steps": 3,
    "train__learning_rate": 0.02,
    "train__early_stopping_patience": 2,
}


class Trained(NamedTuple):
    """A run that was trained, and how each of its attempts ended."""

    plan: TrainingPlan
    ends: list[Exception | None]

    @property
    def folder(self) -> Path:
        return Path(self.plan.folder)

    @property
    def model(self) -> bytes:
        """The bytes of the final weights."""
        return (self.folder / "model" / "model.safetensors").read_bytes()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def told(self, *kinds: str) -> list[tuple[Any, ...]]:
        """What must not depend on what happened on the way: ids without the run, steps, and values without times."""
        timed = ("tokens_per_second", "seconds_left", "memory_bytes")
        return [
            (line["id"].partition(":")[2], line["step"], {k: v for k, v in line["values"].items() if k not in timed})
            for line in self.lines
            if line["kind"] in kinds
        ]


def attempt(plan: TrainingPlan, *signalled: str) -> Exception | None:
    """Train once. Returns how it ended."""
    module = "signalled" if signalled else "smollm3_ft.training"
    try:
        processes.run(module, f"{plan.folder}/plan.json", *signalled, on_line=print)
    except FinetuneError as error:
        return error
    return None


def undisturbed(plan: TrainingPlan) -> Trained:
    return Trained(plan, [attempt(plan)])


def disturbed(plan: TrainingPlan) -> Trained:
    """Killed at its first checkpoint, stopped, its newest checkpoint damaged, and killed before it wrote its model."""
    folder = Path(plan.folder)
    ends = [attempt(plan, "4", "checkpoint", "SIGKILL"), attempt(plan, "9", "train", "SIGTERM")]
    newest = checkpoints.complete(folder / "checkpoints")[-1] / "model.safetensors"
    content = newest.read_bytes()
    newest.write_bytes(content[:-50] + bytes(50))
    ends += [attempt(plan, "20", "checkpoint", "SIGKILL"), attempt(plan)]
    return Trained(plan, ends)


def with_smaller_batches(plan: TrainingPlan) -> TrainingPlan:
    """The plan of an unfinished run that is to go on with half the micro-batch."""
    train = plan.config.train.model_copy(update={"batch_size": plan.settings.batch_size // 2})
    return fit.refitted(plan, plan.config.model_copy(update={"train": train}), devices.detect())


INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.75}


def finished(make_plan: MakePlan, tiny: Path, runs_dir: Path, **given: Any) -> TrainingPlan:
    """A run as training and evaluation leave it, with the base model as the trained one."""
    made = make_plan(runs_dir, "a", facts(20), **given)
    folder = Path(made.folder)
    run = runs.read(folder)
    runs.save(run.model_copy(update={"plan": plans.make(run.config)}))
    shutil.copytree(tiny, folder / "model", ignore=shutil.ignore_patterns("record.json"))
    done = {"steps": 20, "tokens": 1000, "supervised_tokens": 300, "final_loss": 0.25}
    records.write(folder / fit.TRAINED, fit.mark(made), done, folder / "model")
    sides = {side: {"loss": INTERVAL, "exact_match": INTERVAL} for side in ("base", "tuned", "difference")}
    samples = [{"prompt": "a private question", "reference": "r", "base": "b", "tuned": "t"}]
    files.write_json(folder / "evaluation.json", {**sides, "rows": 3, "samples": samples})
    lines = [(step, 1 / step) for step in range(1, 21)]
    with journal.Journal(folder / "metrics.jsonl", made.run_id) as written:
        for step, loss in lines:
            written.write("train", {"loss": loss}, step)
    return made
