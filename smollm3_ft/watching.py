"""What looks at a training between its steps."""

from __future__ import annotations

from typing import Any

import transformers

from smollm3_ft import ranks
from smollm3_ft.processes import StopRequest


class Watch(transformers.TrainerCallback):  # type: ignore[misc]  # the library has no types
    """Writes the last line of the journal, and saves and stops where the process was asked to."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def on_step_end(self, _args: Any, state: Any, control: transformers.TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last steps have their line, whatever logging_steps is
        if ranks.any_of(bool(self.stop)):  # all stop behind the same step
            control.should_save = True
            control.should_training_stop = True
