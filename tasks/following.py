"""What is seen of a training while it goes on: its journal, followed and shown in the log and on Prefect's pages."""

from __future__ import annotations

import base64
import logging
import time
import uuid
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from smollm3_ft import files, journal, pages, runs
from smollm3_ft.fit import TrainingPlan
from tasks.steps import UNREACHABLE, log

SECONDS_BETWEEN_UPDATES = 5  # of the progress
SECONDS_BETWEEN_LINES = 10  # of the log on Prefect's page
CURVES = 20  # drawn in a training


class Follower:
    """Shows the journal beside the training, throttled: lines in the log, progress and curve in Prefect."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        self.path = Path(plan.folder) / "metrics.jsonl"
        self.offset = journal.read_new(self.path, 0)[1]  # behind the last whole line; a torn one will be cut off
        self.progress: uuid.UUID | None = None
        self.metrics: uuid.UUID | None = None
        self.updated = self.told = 0.0
        self.drawn = 0  # the step at which the curve was drawn last
        self.last: dict[str, Any] = {}

    def tick(self) -> None:
        records, self.offset = journal.read_new(self.path, self.offset)
        for record in records:
            if record.kind == "train":
                self._step(record)
            elif record.kind == "eval":
                log.info("step %s: validation loss %.4f", record.step, record.values["loss"])
            elif record.kind in ("event", "alert"):
                level = logging.WARNING if record.kind == "alert" else logging.INFO
                log.log(level, "step %s: %s", record.step, record.values["what"])
        if records and time.monotonic() - self.updated > SECONDS_BETWEEN_UPDATES:
            self._update()

    def finish(self) -> None:
        self.tick()
        self._update(drawing=True)

    def _step(self, record: journal.Record) -> None:
        """A line for each record where the training is watched; on Prefect's page no more than one in some seconds."""
        step, steps = record.step or 0, self.plan.settings.steps
        figures = _figures(record, steps)
        self.last = {**record.values, "step": step, "figures": figures}
        is_due = step == steps or time.monotonic() - self.told > SECONDS_BETWEEN_LINES
        self.told = time.monotonic() if is_due else self.told
        extra = {"progress": (step, steps, figures), "send_to_api": is_due}
        log.info("step %s/%s: %s", step, steps, figures, extra=extra)

    def _update(self, drawing: bool = False) -> None:
        step, steps = self.last.get("step", 0), self.plan.settings.steps
        words = f"step {step:,}/{steps:,}: {self.last.get('figures', 'starting')}"
        share, self.updated = round(100 * step / steps, 1), time.monotonic()
        try:
            if self.progress is None:
                self.progress = create_progress_artifact(share, key="training-progress", description=words)  # type: ignore[assignment]
            else:
                update_progress_artifact(self.progress, share, words)
            if self.last and (drawing or self.drawn == 0 or step - self.drawn > steps / CURVES):
                self._draw()
                self.drawn = step
        except UNREACHABLE as error:  # training does not need it
            log.warning("the progress could not be shown: %s", error)

    def _draw(self) -> None:
        """The curve so far, in one artifact that changes: a new one each time would fill the run's page."""
        run = runs.read(Path(self.plan.folder))
        svg = base64.b64encode(str(pages.curves(journal.curves(run.path / "metrics.jsonl", "loss"))).encode()).decode()
        shown = {name: f"{value:,.6g}" for name, value in self.last.items() if name not in ("figures", "memory_bytes")}
        shown["memory"] = files.gib(self.last["memory_bytes"])
        values = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in shown.items())
        text = f"![loss by step](data:image/svg+xml;base64,{svg})\n\n| | last |\n|---|---|\n{values}\n"
        if self.metrics is None:
            self.metrics = create_markdown_artifact(text, key="metrics", description=f"Metrics of {self.plan.name}")  # type: ignore[assignment]
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self.metrics, ArtifactUpdate(data=text))


def _figures(record: journal.Record, steps: int) -> str:
    """Loss, speed and time left, as they are in a journal line."""
    values, done = record.values, record.step or 1
    left = (steps - done) / done * values["tokens"] / values["tokens_per_second"]
    rewarded = f"reward accuracy {values['reward_accuracy']:.2f}, " if "reward_accuracy" in values else ""
    speed = f"{values['tokens_per_second']:,.0f} tokens/s, {pages.duration(left)} left"
    return f"loss {values['loss']:.4f}, {rewarded}{speed}"
