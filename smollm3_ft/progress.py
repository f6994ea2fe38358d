"""What the journal says of a training between its lines: counts that go on where a checkpoint left them."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, NamedTuple

import torch

from smollm3_ft import pairs, ranks
from smollm3_ft.alarms import Losses

PROGRESS = "progress.json"
COUNTED = (
    *("loss", "tokens", "supervised_tokens", "padding", "flops"),
    *("judged", "hits"),  # trained tokens of the step that a line is written for, and those that the model would say
    *("pairs", "chosen", "rejected", "preferred"),  # preference pairs, and sums of their rewards
)

Counts = defaultdict[str, float]


class Best(NamedTuple):
    """The best validation so far, and how many came after it."""

    step: int | None = None
    loss: float | None = None
    since: int = 0

    def after(self, step: int, loss: float) -> Best:
        """What holds after another validation."""
        return Best(step, loss) if self.loss is None or loss < self.loss else self._replace(since=self.since + 1)


class Progress:
    """What the journal counts since the start of the run and since its last line; goes into every checkpoint.

    The counts are of all processes together, and the same in each of them.
    """

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        saved = saved or {}
        self.total = Counts(float, saved.get("total", {}))
        self.window = Counts(float, saved.get("window", {}))  # since the last line
        self.losses = Losses(saved.get("losses"))
        self.best = Best(**saved["best"]) if "best" in saved else Best()
        self.mine: dict[str, Any] = dict.fromkeys(COUNTED, 0)  # what this process did in the step under way
        self.begin_to_time()

    def begin_to_time(self) -> None:
        """Rates and times left are of the steps from here on."""
        self.began, self.timed = time.monotonic(), Counts(float)

    def judge(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Count which tokens the model would have said."""
        self.mine["judged"] += len(targets)
        self.mine["hits"] += (logits.detach().argmax(-1) == targets).sum()

    def reward(self, rewards: torch.Tensor) -> None:
        """Count the rewards of chosen and rejected answers, (pairs, 2), and where the chosen one's is the greater."""
        self.mine["pairs"] += len(rewards)
        self.mine["chosen"] += rewards[:, 0].sum()
        self.mine["rejected"] += rewards[:, 1].sum()
        self.mine["preferred"] += pairs.preferred(rewards[:, 0] - rewards[:, 1]).sum()

    def add(self, loss: torch.Tensor, inputs: dict[str, Any], flops: float) -> None:
        """Count a micro-batch. `loss` is its share of the step's loss. Padding there is in attention alone.

        Nothing here waits for a GPU: the counts are of shapes, and the loss is added where it is.
        """
        trained, size = len(inputs["before"]), inputs["input_ids"].numel()
        if trained == 0:  # a process that had no sequences left
            return
        # The variable-length kernel knows no padding.
        taken = sum(positions.numel() for positions in inputs["documents"]) if "documents" in inputs else size
        more = (loss.double(), size, trained, taken - size, flops)
        for name, value in zip(COUNTED, more, strict=False):
            self.mine[name] += value

    def end_step(self) -> float:
        """Add up what all processes did in the step. Returns its loss."""
        step = dict(zip(COUNTED, ranks.summed(list(self.mine.values())), strict=True)) | {"steps": 1}
        for counts in (self.total, self.window, self.timed):
            for name, value in step.items():
                counts[name] += value
        self.mine = dict.fromkeys(COUNTED, 0)
        return step["loss"]

    def saved(self) -> dict[str, Any]:
        """Everything that the lines to come depend on, but for their rates."""
        return {
            "total": self.total,
            "window": self.window,
            "losses": self.losses.saved(),
            "best": self.best._asdict(),
        }

    def line(self, steps_left: int, peak_flops: float | None) -> dict[str, float]:
        """The values of a journal line, and a new window. `mfu` where the device's peak is known."""
        seconds, total, window = max(1e-9, time.monotonic() - self.began), self.total, self.window
        values = {
            "loss": window["loss"] / max(1, window["steps"]),
            "token_accuracy": window["hits"] / max(1, window["judged"]),
            "tokens": int(total["tokens"]),
            "supervised_tokens": int(total["supervised_tokens"]),
            "tokens_per_second": self.timed["tokens"] / seconds,
            "seconds_left": seconds / max(1, self.timed["steps"]) * steps_left,
            "padding_share": total["padding"] / max(1, total["padding"] + total["tokens"]),
        }
        if peak_flops is not None:
            values["mfu"] = self.timed["flops"] / seconds / peak_flops
        if window["pairs"]:
            chosen, rejected, preferred = (window[name] / window["pairs"] for name in COUNTED[-3:])
            values |= {"reward_accuracy": preferred, "reward_margin": chosen - rejected}
            values |= {"chosen_reward": chosen, "rejected_reward": rejected}
        self.window = Counts(float)
        self.begin_to_time()
        return values
