"""Which adapter a training uses: `auto` settled by what fits the device, and what QLoRA needs; where it is kept."""

from __future__ import annotations

import importlib.util

from smollm3_ft import predictions
from smollm3_ft.config import Config
from smollm3_ft.devices import ROOM, Device
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.models import ModelPlan
from smollm3_ft.predictions import Micro, Work

FOLDER = "adapter"  # of a run: the adapter alone, as it was before it was merged
CONFIG = "adapter_config.json"  # in a folder that holds an adapter
LARGEST_FIRST = ("none", "lora", "qlora")  # by the memory they take


def check(config: Config) -> None:
    """Raise ConfigError where QLoRA is asked for, and nothing here can quantize."""
    if config.train.adapter == "qlora" and not can_quantize():
        what = "qlora needs bitsandbytes, which is not installed"
        raise ConfigError(Problem("train.adapter", what, "install it: make setup EXTRAS=gpu; or use lora"))


def can_quantize() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def settled(config: Config, work: Work, model: ModelPlan, device: Device) -> Config:
    """The configuration with `train.adapter: auto` made the first of none, lora and qlora that fits the device, or
    else the last of them that can run: what does not fit is then said where batches are sized."""
    check(config)
    if config.train.adapter != "auto":
        return config
    possible = [name for name in LARGEST_FIRST if name != "qlora" or can_quantize()]
    candidates = [
        config.model_copy(update={"train": config.train.model_copy(update={"adapter": name})}) for name in possible
    ]
    fitting = (one for one in candidates if _smallest(one, work, model, device) <= ROOM * device.memory)
    return next(fitting, candidates[-1])


def _smallest(config: Config, work: Work, model: ModelPlan, device: Device) -> int:
    """Bytes with as few sequences at a time as the configuration allows."""
    train = config.train
    batch = 1 if train.batch_size == "auto" else train.batch_size
    again = 0 if train.gradient_checkpointing is False else 1
    return predictions.memory(config, model, device, Micro(batch * work.longest, again))
