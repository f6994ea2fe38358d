"""The steps before any data is read: configuration, environment, authentication, plan."""

from __future__ import annotations

import contextlib
import datetime
import uuid
from pathlib import Path

import yaml
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from smollm3_ft import (
    demospace,
    devices,
    doctor,
    files,
    hubclient,
    locks,
    models,
    permission,
    plan,
    pruning,
    publishing,
    resolve,
    runs,
)
from smollm3_ft.config import Config, pool_of, tracker_of
from smollm3_ft.errors import ConfigError, HubUnreachable, Problem
from smollm3_ft.plan import Plan
from smollm3_ft.runs import Run
from smollm3_ft.sweeping import Search
from tasks import remote
from tasks.steps import HERE, call, crash_what_stands_as_running, done, log, options, task

FLOW_RUN = ".flow-run"  # in a run's folder: the id of the flow run that works, or last worked, on it
PATIENCE = 10.0  # seconds with a Hub that does not answer


@task(**options("resolve configuration", timeout=120, retries=0))
def resolve_configuration(config: Config) -> Run:
    """Fill in every key, settle the name once for this flow run, and begin or find the run's folder."""
    resolved = resolve.resolve(config).config
    runs_dir = Path(resolved.runs_dir)
    plan.check_writable(runs_dir)
    if resolved.name is None:
        started = flow_run.scheduled_start_time or datetime.datetime.now(datetime.UTC)
        resolved = resolved.model_copy(update={"name": runs.new_name(runs_dir, started)})
    assert resolved.name is not None
    with locks.hold(runs_dir, resolved.name):
        run = runs.begin(resolved)
        pruning.take_back(run.path)
        text = yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        files.write(run.path / "config.yaml", text)
    return run


@task(**options("check environment", timeout=120, retries=0))
def check_environment(run: Run) -> str:
    """What doctor says of this machine: Python, packages, torch and its driver, memory, kernels, disk."""
    remote.check(run.config)
    found = {name: look() for name, look in doctor.of_this_machine(run.path.parent).items()}
    del found["cache"]  # what is to be downloaded says for itself where it cannot be kept
    if pool_of(run.config) is not None:
        del found["torch"]  # another machine's trains
    faults = [Problem(name, one.detail, one.remedy) for name, one in found.items() if one.status == "fault"]
    if faults:
        raise ConfigError(*faults)
    device = devices.detect()
    return done(f"{device.name}; {found['disk'].detail}; packages: {found['packages'].detail}", device.name)


@task(**options("authenticate", timeout=600))
def authenticate(run: Run) -> str:
    """Who the Hub says we are, and whether it lets us have the model and publish, where the run talks to it.

    One that only takes metrics, and is away or against it, fails nothing.
    """
    config = run.config
    publishes = publishing.goes_to_the_hub(run)
    needed = publishes or _reads_from_the_hub(config)
    if not needed and config.monitor.dataset is None and tracker_of(config) != "space":
        return done("nothing to do: no step of this run talks to the Hub", "none")
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None and not publishes:
        return done("no token: public models and datasets only (set HF_TOKEN for others)", "none")
    try:
        name = str(hubclient.insist(permission.account, PATIENCE)["name"])
    except (HubUnreachable, ConfigError, HfHubHTTPError) as error:
        if needed:
            raise
        log.warning("authenticate: %s", error)
        return done(f"not now: {hubclient.cause(error)}; training goes on, and what it logs waits", "none")
    if models.is_on_hub(config.model.name):
        hubclient.insist(lambda: permission.check_model(hubclient.api(), config.model.name), PATIENCE)
    said = f"the Hub knows us as {name}"
    if publishes:
        said += f"; {permission.check(config.publish, run.name, PATIENCE)}"
        demospace.check(config, permission.repository(config.publish, run.name, PATIENCE), PATIENCE)
    return done(said, name)


def _reads_from_the_hub(config: Config) -> bool:
    sources = config.data.source if isinstance(config.data.source, tuple) else ()
    names = [config.model.name, *(source.source for source in sources)]
    if isinstance(config.data.source, str):
        names.append(config.data.source)
    return not all(name.startswith("builtin:") or Path(name).exists() for name in names)


@task(**options("plan", timeout=600))
def make_plan(run: Run, kept: Plan | None) -> Plan:
    """Pin every revision, check what can be checked, estimate."""
    made = kept or plan.make(run.config, run.reproduces.revisions if run.reproduces else None)
    runs.save(run.model_copy(update={"plan": made}))
    create_markdown_artifact(plan.markdown(made, {}), key="plan", description=f"Plan of {run.name}")
    return made


def plan_run(run: Run) -> Plan:
    """The run's plan, made once: a run that goes on, or is retried, keeps its revisions."""
    return call(make_plan, run, fingerprint=run.run_id, kept=runs.read(run.path).plan)


def check_retried(run: Run) -> None:
    """Raise ConfigError for what changed since the run began: a retry has its first step done, which checks that."""
    if HERE.get()[-1].cached and runs.status(run.path) not in runs.FINISHED:
        runs.check_unchanged(runs.read(run.path))


def close_former(run: Run | Search) -> None:
    """Say in Prefect what became of the flow run that worked on this run or sweep before, if it was killed.

    Called under its lock: whoever held it is dead, so what still stands as running does not run.
    """
    path, here = run.path / FLOW_RUN, str(flow_run.id)
    former = path.read_text(encoding="utf-8").strip() if path.is_file() else here
    if former != here:
        crashed: State[None] = Crashed(message=f"The process was killed; flow run {here} goes on with {run.name}.")
        with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):  # it was another server's
            found = client.read_flow_run(uuid.UUID(former))
            remote.end_children_of(client, found.id)
            if found.state is not None and not found.state.is_final():
                client.set_flow_run_state(found.id, crashed, force=True)
                crash_what_stands_as_running(client, found.id, crashed)
    files.write(path, here)


def name_flow_run(run: Run | Search) -> None:
    """Give the flow run the name that was settled for what it works on."""
    if flow_run.name != run.name:
        with get_client(sync_client=True) as client:
            client.update_flow_run(uuid.UUID(str(flow_run.id)), name=run.name)
