"""Losses that somebody should look at while it trains: one that jumps, and one that does not fall."""

from __future__ import annotations

import statistics
from typing import Any

RECENT, ENOUGH = 100, 20  # steps that a loss is compared with, and the fewest of them
DEVIATIONS = 7  # what counts as a spike in "2 OLMo 2 Furious" (arXiv:2501.00656)
RISE = 1.2  # and is above the mean by a fifth: a loss that hardly varies is no alarm
QUIET = 50  # steps after an alarm without another
COMPARED = 50  # steps at the beginning and at the end that tell whether the loss falls
FALL = 0.005  # of the loss at the beginning; less is flat


class Losses:
    """The losses of single steps that alarms are judged by; goes into every checkpoint."""

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        saved = saved or {}
        self.first: list[float] = saved.get("first", [])
        self.recent: list[float] = saved.get("recent", [])
        self.quiet_until: int = saved.get("quiet_until", 0)

    def saved(self) -> dict[str, Any]:
        return {"first": self.first, "recent": self.recent, "quiet_until": self.quiet_until}

    def add(self, loss: float, step: int, steps: int) -> str | None:
        """Take in the loss of `step`, counted from 1, of `steps`. Returns what is to be said, None if nothing is.

        `{run}` stands in it for the run's name.
        """
        said = self._spike(loss, step)
        self.recent = [*self.recent, loss][-RECENT:]
        if len(self.first) < COMPARED:
            self.first.append(loss)
        return said or self._flat(step, steps)

    def _spike(self, loss: float, step: int) -> str | None:
        if len(self.recent) < ENOUGH or step < self.quiet_until:
            return None
        mean, deviation = statistics.fmean(self.recent), statistics.pstdev(self.recent)
        if loss <= max(mean + DEVIATIONS * deviation, RISE * mean):
            return None
        self.quiet_until = step + QUIET
        return f"the loss jumped to {loss:.4g} from about {mean:.4g}; its rows: smollm3-ft rows {{run}} --step {step}"

    def _flat(self, step: int, steps: int) -> str | None:
        """Asked in the middle of a training and at its end, where there are steps enough."""
        count = min(COMPARED, steps // 4)
        if count < ENOUGH // 2 or step not in (steps // 2, steps):
            return None
        before, now = statistics.fmean(self.first[:count]), statistics.fmean(self.recent[-count:])
        if before - now >= FALL * abs(before):
            return None
        return (
            f"the loss does not fall: {before:.4g} in the first {count} steps, {now:.4g} in the last; "
            "look at train.learning_rate, and at what is trained in the data page"
        )
