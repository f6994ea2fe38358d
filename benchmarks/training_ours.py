"""This project's training as a benchmark sees it: the pipeline's steps without the pipeline, in this process."""

import sys
import time
from pathlib import Path
from typing import Any

import training_clock
from training_clock import Clock

JOURNAL: list[float] = []  # seconds in each call of Journal.write
ONE_EPOCH = {
    "name": "ours",
    "data__validation": "none",
    "data__test": "none",
    "train__epochs": 1,
    "train__save_steps": 1_000_000,  # not on the way
}


def train(model: Path, rows: Path, out: Path, given: dict[str, Any]) -> Clock:
    """Prepare and plan as the steps before the training do, then be its process, with a clock on the trainer."""
    from transformers import AutoTokenizer

    from smollm3_ft import journal, trainers, training

    told = {**ONE_EPOCH, **given, "model__name": str(model), "data__source": str(rows), "runs_dir": str(out / "runs")}
    plan = make_plan(_nested(told))
    clocks, make, write = [], trainers.TRAINERS["sft"], journal.Journal.write
    pad = AutoTokenizer.from_pretrained(model).pad_token_id

    def watched(*words: Any) -> Any:
        trainer = make(*words)
        clocks.append(training_clock.watch(trainer, pad))
        return trainer

    def timed(*words: Any) -> None:
        began = time.perf_counter()
        write(*words)
        JOURNAL.append(time.perf_counter() - began)

    trainers.TRAINERS["sft"], journal.Journal.write = watched, timed  # type: ignore[method-assign]
    sys.argv = ["training", f"{plan.folder}/plan.json"]
    training.main()
    return clocks[0]


def _nested(given: dict[str, Any]) -> dict[str, Any]:
    """`data__source` as `data.source`."""
    nested: dict[str, Any] = {}
    for name, value in given.items():
        section, _, key = name.rpartition("__")
        (nested.setdefault(section, {}) if section else nested)[key] = value
    return nested


def make_plan(given: dict[str, Any]) -> Any:
    """Prepared data, and `plan.json` in a run's folder."""
    from smollm3_ft import data, devices, fit, identity, models, resolve, runs, sources

    run = runs.begin(resolve.resolve(given, environment={}).config)
    config = run.config
    pinned, model = sources.locate(config.data), models.pin(config.model, Path(config.runs_dir))
    folders = (Path(config.runs_dir), run.path / "data")
    prepared = data.prepare(
        data.request(pinned, config.data, config.seed, "sft", Path(model.folder), model.chat_digest, *folders)
    )
    work, device = fit.Work(prepared.sequences, prepared.tokens, prepared.longest), devices.detect()
    settings = fit.settle(config, work, model, device)
    plan = fit.TrainingPlan(
        name=run.name,
        run_id=run.run_id,
        folder=run.folder,
        config=config,
        model=model,
        weights=model.folder,
        prepared=prepared,
        device=device.kind,
        device_name=device.name,
        settings=settings,
        predicted=fit.predict(config, settings, work, model, device),
        code=identity.code(),
        lock=identity.lock(),
        versions=identity.versions(),
    )
    fit.write(run.path / "plan.json", plan)
    return plan
