"""The steps that publish a model and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.states import Completed, State

from smollm3_ft import files, processes, publishing
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.runs import Run
from tasks.steps import call, log, options
from tasks.training import Evaluated, Trained


@task(**options("publish", timeout=6 * 3600))
def publish(plan: TrainingPlan, kept: dict[str, Any] | None) -> State[dict[str, Any]]:
    """Put the model where `publish.target` says."""
    if plan.config.publish.target == "none":
        return Completed(message="nothing to do: publish.target is none", data={"target": "none"})
    record = kept or publishing.publish_local(plan)
    return Completed(message=f"{Path(plan.folder) / 'model'}", data=record)


@task(**options("verify", timeout=6 * 3600))
def verify(
    run: Run, plan: TrainingPlan, record: dict[str, Any], tuned: Evaluated, kept: dict[str, Any] | None
) -> State[dict[str, Any]]:
    """Compare every published file by hash, load the model, and ask it again what it was asked before."""
    if record["target"] == "none":
        return Completed(message="nothing to do: nothing was published", data=record)
    if kept is not None:
        return Completed(message="verified before", data=kept)
    processes.run("smollm3_ft.publishing", str(run.path / "plan.json"), tuned.folder, on_line=log.info)
    return Completed(message="every file is as published; it answers as trained", data=publishing.verified(run, record))


def publish_and_verify(run: Run, plan: TrainingPlan, trained: Trained, tuned: Evaluated) -> dict[str, Any]:
    """Publish what was trained, and believe it only when it was read back."""
    path = run.path / publishing.PUBLISHED
    kept = files.read_json(path) if path.is_file() else None
    mark = files.digest([plan.run_id, trained.model, plan.config.publish.model_dump()])
    record = call(publish, plan, fingerprint=mark, kept=kept)
    verified = kept if kept is not None and kept["verified"] else None
    return call(verify, run, plan, record, tuned, fingerprint=mark, kept=verified)
