"""The steps beside the training: where metrics go is set up before it, and they are carried there while it runs."""

from __future__ import annotations

import threading
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from smollm3_ft import monitoring, runs, system
from smollm3_ft.journal import Journal
from smollm3_ft.monitoring import local_trackio
from smollm3_ft.runs import Run
from tasks.steps import options

# They end when they are told to; a timeout could not reach into their threads.
BESIDE = {"cache_policy": NO_CACHE, "persist_result": False, "timeout_seconds": None}
DAYS = 24 * 3600


@task(**options("deploy tracker", timeout=600))
def deploy_tracker(run: Run) -> State[str]:
    """Make sure there is a Trackio to write to."""
    if run.config.monitor.trackio == "off":
        return Completed(message="nothing to do: monitor.trackio is off", data="off")
    place = local_trackio.folder(Path(run.config.runs_dir))
    place.mkdir(parents=True, exist_ok=True)
    return Completed(message=f"nothing to deploy: Trackio keeps its data in {place}", data=str(place))


@task(**options("configure tracker", timeout=600))
def configure_tracker(run: Run, tracker: str) -> State[str]:
    """Say which Trackio project and run the metrics go to."""
    if tracker == "off":
        return Completed(message="nothing to do: monitor.trackio is off", data="off")
    return Completed(message=f"project {local_trackio.PROJECT}, run {run.name}", data=local_trackio.PROJECT)


@task(**options("set up experiment dataset", timeout=600))
def set_up_experiment_dataset(run: Run) -> State[str]:  # noqa: ARG001  # every step is told its run
    """Make sure there is an experiment dataset to push to."""
    return Completed(message="nothing to do: monitor.dataset is not set", data="off")


@task(**{**options("monitor system", timeout=30 * DAYS), **BESIDE})
def monitor_system(run: Run, host: Journal, stop: threading.Event) -> State[int]:
    """Sample the machine into `host.jsonl`."""
    if runs.status(run.path) in runs.FINISHED:
        return Completed(message="nothing to do: the run is finished", data=0)
    samples = system.watch(host, run.path, run.config.monitor.system_interval, stop)
    return Completed(message=f"{samples} samples", data=samples)


@task(**{**options("monitor trackio", timeout=30 * DAYS, retries=5, delays=(1, 2, 5, 10, 30)), **BESIDE})
def monitor_trackio(run: Run, stop: threading.Event) -> State[int]:
    """Carry the journals to Trackio."""
    if run.config.monitor.trackio == "off":
        return Completed(message="nothing to do: monitor.trackio is off", data=0)
    delivered = monitoring.follow("trackio", run, stop)
    return Completed(message=f"{delivered} records delivered", data=delivered)


@task(**{**options("monitor dataset", timeout=30 * DAYS), **BESIDE})
def monitor_dataset(run: Run, stop: threading.Event) -> State[int]:  # noqa: ARG001  # as its siblings
    """Carry the journals to the experiment dataset."""
    return Completed(message="nothing to do: monitor.dataset is not set", data=0)
