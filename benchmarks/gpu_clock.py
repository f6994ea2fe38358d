"""What each step of a transformers trainer takes on a GPU, counted alike for every contender.

Within a step nothing waits for the device: what went in is kept, and counted when all is over.
"""

import time
from typing import Any

import torch
import transformers

from smollm3_ft import config, flops
from smollm3_ft.models import ModelPlan

IGNORED = -100


class Clock(transformers.TrainerCallback):  # type: ignore[misc]  # the library has no types, and wants a class
    """Notes when each step ends, with nothing left to do on the device."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.inputs: list[list[dict[str, torch.Tensor]]] = [[]]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.times:
            self.times.append(_now())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(_now())
        self.inputs.append([])


def timed(trainer: Any, mode: str, model: ModelPlan) -> dict[str, Any]:
    """Train, and tell of every step its time, its tokens and its operations; and the device's peak memory, in bytes."""
    clock, step = Clock(), trainer.training_step
    names = ("input_ids", "labels", "position_ids")

    def noted(wrapped: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> torch.Tensor:
        clock.inputs[-1].append({name: inputs[name] for name in names if name in inputs})
        loss: torch.Tensor = step(wrapped, inputs, *given, **named)
        return loss

    trainer.training_step = noted
    trainer.add_callback(clock)
    trainer.train()
    told = config.Config.model_validate({"train": {"adapter": "lora" if mode == "lora" else "none"}})
    pad = trainer.processing_class.pad_token_id
    pairs = zip(clock.times[:-1], clock.times[1:], clock.inputs, strict=False)
    return {
        "precision": "bf16" if trainer.args.bf16 else "float32",
        "memory_bytes": _peak_memory(),
        "steps": [{"wall_s": end - begin, **_counted(batches, pad, told, model)} for begin, end, batches in pairs],
    }


def _counted(
    batches: list[dict[str, torch.Tensor]], pad: int, told: config.Config, model: ModelPlan
) -> dict[str, float]:
    """Tokens that are no padding, and the operations that the model asks for with them."""
    tokens = supervised = pairs = 0
    for inputs in batches:
        real = (inputs["input_ids"] != pad).cpu()
        tokens += int(real.sum())
        supervised += int((inputs["labels"][..., 1:] != IGNORED).sum())
        positions = inputs["position_ids"].cpu() if "position_ids" in inputs else real.cumsum(-1) - 1
        for one, place in zip(real, positions, strict=True):
            lengths = (place[one] == 0).cumsum(0).unique(return_counts=True)[1]
            pairs += int((lengths**2).sum())
    return {"tokens": tokens, "flops": flops.of(told, model, tokens, supervised, pairs)}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_memory() -> int:
    """What the device had to give: the allocator's segments at their largest, and what the libraries take beside it."""
    if not torch.cuda.is_available():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    return torch.cuda.max_memory_reserved() + beside
