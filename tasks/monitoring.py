"""The steps beside the training: where metrics go is set up before it, and they are carried there while it runs."""

from __future__ import annotations

import threading
from pathlib import Path

from smollm3_ft import runs, system
from smollm3_ft.config import tracker_of
from smollm3_ft.errors import Undelivered
from smollm3_ft.journal import Journal
from smollm3_ft.monitoring import dataset_sink, delivery, local_trackio, remote_trackio, trackio_rows, trackio_space
from smollm3_ft.runs import Run
from tasks.setup import PATIENCE
from tasks.steps import ANEW, done, log, options, task


@task(**options("deploy tracker", timeout=600))
def deploy_tracker(run: Run) -> str:
    """Make sure there is a Trackio to write to. One that is away fails nothing: it is tried again while training."""
    target, kind = run.config.monitor.trackio, tracker_of(run.config)
    if kind == "off":
        return done("nothing to do: monitor.trackio is off", "off")
    if kind == "local":
        place = local_trackio.folder(Path(run.config.runs_dir))
        place.mkdir(parents=True, exist_ok=True)
        return done(f"nothing to deploy: Trackio keeps its data in {place}", str(place))
    if kind == "server":
        return done(f"nothing to deploy: {target} is a server of its own", target)
    try:
        return done(f"the Space {target} is there", trackio_space.address(target, run.config.monitor.private))
    except Undelivered as error:
        log.warning("deploy tracker: %s", error)
        return done(f"not now: {error}; training goes on, and what it logs waits", target)


@task(**options("configure tracker", timeout=600))
def configure_tracker(run: Run, tracker: str) -> str:
    """Say which Trackio project and run the metrics go to, and see that it takes them from us."""
    if tracker == "off":
        return done("nothing to do: monitor.trackio is off", "off")
    told = f"project {trackio_rows.PROJECT}, run {run.name}"
    if tracker_of(run.config) != "local":
        try:
            told += f" on {remote_trackio.check(run)}"
        except Undelivered as error:
            log.warning("configure tracker: %s", error)
            told += f"; not now: {error}; training goes on, and what it logs waits"
    return done(told, trackio_rows.PROJECT)


@task(**options("set up experiment dataset", timeout=600))
def set_up_experiment_dataset(run: Run) -> str:
    """Make sure there is an experiment dataset to push to. One that is away or not ours to write to fails nothing."""
    if run.config.monitor.dataset is None:
        return done("nothing to do: monitor.dataset is not set", "off")
    try:
        repo = dataset_sink.repository(run, PATIENCE)
        return done(dataset_sink.set_up(repo, run.config.monitor.private, PATIENCE), repo)
    except Undelivered as error:
        log.warning("set up experiment dataset: %s", error)
        return done(f"not now: {error}; training goes on, and what it logs waits", run.config.monitor.dataset)


# These three end when they are told to: a timeout could not reach into their threads.
@task(**{**options("monitor system", timeout=None), **ANEW})
def monitor_system(run: Run, host: Journal, stop: threading.Event) -> int:
    """Sample the machine into `host.jsonl`."""
    if runs.status(run.path) in runs.FINISHED:
        return done("nothing to do: the run is finished", 0)
    devices = run.config.compute.num_processes
    samples = system.watch(host, run.path, run.config.monitor.system_interval, stop, devices)
    return done(f"{samples} samples", samples)


@task(**{**options("monitor trackio", timeout=None, retries=5, delays=(1, 2, 5, 10, 30)), **ANEW})
def monitor_trackio(run: Run, stop: threading.Event) -> int:
    """Carry the journals to Trackio, first what earlier runs left. Failed where something still waits at the end."""
    if run.config.monitor.trackio == "off":
        return done("nothing to do: monitor.trackio is off", 0)
    return _carry("trackio", run, stop)


@task(**{**options("monitor dataset", timeout=None), **ANEW})
def monitor_dataset(run: Run, stop: threading.Event) -> int:
    """Carry the journals to the experiment dataset, first what earlier runs left."""
    if run.config.monitor.dataset is None:
        return done("nothing to do: monitor.dataset is not set", 0)
    return _carry("dataset", run, stop)


def _carry(name: str, run: Run, stop: threading.Event) -> int:
    try:
        left = delivery.deliver_left(name, run)
    except Undelivered as error:  # the next start tries again
        log.warning("monitor %s, of earlier runs: %s", name, error)
        left = 0
    there = delivery.follow(name, run, stop, lambda said: log.warning("monitor %s: %s", name, said))
    return done(f"{there.delivered} records are there" + (f", and {left} of earlier runs" if left else ""), left)
