"""This project's training as a benchmark sees it: the pipeline's steps one after the other, without the pipeline.

The training process is the project's own, started as the pipeline starts it, with a clock on its trainer, and with one
of `training_levers.py` switched off where that is asked for: python -m training_ours PLAN RESULT [LEVER]
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import psutil

from smollm3_ft import files, processes

ONE_EPOCH = {
    "name": "ours",
    "data__validation": "none",
    "data__test": "none",
    "train__epochs": 1,
    "train__save_steps": 1_000_000,  # not on the way
}


def train(model: Path, rows: Path, out: Path, given: dict[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """Prepare and plan as the steps before the training do, then train. Returns what its process measured."""
    told = {**ONE_EPOCH, **given, "model__name": str(model), "data__source": str(rows), "runs_dir": str(out / "runs")}
    plan, result = make_plan(nested(told)), out / "result.json"
    before = measure.cpu_seconds()
    paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    processes.run(Path(__file__).stem, f"{plan.folder}/plan.json", str(result), *without, on_line=print)
    found = files.read_json(result)
    found["to_first_step_s"] = found.pop("first_step_at") - psutil.Process().create_time()
    found["to_first_step_cpu_s"] += before
    return found


def _main() -> None:
    """The training process."""
    import training_clock

    from smollm3_ft import journal, trainers, training

    result, *without = (Path(sys.argv[2]), *sys.argv[3:])
    del sys.argv[2:]
    if without:
        import training_levers

        training_levers.OFF[without[0]]()
    clocks, make, write, in_journal = [], trainers.TRAINERS["sft"], journal.Journal.write, []

    def watched(*words: Any) -> Any:
        trainer = make(*words)
        clocks.append(training_clock.watch(trainer))
        return trainer

    def timed(*words: Any) -> None:
        began = time.perf_counter()
        write(*words)
        in_journal.append(time.perf_counter() - began)

    trainers.TRAINERS["sft"], journal.Journal.write = watched, timed  # type: ignore[method-assign, assignment]
    training.main()
    files.write_json(result, {**clocks[0].measured(), "journal_s": sum(in_journal)})


def nested(given: dict[str, Any]) -> dict[str, Any]:
    """`data__source` as `data.source`."""
    nested: dict[str, Any] = {}
    for name, value in given.items():
        section, _, key = name.rpartition("__")
        (nested.setdefault(section, {}) if section else nested)[key] = value
    return nested


def make_plan(given: dict[str, Any]) -> Any:
    """Prepared data, and `plan.json` in a run's folder."""
    from smollm3_ft import data, devices, fit, models, resolve, runs, sources

    run = runs.begin(resolve.resolve(given, environment={}).config)
    config = run.config
    pinned, model = sources.locate(config.data), models.pin(config.model, Path(config.runs_dir))
    folders = (Path(config.runs_dir), run.path / "data")
    prepared = data.prepare(
        data.request(pinned, config.data, config.seed, "sft", Path(model.folder), model.chat_digest, *folders)
    )
    return fit.made(run.run_id, run.path, config, model, prepared, devices.detect())


if __name__ == "__main__":
    code = processes.child(_main)
    sys.stdout.flush()
    os._exit(code)  # as the project's own
