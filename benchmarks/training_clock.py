"""What each step of a transformers trainer takes, counted alike for every contender."""

import time
from typing import Any, NamedTuple

import measure
import torch
import transformers

IGNORED = -100


class Step(NamedTuple):
    """One optimizer step: its time, the tokens that are no padding, those with a loss, all places, and the loss."""

    cpu_s: float
    wall_s: float
    tokens: int
    supervised_tokens: int
    places: int
    loss: float


class Clock(transformers.TrainerCallback):  # type: ignore[misc]  # the library has no types, and wants a class
    """Counts what goes into each step, and notes its time when it ends."""

    def __init__(self, pad: int) -> None:
        self.pad = pad
        self.settings: dict[str, Any] = {}
        self.steps: list[Step] = []
        self.before_first: dict[str, float] = {}
        self.began = (0.0, 0.0)
        self._begin_window()

    def _begin_window(self) -> None:
        self.tokens = self.supervised = self.places = 0
        self.loss = torch.zeros((), dtype=torch.float64)

    def count(self, inputs: dict[str, Any], loss: torch.Tensor) -> None:
        """A micro-batch, and its share of the step's loss."""
        self.tokens += int((inputs["input_ids"] != self.pad).sum())
        self.supervised += int((inputs["labels"][..., 1:] != IGNORED).sum())  # nothing comes before the first
        self.places += inputs["input_ids"].numel()
        self.loss += loss.detach().double()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = self.began if self.before_first else _now()
        if not self.before_first:
            self.before_first = {"first_step_at": time.time(), "to_first_step_cpu_s": self.began[0]}

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = _now()
        cpu, wall = (after - before for after, before in zip(now, self.began, strict=True))
        self.steps.append(Step(cpu, wall, self.tokens, self.supervised, self.places, float(self.loss)))
        self.began = now
        self._begin_window()

    def measured(self) -> dict[str, Any]:
        return {**self.settings, **self.before_first, "steps": [step._asdict() for step in self.steps]}


def _now() -> tuple[float, float]:
    return measure.cpu_seconds(), time.perf_counter()


def _checkpoints_gradients(trainer: Any) -> bool:
    return bool(trainer.args.gradient_checkpointing or trainer.model.is_gradient_checkpointing)


def watch(trainer: Any) -> Clock:
    """A clock on a trainer that has not begun."""
    clock, step = Clock(trainer.processing_class.pad_token_id), trainer.training_step
    clock.settings = {
        "precision": "bf16" if trainer.args.bf16 else str(trainer.model.dtype).removeprefix("torch."),
        "gradient_checkpointing": "on" if _checkpoints_gradients(trainer) else "off",
        "threads": torch.get_num_threads(),
    }

    def counted(model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> torch.Tensor:
        loss: torch.Tensor = step(model, inputs, *given, **named)
        clock.count(inputs, loss)
        return loss

    trainer.training_step = counted
    trainer.add_callback(clock)
    return clock
