"""What a training takes of its device, by plain arithmetic."""

from __future__ import annotations

from typing import NamedTuple

from smollm3_ft.config import Config
from smollm3_ft.devices import Device
from smollm3_ft.models import BYTES, ModelPlan

LIBRARIES = 650 * 2**20  # bytes that torch and what it loads take before any model, on the CPU as on CUDA


class Work(NamedTuple):
    """What there is to train on: sequences and tokens an epoch, and the longest sequence."""

    sequences: int
    tokens: int
    longest: int


def memory(config: Config, batch: int, longest: int, model: ModelPlan, checkpointing: bool) -> int:
    """Peak bytes on the device: weights, gradients and Adam's moments, activations, and the logits of the loss."""
    item = BYTES[config.model.dtype]
    trained = trained_parameters(config, model)
    fixed = model.parameters * 16 if config.train.adapter == "none" else model.parameters * item + trained * 16
    tokens = batch * longest
    layer = 32 * item * model.hidden  # bytes of activations that a token leaves in a layer
    kept = item * model.hidden * model.layers + layer if checkpointing else layer * model.layers
    return int(LIBRARIES + fixed + tokens * (kept + model.vocabulary * (item + 4)))


def trained_parameters(config: Config, model: ModelPlan) -> int:
    if config.train.adapter == "none":
        return model.parameters
    return 2 * config.train.lora.r * model.hidden * model.layers * 14  # seven linear layers, two matrices each


def seconds(config: Config, work: Work, model: ModelPlan, device: Device) -> float:
    """An epoch: six operations a weight and token (four with a frozen base), at the device's usual rate."""
    operations = 6 if config.train.adapter == "none" else 4
    return operations * model.parameters * work.tokens / device.flops
