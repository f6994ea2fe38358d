"""What a worker of a pool does for a run: all that needs the device. `finetune` starts it; nobody has to."""

import os
import threading
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from smollm3_ft import data, identity, permitted, runs
from smollm3_ft.data import Prepared
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.journal import Journal
from smollm3_ft.plan import Plan
from smollm3_ft.runs import Run
from tasks import monitoring, remote, steps
from tasks.data import STEP as PREPARE
from tasks.steps import flow
from tasks.training import fit_run, the_device, train_on_device


def _run_name() -> str:
    return Path(flow_run.parameters["run"]).name


@flow(name="train", flow_run_name=_run_name, persist_result=False)  # a result that is kept could not be resumed
def train_flow(run: str) -> dict[str, Any]:
    """Fit to the device, evaluate, train and evaluate the run that `run` names: a run's folder, or a name in `runs`.

    Raises ConfigError where this worker does not see the run, or has other code or packages; RunBusy where another
    trains it.
    """
    steps.HERE.set([])
    remote.close_former_attempt()
    found, plan, prepared = _found(run)
    with the_device(found) as lock:
        training = fit_run(found, plan, prepared)
        host, stop = Journal(found.path / "host.jsonl", found.run_id), threading.Event()
        watching = {"monitor system": monitoring.monitor_system.submit(found, host, stop)}
        with host, steps.beside(watching, stop):
            trained, _ = train_on_device(found, training, host, (lock,))
    remote.tell(found)
    return trained.model_dump()


def _found(words: str) -> tuple[Run, Plan, Prepared]:
    """The run, as its coordinator left it, if it can be trained here."""
    folder = runs.find(words, Path("runs").absolute())
    if not (folder / runs.RECORD).is_file():
        what = f"this worker sees no run in {folder}"
        raise ConfigError(Problem("run", what, "mount runs_dir here at the place where the coordinator has it"))
    run = runs.read(folder)
    if run.folder != str(folder):
        what = f"run {run.name} was begun in {run.folder}, and this worker sees it in {folder}"
        raise ConfigError(Problem("run", what, "mount runs_dir at the same place on all machines"))
    for name, then, now in identity.changed(run.code, run.lock, run.accepted):
        what = f"this worker's {name} is {now}, run {run.name} was begun with {then}"
        raise ConfigError(Problem("run", what, "use the same checkout and lock on all machines"))
    refused = permitted.refused(run.config, os.environ)
    problems = [one for one in refused if one.where.startswith("model.")]  # no source is read here, nothing published
    if problems:
        raise ConfigError(*problems)
    mark = runs.marks(run).get(PREPARE)
    prepared = data.reuse(folder.parent, mark) if mark else None
    if run.plan is None or prepared is None:
        what = f"run {run.name} has no prepared data that this worker sees"
        raise ConfigError(Problem("run", what, "start it with `finetune`, which prepares them and then starts this"))
    return run, run.plan, prepared
