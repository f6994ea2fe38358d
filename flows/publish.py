"""Publishing a run that was trained, or going on with it: what the deployment `publish/default` runs."""

import os
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from smollm3_ft import gate, locks, permitted, report, runs
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.runs import Run
from tasks import steps
from tasks.publishing import publish_and_verify
from tasks.reporting import close, close_failed
from tasks.setup import close_former
from tasks.training import Evaluated, Trained, finished


def _run_name() -> str:
    return Path(flow_run.parameters["run"]).name


@flow(name="publish", flow_run_name=_run_name, persist_result=False)
def publish_flow(run: str) -> dict[str, Any]:
    """Publish the run that `run` names (a run's folder, or a name in `runs`) to where its configuration says.

    What is published already is only verified, what is verified is left as it is. Returns the run's report, which says
    where its model is now. Raises ConfigError where there is no such run or nothing to publish of it, RunBusy where
    another process works on it.
    """
    steps.HERE.set([])
    found = runs.read(runs.find(run, Path("runs").absolute()))
    with locks.hold(found.path.parent, found.name):
        made = _made(found)
        close_former(found)
        try:
            publish_and_verify(found, *made)
        except Exception as error:
            _keep_former_steps(found)
            close_failed(found, error)
            raise
        _keep_former_steps(found)
        return close(found, "completed")


def _made(run: Run) -> tuple[TrainingPlan, Trained, Evaluated]:
    """What there is to publish. Raises ConfigError where there is nothing, or it may not be."""
    if run.config.publish.target == "none":
        raise ConfigError(Problem("publish.target", f"is none in run {run.name}", "there is nothing to publish"))
    problems = [
        one for one in permitted.refused(run.config, os.environ) if one.where.startswith(("publish.", "monitor."))
    ]
    if problems:
        raise ConfigError(*problems)
    why = gate.blocked(run.path)
    if why is not None:
        what = f"the gate kept {run.name} from being published: {why}"
        raise ConfigError(Problem("run", what, f"see {run.path / 'report.html'}"))
    made = finished(run)
    if made is None:
        what = f"{run.name} is not trained and evaluated, or its files are not as they were"
        raise ConfigError(Problem("run", what, f"go on with it first: {report.command(run)}"))
    return made


def _keep_former_steps(run: Run) -> None:
    """In its report a run's former steps are told as they were, before those that were done now."""
    done = steps.HERE.get()
    anew = {*(step.name for step in done), "links", "next steps"}
    done[:] = [*(step for step in report.read_steps(run.path) if step.name not in anew), *done]
