"""The steps that publish a model and prove it."""

from __future__ import annotations

from typing import Any

from prefect import task

from smollm3_ft import files, gate, processes, publishing
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.runs import Run
from tasks.steps import blocked, call, done, log, options
from tasks.training import Evaluated, Trained


@task(**options("publish", timeout=6 * 3600))
def publish(run: Run, plan: TrainingPlan, kept: dict[str, Any] | None) -> dict[str, Any]:
    """Put the model where `publish.target` says, unless the gate is against it."""
    why = gate.blocked(run.path)
    if why is not None:
        return blocked(why, {"target": "none"})
    if run.config.publish.target == "none":
        return done("nothing to do: publish.target is none", {"target": "none"})
    return done(str(run.path / "model"), kept or publishing.publish_local(plan))


@task(**options("verify", timeout=6 * 3600))
def verify(run: Run, record: dict[str, Any], tuned: Evaluated, kept: dict[str, Any] | None) -> dict[str, Any]:
    """Compare every published file by hash, load the model, and ask it again what it was asked before.

    On another device than the training's its answers are not compared, and the record says so.
    """
    if record["target"] == "none":
        return done("nothing to do: nothing was published", record)
    if kept is not None:
        return done("verified before", kept)
    processes.run("smollm3_ft.publishing", str(run.path / "plan.json"), tuned.folder, on_line=log.info)
    found = publishing.verified(run, record)
    said = "it answers as trained" if found["answers_compared"] else "it answers; on another device, so not compared"
    return done(f"every file is as published; {said}", found)


def publish_and_verify(run: Run, plan: TrainingPlan, trained: Trained, tuned: Evaluated) -> dict[str, Any]:
    """Publish what was trained, and believe it only when it was read back."""
    kept = publishing.published(run.path)
    mark = files.digest([plan.run_id, trained.model, run.config.publish.model_dump()])
    record = call(publish, run, plan, fingerprint=mark, kept=kept)
    return call(verify, run, record, tuned, fingerprint=mark, kept=kept if kept and kept["verified"] else None)
