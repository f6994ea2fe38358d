"""Whether a training still goes on: its process says so at every micro-batch, and its parent listens."""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable

from smollm3_ft.errors import Stalled

BEFORE_THE_FIRST = 1800.0  # seconds: a model is loaded, kernels are compiled
AT_LEAST = 600.0  # seconds, however short the usual: saving a large checkpoint takes minutes
TIMES = 20  # the usual time between two beats


class Pulse:
    """The beats of one process. One thread may listen for them while another checks."""

    def __init__(self, at_least: float = AT_LEAST, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_least, self._clock = at_least, clock
        self._last = clock()
        self._between: collections.deque[float] = collections.deque(maxlen=100)
        self._begun = False

    def beat(self) -> None:
        now = self._clock()
        if self._begun:
            self._between.append(now - self._last)
        self._last, self._begun = now, True

    def check(self) -> None:
        """Raise Stalled where the last beat is too long ago."""
        waited = self._clock() - self._last
        usual = statistics.median(list(self._between) or [0.0])
        limit = max(self._at_least, TIMES * usual) if self._begun else max(self._at_least, BEFORE_THE_FIRST)
        if waited > limit:
            what = f"training stalled: nothing for {waited:.0f} seconds, {usual:.2g} between two batches were usual"
            raise Stalled(what, "run the same command to go on")
