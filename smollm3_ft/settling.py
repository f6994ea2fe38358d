"""Every `auto` value settled for a device, by plain arithmetic, and what the training is predicted to take."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from smollm3_ft import disk, files, pages, predictions
from smollm3_ft.config import Config
from smollm3_ft.devices import ROOM, Device
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.models import BYTES, ModelPlan
from smollm3_ft.predictions import Micro, Work

# A full fine-tuning's are those of SmolLM3's own stages; an adapter, which starts from nothing, wants ten times as much
# (Schulman et al. 2025, "LoRA Without Regret"). DPO's are far lower: its loss has no floor to hold the weights back.
LEARNING_RATES = {
    "sft": {"none": 2e-5, "lora": 2e-4, "qlora": 2e-4},
    "dpo": {"none": 1e-6, "lora": 1e-5, "qlora": 1e-5},
}
LARGEST_BATCH, STEPS_WANTED = 32, 100
CHECKPOINTS, VALIDATIONS = 10, 5
SECONDS_AT_RISK = 600  # of work, between two checkpoints
SAVING_SHARE = 0.02  # of the time
SAVE_OVERHEAD = 0.15  # seconds a save takes, however small the model is


class Settings(BaseModel):
    """The values that training runs with, each settled."""

    model_config = ConfigDict(frozen=True)

    adapter: str
    effective_batch_size: int
    batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    steps: int
    epochs: float
    warmup_steps: int
    save_steps: int
    eval_steps: int
    gradient_checkpointing: int  # of every n-th layer; 0 of none
    processes: int = 1
    strategy: Literal["alone", "ddp", "fsdp2"] = "alone"

    @property
    def shards(self) -> int | None:
        """Over how many processes the model is spread; None where each has it whole."""
        return self.processes if self.strategy == "fsdp2" else None


class Predicted(BaseModel):
    """What training is expected to take."""

    model_config = ConfigDict(frozen=True)

    tokens: int
    memory_bytes: int
    seconds: float
    measured: bool = False  # memory and time: by a trial on the device, not by arithmetic
    checkpoint_bytes: int
    model_bytes: int
    disk_bytes: int


def settle(
    config: Config, work: Work, model: ModelPlan, device: Device, disk_speed: float = disk.USUAL_SPEED
) -> Settings:
    """Settle every `auto` but the adapter's, which is settled before (`adapters.settled`).

    `disk_speed` in bytes a second. Raises ConfigError where even one sequence does not fit.
    """
    train, processes = config.train, config.compute.num_processes
    if device.kind == "cpu":
        device = device._replace(memory=device.memory // processes)
    strategy = _strategy(config, work, model, device)
    device = device._replace(shards=processes if strategy == "fsdp2" else None)
    wanted, batch, accumulation = _sizes(config, work, model, device)
    micro = _fitted(config, batch, accumulation > 1, work, model, device) or Micro(
        batch * work.longest, _checkpointing(config)[-1]
    )
    steps_an_epoch = max(1, math.ceil(work.sequences / wanted))
    steps = train.max_steps or math.ceil(steps_an_epoch * train.epochs)
    warmup = math.ceil(0.03 * steps) if train.warmup_steps == "auto" else train.warmup_steps
    if warmup > steps:
        what = f"{warmup} are more than the run's {steps} steps, so the learning rate would never be reached"
        raise ConfigError(Problem("train.warmup_steps", what, "leave it auto"))
    seconds_a_step = max(1e-9, predictions.seconds(config, work, model, device, micro.checkpointing) / steps_an_epoch)
    save_steps = _save_steps(_checkpoint_bytes(config, model) / disk_speed, seconds_a_step, steps)
    usual = LEARNING_RATES[train.method][train.adapter]
    return Settings(
        adapter=train.adapter,
        effective_batch_size=wanted,
        batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=usual if train.learning_rate == "auto" else train.learning_rate,
        steps=steps,
        epochs=steps / steps_an_epoch,
        warmup_steps=warmup,
        save_steps=save_steps if train.save_steps == "auto" else train.save_steps,
        eval_steps=math.ceil(steps / VALIDATIONS) if train.eval_steps == "auto" else train.eval_steps,
        gradient_checkpointing=micro.checkpointing,
        processes=processes,
        strategy=strategy,
    )


def _save_steps(seconds_a_save: float, seconds_a_step: float, steps: int) -> int:
    """About ten checkpoints; more where a crash would cost over ten minutes, and fewer where saving would cost 2 %."""
    at_risk = int(SECONDS_AT_RISK / seconds_a_step)
    affordable = math.ceil((SAVE_OVERHEAD + seconds_a_save) / (SAVING_SHARE * seconds_a_step))
    return min(steps, max(1, affordable, min(at_risk, math.ceil(steps / CHECKPOINTS))))


def predict(config: Config, settings: Settings, work: Work, model: ModelPlan, device: Device) -> Predicted:
    """Tokens, memory, time and disk of the whole training."""
    checkpoint = _checkpoint_bytes(config, model)
    kept = config.train.save_total_limit + 1  # one more while it is being written
    final = model.parameters * BYTES[config.model.dtype]
    device = device._replace(shards=settings.shards)
    again, accumulates = settings.gradient_checkpointing, settings.gradient_accumulation_steps > 1
    return Predicted(
        tokens=int(work.tokens * settings.epochs),
        memory_bytes=predictions.memory(
            config, model, device, Micro(settings.batch_size * work.longest, again, accumulates)
        ),
        seconds=predictions.seconds(config, work, model, device, again) * settings.epochs,
        checkpoint_bytes=checkpoint,
        model_bytes=final,
        disk_bytes=checkpoint * kept + final + predictions.variants(config, model),
    )


def _checkpoint_bytes(config: Config, model: ModelPlan) -> int:
    return predictions.trained_parameters(config, model) * 12  # float32 weights and two moments


def facts(settings: Settings, predicted: Predicted) -> list[tuple[str, str]]:
    """Name and value of each settled and predicted quantity."""
    s, p = settings, predicted
    about = "measured:" if p.measured else "about"
    at_risk = pages.duration(p.seconds / s.steps * s.save_steps)
    batch = f"{s.effective_batch_size} sequences ({s.batch_size} × {s.gradient_accumulation_steps}"
    batch += f" × {s.processes} processes, {s.strategy})" if s.processes > 1 else ")"
    return [
        ("adapter", s.adapter),
        ("steps", f"{s.steps:,} ({s.epochs:.2f} epochs)"),
        ("batch", batch),
        ("learning rate", f"{s.learning_rate:g} after {s.warmup_steps} steps of warm-up"),
        ("checkpoint", f"every {s.save_steps} steps ({at_risk}), {files.gib(p.checkpoint_bytes)} each"),
        ("tokens in all", f"about {p.tokens:,}"),
        ("memory", f"{about} {files.gib(p.memory_bytes)}{' in each process' if s.processes > 1 else ''}"),
        ("disk", f"about {files.gib(p.disk_bytes)}"),
        ("training time", f"{about} {pages.duration(p.seconds)}"),
    ]


def _strategy(config: Config, work: Work, model: ModelPlan, device: Device) -> Literal["alone", "ddp", "fsdp2"]:
    """How the processes share the work: each with the whole model where it fits, else each with a part of it."""
    processes, chosen = config.compute.num_processes, config.compute.strategy
    if device.kind == "cuda" and processes > device.number:
        what = f"{processes} need a GPU each, there are {device.number}"
        raise ConfigError(Problem("compute.num_processes", what, f"use at most {device.number}"))
    if processes == 1:
        return "alone"
    if config.train.adapter == "qlora":
        if chosen == "fsdp2":
            what = "fsdp2 does not spread the 4-bit weights of qlora"
            raise ConfigError(Problem("compute.strategy", what, "use ddp, or train.adapter=lora"))
        return "ddp"
    if chosen != "auto":
        return chosen
    needed = predictions.memory(config, model, device, Micro(work.longest, _checkpointing(config)[-1]))
    return "ddp" if needed <= ROOM * device.memory else "fsdp2"


def _sizes(config: Config, work: Work, model: ModelPlan, device: Device) -> tuple[int, int, int]:
    """Effective batch, micro-batch and accumulation: those given, and the others so that the first is their product."""
    train, processes = config.train, config.compute.num_processes
    given_batch = None if train.batch_size == "auto" else train.batch_size
    given_accumulation = None if train.gradient_accumulation_steps == "auto" else train.gradient_accumulation_steps
    if train.effective_batch_size != "auto":
        wanted = train.effective_batch_size
    else:
        unit = (given_batch or 1) * (given_accumulation or 1) * processes
        wanted = unit if given_batch and given_accumulation else unit * max(1, _usual_batch(work.sequences) // unit)
    if given_batch is None and given_accumulation is None:
        batch = _largest(config, max(1, wanted // processes), work, model, device)
    else:
        batch = given_batch or max(1, wanted // (given_accumulation or 1) // processes)
    accumulation = given_accumulation or max(1, wanted // batch // processes)
    if wanted != batch * accumulation * processes:
        what = f"{wanted} is not batch_size {batch} × gradient_accumulation_steps {accumulation}"
        what += f" × num_processes {processes}" if processes > 1 else ""
        raise ConfigError(Problem("train.effective_batch_size", what, "leave one of them auto"))
    return wanted, batch, accumulation


def _usual_batch(sequences: int) -> int:
    """The largest power of two up to 32 that leaves at least 100 steps an epoch."""
    return 1 << int(math.log2(max(1, min(LARGEST_BATCH, sequences // STEPS_WANTED))))


def _largest(config: Config, wanted: int, work: Work, model: ModelPlan, device: Device) -> int:
    """The micro-batch that divides the wanted batch, fits, and lets a token cost least; of equals the largest.

    A smaller one may keep activations that a larger one would have to make again.
    """
    costs: dict[int, float] = {}
    for batch in sorted((b for b in range(1, wanted + 1) if wanted % b == 0), reverse=True):
        micro = _fitted(config, batch, batch < wanted, work, model, device)
        if micro is not None:
            costs[batch] = predictions.relative_cost(model, micro)
    if costs:
        return min(costs, key=lambda batch: costs[batch])
    least = Micro(work.longest, _checkpointing(config)[-1], wanted > 1)
    needed = files.gib(predictions.memory(config, model, device, least))
    what = f"one sequence of {work.longest} tokens needs {needed}, {device.name} has {files.gib(device.memory)}"
    lighter = {"none": "use train.adapter=lora, or ", "lora": "use train.adapter=qlora, or "}
    remedy = f"{lighter.get(config.train.adapter, '')}lower data.max_length"
    raise ConfigError(Problem("train.batch_size", what, remedy))


def _fitted(
    config: Config, batch: int, accumulates: bool, work: Work, model: ModelPlan, device: Device
) -> Micro | None:
    """A micro-batch with as little computed twice as fits; None where it does not fit at all."""
    for every in _checkpointing(config):
        micro = Micro(batch * work.longest, every, accumulates)
        if predictions.memory(config, model, device, micro) <= ROOM * device.memory:
            return micro
    return None


def _checkpointing(config: Config) -> tuple[int, ...]:
    """Of every how many layers activations may be made again, the fastest first."""
    given = config.train.gradient_checkpointing
    return (0, 12, 6, 4, 3, 2, 1) if given == "auto" else (int(given),)
