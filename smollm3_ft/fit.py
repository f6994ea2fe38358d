"""Fitting a run to its device: `plan.json`, settled by arithmetic, tried by processes of their own, and written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from smollm3_ft import adapters, disk, files, identity, models, processes, settling
from smollm3_ft.config import Config
from smollm3_ft.data import Prepared
from smollm3_ft.devices import Device
from smollm3_ft.errors import ConfigError, OutOfMemory, Problem, ProcessDied
from smollm3_ft.models import ModelPlan
from smollm3_ft.predictions import Work
from smollm3_ft.settling import Predicted, Settings

TRAINED = "training.json"  # the record of a finished training, beside plan.json
HOW_A_STEP_IS_MADE = ("batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
STEPS = 3  # of a trial: the first warms up
ACCUMULATED = 2  # micro-batches a step of a trial: with the second, gradients lie beside activations
LESS = 0.85  # of the memory is believed to be there, when what was planned for it did not fit
MUCH_LESS = 0.8  # of what was predicted was taken: there is room for more
GIVEN_UP = 0.02  # of the memory


class TrainingPlan(BaseModel):
    """`plan.json`: all that training and evaluation are told. Written once, on the machine that trains."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    name: str
    run_id: str
    folder: str
    config: Config
    model: ModelPlan
    weights: str
    prepared: Prepared
    device: str
    device_name: str
    settings: Settings
    predicted: Predicted
    code: str
    lock: str
    versions: dict[str, str]


class Took(NamedTuple):
    """What a trial took: seconds a trained token, and the peak of memory in bytes."""

    seconds_a_token: float
    memory_bytes: int


def planned(
    run_id: str, folder: Path, config: Config, model: ModelPlan, prepared: Prepared, device: Device
) -> TrainingPlan:
    """Settle and predict for a device, and fetch the model. Raises ConfigError where there is no room on the disk."""
    work = _work(prepared)
    config = adapters.settled(config, work, model, device)
    settings = settling.settle(config, work, model, device, disk.speed(folder))
    predicted = settling.predict(config, settings, work, model, device)
    disk.check_room(folder.parent, predicted.disk_bytes)
    return TrainingPlan(
        name=folder.name,
        run_id=run_id,
        folder=str(folder),
        config=config,
        model=model,
        weights=str(models.fetch(model)),
        prepared=prepared,
        device=device.kind,
        device_name=device.name,
        settings=settings,
        predicted=predicted,
        code=identity.code(),
        lock=identity.lock(),
        versions=identity.versions(),
    )


def made(
    run_id: str,
    folder: Path,
    config: Config,
    model: ModelPlan,
    prepared: Prepared,
    device: Device,
    on_line: Callable[[str], None] = lambda _: None,
) -> TrainingPlan:
    """The plan of a training, with the micro-batch that really fits, written into the run's folder.

    It is tried on a GPU, and wherever the micro-batch is `auto`. Raises ConfigError where nothing fits.
    """
    plan = planned(run_id, folder, config, model, prepared, device)
    if device.kind == "cuda" or config.train.batch_size == "auto":
        plan = tried(plan, device, on_line)
    write(folder / "plan.json", plan)
    return plan


def _work(prepared: Prepared) -> Work:
    return Work(prepared.sequences, prepared.tokens, prepared.longest, prepared.rows["train"])


def refitted(plan: TrainingPlan, config: Config, device: Device) -> TrainingPlan:
    """The plan of an unfinished training with the micro-batches that `config` asks for now.

    Its steps stay as they are: as many, of the same sequences. The same plan where nothing differs.
    """
    asked = {name: getattr(config.train, name) for name in HOW_A_STEP_IS_MADE}
    if asked == {name: getattr(plan.config.train, name) for name in HOW_A_STEP_IS_MADE}:
        return plan
    wanted = _with(plan.config, **asked, effective_batch_size=plan.settings.effective_batch_size)
    settled = settling.settle(wanted, _work(plan.prepared), plan.model, device)
    settings = plan.settings.model_copy(update={name: getattr(settled, name) for name in HOW_A_STEP_IS_MADE})
    again = plan.model_copy(update={"config": _with(plan.config, **asked), "settings": settings})
    write(Path(plan.folder) / "plan.json", again)
    return again


def fetched(plan: TrainingPlan) -> TrainingPlan:
    """The plan of an unfinished training with the model's weights on this machine; another may have begun it."""
    weights = str(models.fetch(plan.model))
    if weights == plan.weights:
        return plan
    again = plan.model_copy(update={"weights": weights})
    write(Path(plan.folder) / "plan.json", again)
    return again


