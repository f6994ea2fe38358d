"""What the journal says of a training between its lines: counts that go on where a checkpoint left them."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch

from smollm3_ft import ranks
from smollm3_ft.alarms import Losses

PROGRESS = "progress.json"


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
        self.tokens: int = saved.get("tokens", 0)
        self.supervised_tokens: int = saved.get("supervised_tokens", 0)
        self.padding: int = saved.get("padding", 0)
        self.window_steps: int = saved.get("window_steps", 0)
        self.window_loss: float = saved.get("window_loss", 0.0)
        self.losses = Losses(saved.get("losses"))
        self.best = Best(**saved["best"]) if "best" in saved else Best()
        self.window_start = time.monotonic()
        self.window_tokens = 0
        self.window_flops = 0.0
        self.judged, self.hits = 0, 0  # trained tokens of the step that a line is written for, and the hits among them
        # What this process did in the step under way: loss, tokens, trained ones, padding, operations, judged, hits.
        self.mine: list[Any] = [0] * 7

    def judge(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Count which tokens the model would have said."""
        self.mine[5] += len(targets)
        self.mine[6] += (logits.detach().argmax(-1) == targets).sum()

    def add(self, loss: torch.Tensor, inputs: dict[str, Any], flops: float) -> None:
        """Count a micro-batch. `loss` is its share of the step's loss. Padding there is in attention alone.

        Nothing here waits for a GPU: the counts are of shapes, and the loss is added where it is.
        """
        trained = len(inputs["before"])
        if trained == 0:  # a process that had no sequences left
            return
        size = inputs["input_ids"].numel()
        # The variable-length kernel knows no padding.
        taken = sum(positions.numel() for positions in inputs["documents"]) if "documents" in inputs else size
        for number, more in enumerate((loss.double(), size, trained, taken - size, flops)):
            self.mine[number] += more

    def end_step(self) -> float:
        """Add up what all processes did in the step. Returns its loss."""
        loss, size, trained, padding, flops, judged, hits = ranks.summed(self.mine)
        self.tokens += int(size)
        self.window_tokens += int(size)
        self.window_flops += flops
        self.supervised_tokens += int(trained)
        self.padding += int(padding)
        self.window_loss += loss
        self.window_steps += 1
        self.judged += int(judged)
        self.hits += int(hits)
        self.mine = [0] * 7
        return loss

    def saved(self) -> dict[str, Any]:
        names = ("tokens", "supervised_tokens", "padding", "window_steps", "window_loss")
        counts = {name: getattr(self, name) for name in names}
        return {**counts, "losses": self.losses.saved(), "best": self.best._asdict()}

    def line(self, peak_flops: float | None) -> dict[str, float]:
        """The values of a journal line, and a new window. `mfu` where the device's peak is known."""
        seconds = max(1e-9, time.monotonic() - self.window_start)
        values = {
            "loss": self.window_loss / max(1, self.window_steps),
            "token_accuracy": self.hits / max(1, self.judged),
            "tokens": self.tokens,
            "supervised_tokens": self.supervised_tokens,
            "tokens_per_second": self.window_tokens / seconds,
            "padding_share": self.padding / max(1, self.padding + self.tokens),
        }
        if peak_flops is not None:
            values["mfu"] = self.window_flops / seconds / peak_flops
        self.window_steps, self.window_tokens, self.window_start = 0, 0, time.monotonic()
        self.window_flops = 0.0
        self.window_loss, self.hits, self.judged = 0.0, 0, 0
        return values
