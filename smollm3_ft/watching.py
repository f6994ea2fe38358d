"""What looks at a training between its steps."""

from __future__ import annotations

from typing import Any

import transformers

from smollm3_ft import ranks
from smollm3_ft.processes import StopRequest
from smollm3_ft.sft import SftTrainer


class Watch(transformers.TrainerCallback):  # type: ignore[misc]  # the library has no types
    """Writes the last line of the journal, and saves and stops where the process was asked to."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.trainer: SftTrainer | None = None

    def on_step_end(self, _args: Any, state: Any, control: transformers.TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last steps have their line, whatever logging_steps is
        if ranks.any_of(bool(self.stop)):  # all stop behind the same step
            assert self.trainer is not None
            # A save that is cut short would leave nothing but the checkpoint before it, which is there anyway.
            too_late = self.stop.seconds_left() < self.trainer.seconds_a_save
            control.should_save = not ranks.any_of(too_late)
            control.should_training_stop = True