def _with(config: Config, **train: Any) -> Config:
    """The configuration with some keys of `train`."""
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def tried(plan: TrainingPlan, device: Device, on_line: Callable[[str], None]) -> TrainingPlan:
    """The plan with the micro-batch that fits by a trial, and with what that took.

    What does not fit is planned anew for less memory, what leaves much room for more. Raises ConfigError where nothing
    fits.
    """
    memory, seen = float(device.memory), list[Settings]()
    best: TrainingPlan | None = None
    while memory > GIVEN_UP * device.memory:
        one = _for(plan, device._replace(memory=int(memory)))
        if one is None or one.settings in seen:
            if best is not None:
                return best
            memory *= LESS
            continue
        seen.append(one.settings)
        try:
            took = _try(one, on_line)
        except (OutOfMemory, ProcessDied):  # on a CPU the kernel ends who takes too much
            if best is not None:
                return best
            memory *= LESS
            continue
        best = _as_measured(one, device, took)
        share = took.memory_bytes / one.predicted.memory_bytes
        if share > MUCH_LESS:
            return best
        memory /= share
    what = f"not even the smallest micro-batch ({plan.prepared.longest} tokens a sequence) fits into {plan.device_name}"
    remedy = "leave train.batch_size auto, use train.adapter=lora, or lower data.max_length"
    raise ConfigError(Problem("train.batch_size", what, remedy))


def _for(plan: TrainingPlan, device: Device) -> TrainingPlan | None:
    """The plan as it is for a device; None where nothing fits by arithmetic."""
    work, speed = _work(plan.prepared), disk.speed(Path(plan.folder))
    try:
        settings = settling.settle(plan.config, work, plan.model, device, speed)
    except ConfigError:
        return None
    predicted = settling.predict(plan.config, settings, work, plan.model, device)
    return plan.model_copy(update={"settings": settings, "predicted": predicted})


def _as_measured(plan: TrainingPlan, device: Device, took: Took) -> TrainingPlan:
    """A plan for the speed and the memory that were measured: when to save follows from the speed."""
    guessed = plan.predicted.seconds / plan.predicted.tokens
    as_fast = device._replace(flops=device.flops * guessed / took.seconds_a_token)
    sizes = {name: getattr(plan.settings, name) for name in (*HOW_A_STEP_IS_MADE, "effective_batch_size")}
    again = _for(plan.model_copy(update={"config": _with(plan.config, **sizes)}), as_fast)
    assert again is not None  # nothing is left to be fitted
    predicted = again.predicted.model_copy(update={"memory_bytes": took.memory_bytes, "measured": True})
    saved = plan.settings.model_copy(update={"save_steps": again.settings.save_steps})
    return plan.model_copy(update={"settings": saved, "predicted": predicted})


def _try(plan: TrainingPlan, on_line: Callable[[str], None]) -> Took:
    batch, count = plan.settings.batch_size, plan.settings.processes
    accumulation = min(ACCUMULATED, plan.settings.gradient_accumulation_steps)
    update = {
        "gradient_accumulation_steps": accumulation,
        "effective_batch_size": batch * accumulation * count,
        "steps": STEPS,
        "warmup_steps": 0,
        "eval_steps": STEPS,
    }
    with _folder(Path(plan.folder) / ".trial") as folder:
        write(folder / "plan.json", plan.model_copy(update={"settings": plan.settings.model_copy(update=update)}))
        processes.run("smollm3_ft.trial", str(folder / "plan.json"), on_line=on_line, count=count)
        result = files.read_json(folder / "trial.json")
    return Took(result["seconds_a_token"], result["memory_bytes"])


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """A folder for a while."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(path: Path, plan: TrainingPlan) -> None:
    files.write(path, plan.model_dump_json(indent=2) + "\n")


def read(path: Path) -> TrainingPlan:
    """The plan of a run, in the folder where it lies now. Raises ConfigError where it is not there or damaged."""
    try:
        plan = TrainingPlan.model_validate_json(path.read_text(encoding="utf-8"))
        return plan.model_copy(update={"folder": str(path.parent.absolute())})
    except OSError as error:
        raise ConfigError(Problem(str(path), f"cannot be read ({error.strerror})", "start the run anew")) from None
    except ValueError:
        raise ConfigError(Problem(str(path), "is no plan of this version", "start the run anew (--fresh)")) from None


def mark(plan: TrainingPlan) -> str:
    """The fingerprint of a training: of its run and of everything that it is told."""
    return files.digest(plan.model_dump(mode="json", exclude={"folder"}))


def check_made_here(plan: TrainingPlan, accepted: list[dict[str, Any]]) -> None:
    """Raise ConfigError where the plan was made by other code or with other packages than are here."""
    for name, then, now in identity.changed(plan.code, plan.lock, accepted):
        what = f"{name} here is {now}, the plan was made with {then}"
        raise ConfigError(Problem("plan.json", what, "use the same checkout, or go on with --accept-changes"))


def check_processes(plan: TrainingPlan, config: Config) -> None:
    """Raise ConfigError where a run is to go on with other processes than its plan and its checkpoints are of."""
    planned, wanted = plan.settings, config.compute
    there = {"num_processes": planned.processes, "strategy": planned.strategy}
    for key, before in there.items():
        now = getattr(wanted, key)
        if now not in (before, "auto") and (key == "num_processes" or planned.processes > 1):
            what = f"is {now}, but {plan.name} has begun to train with {before}"
            raise ConfigError(Problem(f"compute.{key}", what, f"go on with {before}, or start over with --fresh"))
