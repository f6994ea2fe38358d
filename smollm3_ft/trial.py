"""A trial of a plan: `python -m smollm3_ft.trial <folder>/plan.json`.

Trains a few steps on the longest sequences and scores the longest validation rows, as the plan says, in a folder of its
own, and writes `trial.json` beside the plan: what it took. Nothing of what it trained is kept.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc
    import sys

    from smollm3_ft import unneeded

    gc.disable()  # what is imported now is no garbage; `processes.child` puts it on again
    unneeded.leave_out(sys.argv[1:])

import os
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
import transformers

from smollm3_ft import files, fit, memory, processes, ranks, trainers
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.journal import Journal

RESULT = "trial.json"


class Clock(transformers.TrainerCallback):  # type: ignore[misc]  # the library has no types
    """When each step ended, and how many tokens were seen by then."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.ends: list[tuple[float, int]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append((time.monotonic(), int(self.trainer.progress.total["tokens"])))


def main() -> None:
    """Try. Raises OutOfMemory where it does not fit."""
    if len(sys.argv) != 2:
        raise ConfigError(Problem("usage", "python -m smollm3_ft.trial FOLDER/plan.json"))
    processes.end_with_parent()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    plan = fit.read(Path(sys.argv[1]))
    folder, settings = Path(plan.folder), plan.settings
    with memory.named_when_short(settings.batch_size):
        journal = Journal(folder / "metrics.jsonl" if ranks.is_first() else Path(os.devnull), plan.run_id)
        trainer = trainers.TRAINERS[plan.config.train.method](plan, journal, processes.StopRequest())
        trainer.train_dataset = _longest(trainer.train_dataset, settings.effective_batch_size * settings.steps)
        if trainer.eval_dataset is not None:
            trainer.eval_dataset = _longest(trainer.eval_dataset, settings.batch_size)
        trainer.args.save_strategy = "no"
        clock = Clock(trainer)
        trainer.add_callback(clock)
        trainer.train()
    (began, before), (ended, after) = clock.ends[0], clock.ends[-1]  # the first step warms up
    took = {"seconds_a_token": (ended - began) / (after - before), "memory_bytes": trainer.peak_memory()}
    ranks.from_first(lambda: files.write_json(folder / RESULT, took))


def _longest(dataset: Any, count: int) -> Any:
    """The `count` longest sequences, again and again where there are fewer."""
    lengths = pc.list_value_length(dataset.data.column("input_ids")).to_numpy()
    order = (-lengths).argsort(kind="stable")[:count].tolist()
    return dataset.select([order[at % len(order)] for at in range(count)])


if __name__ == "__main__":
    code = processes.child(main)
    sys.stdout.flush()
    os._exit(code)
