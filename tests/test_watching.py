"""Told to stop, a training saves where there is time to, and stops behind its step in any case."""

from typing import Any, NamedTuple

import pytest
import transformers

from smollm3_ft.watching import Watch


class Told(NamedTuple):
    """A request to stop, with seconds left until the process is ended."""

    left: float

    def seconds_left(self) -> float:
        return self.left


class Saves(NamedTuple):
    """A trainer whose saves take so long."""

    seconds_a_save: float


@pytest.mark.parametrize(("left", "saves"), [(30, True), (5, False)])
def test_a_save_is_begun_where_it_can_be_ended(left: float, saves: bool) -> None:
    """With saves of ten seconds, half a minute is enough and five seconds are not; it stops both times."""
    stop: Any = Told(left)
    watch = Watch(stop)
    watch.trainer = Saves(10)
    control = transformers.TrainerControl()
    watch.on_step_end(None, transformers.TrainerState(max_steps=9, global_step=3), control)
    assert (control.should_save, control.should_training_stop) == (saves, True)
