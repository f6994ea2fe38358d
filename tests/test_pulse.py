"""A training that no longer goes on is told from one that is slow."""

import pytest

from smollm3_ft.errors import Stalled
from smollm3_ft.pulse import BEFORE_THE_FIRST, Pulse


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def after_beats(every: float, watch: Watch, at_least: float = 10) -> Pulse:
    """A pulse that has beaten five times."""
    pulse = Pulse(at_least, watch)
    for _ in range(5):
        watch.now += every
        pulse.beat()
    return pulse


def test_twenty_times_the_usual_is_a_stall() -> None:
    """What comes after 19 times the usual is slow, after 21 times it has stalled; the message says both times."""
    watch = Watch()
    pulse = after_beats(3, watch)
    watch.now += 57
    pulse.check()
    watch.now += 6
    with pytest.raises(Stalled, match="nothing for 63 seconds, 3 between two batches were usual"):
        pulse.check()


def test_fast_steps_get_their_time() -> None:
    """However fast the steps are, a save may take its time."""
    watch = Watch()
    pulse = after_beats(0.01, watch)
    watch.now += 9
    pulse.check()
    watch.now += 2
    with pytest.raises(Stalled):
        pulse.check()


def test_the_first_step_may_take_long() -> None:
    """Before the first beat a model is loaded; but not for ever."""
    watch = Watch()
    pulse = Pulse(10, watch)
    watch.now = BEFORE_THE_FIRST - 1
    pulse.check()
    watch.now += 2
    with pytest.raises(Stalled):
        pulse.check()
