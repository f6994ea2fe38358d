"""The steps that publish a model and prove it."""

from __future__ import annotations

from typing import Any

from smollm3_ft import demospace, files, gate, processes, publishing
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.runs import Run
from tasks.evaluating import Evaluated, complete_variants
from tasks.steps import blocked, call, done, log, options, task
from tasks.training import Trained


@task(**options("publish", timeout=6 * 3600))
def publish(run: Run, plan: TrainingPlan, despite_gate: str | None, kept: dict[str, Any] | None) -> dict[str, Any]:
    """Put the model where `publish.target` says, unless the gate is against it and there is no reason to do it all the
    same."""
    why = gate.blocked(run.path)
    if why is not None and not (despite_gate or (kept and kept.get("despite_gate"))):
        return blocked(why, {"target": "none"})
    if run.config.publish.target == "none":
        return done("nothing to do: publish.target is none", {"target": "none"})
    if kept is None:
        complete_variants(run, plan)
    record = kept or publishing.publish(run, plan, despite_gate if why is not None else None)
    place = f"{record['repo']} at {record['commit'][:12]}, tag {record['tag']}" if record["repo"] else None
    return done(place or str(run.path / "model"), record)


@task(**options("verify", timeout=6 * 3600))
def verify(run: Run, record: dict[str, Any], tuned: Evaluated, kept: dict[str, Any] | None) -> dict[str, Any]:
    """Compare every published file by hash, load the model, and ask it again what it was asked before.

    What is on the Hub is fetched from there. On another device than the training's its answers are not compared with
    those of the evaluation, and the record says so.
    """
    if record["target"] == "none":
        return done("nothing to do: nothing was published", record)
    if kept is not None or record.get("verified"):
        return done("verified before", demospace.deployed(run, kept or record, _waits))
    if record["target"] == "hub":
        _waits(f"fetching it from {record['repo']} at {record['commit'][:12]}")
    with publishing.fetched(run, record) as folder:
        arguments = (str(run.path / "plan.json"), tuned.folder, str(folder))
        processes.run("smollm3_ft.publishing", *arguments, on_line=log.info)
    found = demospace.deployed(run, publishing.verified(run, record), _waits)
    said = "it answers as trained" if found["answers_compared"] else "it answers; on another device, so not compared"
    return done(f"every file is as published; {said}", found)


def _waits(line: str) -> None:
    """Say what is waited for, on a terminal too."""
    log.info("%s", line, extra={"waits": True})


def publish_and_verify(
    run: Run,
    plan: TrainingPlan,
    trained: Trained,
    tuned: Evaluated,
    despite_gate: str | None = None,
    looks: bool = False,
) -> dict[str, Any]:
    """Publish what was trained, and believe it only when it was read back. What was published before counts, where one
    `looks` only if the Hub still has it."""
    kept = publishing.published(run)
    if looks and kept is not None:
        kept = publishing.still_there(run, kept)
    if kept is not None and not publishing.states(kept, despite_gate):
        kept = None
    mark = files.digest([plan.run_id, trained.model, run.config.publish.model_dump()])
    record = call(publish, run, plan, despite_gate, fingerprint=mark, kept=kept)
    finished = kept if kept and publishing.is_finished(kept, run) else None
    return call(verify, run, record, tuned, fingerprint=mark, kept=finished)
