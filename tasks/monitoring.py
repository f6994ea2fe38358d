"""The steps beside the training: where metrics go is set up before it, and they are carried there while it runs."""

from __future__ import annotations

import threading
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from smollm3_ft import monitoring, runs, system
from smollm3_ft.journal import Journal
from smollm3_ft.monitoring import local_trackio
from smollm3_ft.runs import Run
from tasks.steps import done, options

# They end when they are told to; a timeout could not reach into their threads.
BESIDE = {"cache_policy": NO_CACHE, "persist_result": False, "timeout_seconds": None}
DAYS = 24 * 3600


@task(**options("deploy tracker", timeout=600))
def deploy_tracker(run: Run) -> str:
    """Make sure there is a Trackio to write to."""
    if run.config.monitor.trackio == "off":
        return done("nothing to do: monitor.trackio is off", "off")
    place = local_trackio.folder(Path(run.config.runs_dir))
    place.mkdir(parents=True, exist_ok=True)
    return done(f"nothing to deploy: Trackio keeps its data in {place}", str(place))


@task(**options("configure tracker", timeout=600))
def configure_tracker(run: Run, tracker: str) -> str:
    """Say which Trackio project and run the metrics go to."""
    if tracker == "off":
        return done("nothing to do: monitor.trackio is off", "off")
    return done(f"project {local_trackio.PROJECT}, run {run.name}", local_trackio.PROJECT)


@task(**options("set up experiment dataset", timeout=600))
def set_up_experiment_dataset(run: Run) -> str:  # noqa: ARG001  # every step is told its run
    """Make sure there is an experiment dataset to push to."""
    return done("nothing to do: monitor.dataset is not set", "off")


@task(**{**options("monitor system", timeout=30 * DAYS), **BESIDE})
def monitor_system(run: Run, host: Journal, stop: threading.Event) -> int:
    """Sample the machine into `host.jsonl`."""
    if runs.status(run.path) in runs.FINISHED:
        return done("nothing to do: the run is finished", 0)
    samples = system.watch(host, run.path, run.config.monitor.system_interval, stop)
    return done(f"{samples} samples", samples)


@task(**{**options("monitor trackio", timeout=30 * DAYS, retries=5, delays=(1, 2, 5, 10, 30)), **BESIDE})
def monitor_trackio(run: Run, stop: threading.Event) -> int:
    """Carry the journals to Trackio."""
    if run.config.monitor.trackio == "off":
        return done("nothing to do: monitor.trackio is off", 0)
    delivered = monitoring.follow("trackio", run, stop)
    return done(f"{delivered} records delivered", delivered)


@task(**{**options("monitor dataset", timeout=30 * DAYS), **BESIDE})
def monitor_dataset(run: Run, stop: threading.Event) -> int:  # noqa: ARG001  # as its siblings
    """Carry the journals to the experiment dataset."""
    return done("nothing to do: monitor.dataset is not set", 0)
