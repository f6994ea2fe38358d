"""Publishing a run that was trained, or going on with it: what the deployment `publish/default` runs."""

import os
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from smollm3_ft import gate, locks, permitted, report, runs
from smollm3_ft.config import Publish
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.runs import Run
from tasks import steps
from tasks.evaluating import Evaluated
from tasks.publishing import publish_and_verify
from tasks.reporting import close, close_failed
from tasks.setup import close_former
from tasks.steps import flow
from tasks.training import Trained, finished


def _run_name() -> str:
    return Path(flow_run.parameters["run"]).name


@flow(name="publish", flow_run_name=_run_name, persist_result=False)
def publish_flow(run: str) -> dict[str, Any]:
    """Publish the run that `run` names (a run's folder, or a name in `runs`) to where its configuration says.

    What is published already is only verified, what is verified is left as it is. Returns the run's report, which says
    where its model is now. Raises ConfigError where there is no such run or nothing to publish of it, RunBusy where
    another process works on it.
    """
    return _publish(runs.read(runs.find(run, Path("runs").absolute())), None)


@flow(name="publish", flow_run_name=_run_name, persist_result=False)
def publish_as_asked(run: str, publish: Publish, despite_gate: str | None) -> dict[str, Any]:
    """The same for `smollm3-ft publish`: with `publish` in the place of what the run's configuration says of it, and
    with the reason to publish a model that its gate is against."""
    found = runs.read(Path(run))
    config = found.config.model_copy(update={"publish": publish})
    return _publish(found.model_copy(update={"config": config}), despite_gate)


def _publish(found: Run, despite_gate: str | None) -> dict[str, Any]:
    steps.HERE.set([])
    with locks.hold(found.path.parent, found.name):
        made = _made(found, despite_gate)
        close_former(found)
        try:
            publish_and_verify(found, *made, despite_gate, True)
        except Exception as error:
            _keep_former_steps(found)
            close_failed(found, error)
            raise
        except BaseException:  # Ctrl-C, SIGTERM: no more steps, but the truth on disk
            _keep_former_steps(found)
            report.write(found, "interrupted", list(steps.HERE.get()))
            raise
        _keep_former_steps(found)
        return close(found, "completed" if gate.blocked(found.path) is None else "blocked")


def _made(run: Run, despite_gate: str | None) -> tuple[TrainingPlan, Trained, Evaluated]:
    """What there is to publish. Raises ConfigError where there is nothing, or it may not be."""
    if run.config.publish.target == "none":
        remedy = "give publish.target=local or publish.target=hub to `smollm3-ft publish`"
        raise ConfigError(Problem("publish.target", f"is none in run {run.name}", remedy))
    mine = ("publish.", "monitor.", "model.trust_remote_code")
    problems = [one for one in permitted.refused(run.config, os.environ) if one.where.startswith(mine)]
    if problems:
        raise ConfigError(*problems)
    why = gate.blocked(run.path)
    if why is not None and not despite_gate:
        what = f"the gate kept {run.name} from being published: {why}"
        raise ConfigError(Problem("run", what, f"see {run.path / 'report.html'}; `--despite-gate` takes a reason"))
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
