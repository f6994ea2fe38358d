"""The part of a run that needs the device, done by a worker of a pool: a flow run of its own, the child.

The child is started once for a flow run, followed to its end, resumed by a retry, and ended with whoever waits for it.
What it made is read from the run's folder, which both see.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from prefect import Task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Cancelling, Crashed, Scheduled

from smollm3_ft import errors, files, fit
from smollm3_ft.config import Config, pool_of
from smollm3_ft.errors import ConfigError, FinetuneError, Problem, ProcessDied, Stopped, TrainingError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.report import Step
from smollm3_ft.runs import Run
from tasks import steps
from tasks.evaluating import Evaluated
from tasks.following import Follower
from tasks.steps import DAYS, UNREACHABLE, call, crash_what_stands_as_running, done, log, options, task
from tasks.training import Trained, finished

TOLD = "device.json"  # in a run's folder: the steps of the child that completed
SECONDS_BETWEEN_LOOKS = 1
SECONDS_TO_END = 25  # the worker that ends a cancelled parent gives it 30
SECONDS_WITHOUT_SERVER = 600


def check(config: Config, *besides: str) -> None:
    """Raise ConfigError where a pool is to train, and the Prefect server has no deployment to start on it."""
    pool = pool_of(config)
    if pool is None:
        return
    with get_client(sync_client=True) as client:
        for name in (*besides, _deployment(pool)):
            try:
                client.read_deployment_by_name(name)
            except ObjectNotFound:
                what = f"the Prefect server has no deployment {name}"
                remedy = "register it (`make deploy`), or train here with compute.pool=none"
                raise ConfigError(Problem("compute.pool", what, remedy)) from None


def _deployment(pool: str) -> str:
    return f"train/{pool}"


def _by_the_child(name: str) -> Task[[Run, str], str]:
    """A step of the design that the child does: here it only says so."""

    @task(**options(name, timeout=120))
    def step(run: Run, pool: str) -> str:  # noqa: ARG001  # every step is told its run
        return done(f"done by a worker of pool {pool}, in the child run that `train` starts", pool)

    return step


FIT_TO_DEVICE, EVALUATE_BASE, EVALUATE_TUNED, MONITOR_SYSTEM = map(
    _by_the_child, ("fit to device", "evaluate base", "evaluate tuned", "monitor system")
)


# A worker with a limit dies of a run that comes back before it has freed that run's slot: it is given time for that.
@task(**options("train", timeout=30 * DAYS, retries=3, delays=(10, 30, 60)))
def train(run: Run, pool: str, kept: Trained | None) -> Trained:
    """Let a worker fit, evaluate, train and evaluate; a retry resumes the same child."""
    if kept is not None:
        return kept
    with get_client(sync_client=True) as client:
        try:
            child = _follow(client, run, _start(client, run, pool))
        except BaseException:
            end_children_of(client, uuid.UUID(str(flow_run.id)))
            raise
    check_ended(child)
    made = finished(run)
    if made is None:
        what = f"the child run {child.name} completed, and {run.path} does not hold what it made"
        raise TrainingError(what, "mount runs_dir at the same place on all machines")
    return done(f"trained by the child run {child.name}", made[1])


def train_on_pool(run: Run, pool: str) -> tuple[TrainingPlan, Trained, Evaluated]:
    """Have everything done that needs the device."""
    call(FIT_TO_DEVICE, run, pool)
    call(EVALUATE_BASE, run, pool)
    made = finished(run)
    call(train, run, pool, fingerprint=run.run_id, kept=made and made[1])
    call(EVALUATE_TUNED, run, pool)
    if made is None:
        _record_what_the_child_took(run)
        made = finished(run)
    assert made is not None
    return made


def close_former_attempt() -> None:
    """Say in Prefect what became of the steps that this child was at when it was killed. Called before its first."""
    crashed: State[None] = Crashed(message="The process was killed; this flow run goes on.")
    with get_client(sync_client=True) as client:
        crash_what_stands_as_running(client, uuid.UUID(str(flow_run.id)), crashed)


def tell(run: Run) -> None:
    """Leave in the run's folder how each step of this child ended, and how long it took, for its parent's report."""
    files.write_json(run.path / TOLD, {"steps": [step._asdict() for step in steps.HERE.get()]})


def _record_what_the_child_took(run: Run) -> None:
    """In the report a step is what the child did, and not how long it was waited for."""
    told = {one["name"]: Step(**one) for one in files.read_json(run.path / TOLD)["steps"]}
    here = steps.HERE.get()
    here[:] = [told.get(step.name, step) for step in here]


def _start(client: SyncPrefectClient, run: Run, pool: str) -> FlowRun:
    """The child of this flow run: started now, or found as an earlier attempt left it, and resumed."""
    key = f"train-{flow_run.id}"
    before = found(client, key)
    if before is None:
        parameters = {"run": str(run.path)}
        child: FlowRun = run_deployment(  # type: ignore[assignment]  # it is awaitable only where something awaits
            _deployment(pool), parameters=parameters, flow_run_name=run.name, timeout=0, idempotency_key=key
        )
        log.info("child run %s waits for a worker of pool %s", child.name, pool)
        return child
    if before.state is not None and before.state.is_final():
        resume(client, before)
    return client.read_flow_run(before.id)


def found(client: SyncPrefectClient, key: str) -> FlowRun | None:
    """The flow run that was started with this key."""
    only = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    return next(iter(client.read_flow_runs(flow_run_filter=only)), None)


def resume(client: SyncPrefectClient, child: FlowRun) -> None:
    """Let a flow run that has ended go on, as Retry in the UI does."""
    log.info("child run %s is resumed", child.name)
    resumed: State[Any] = Scheduled(name="AwaitingRetry", message="Its parent goes on.")
    client.set_flow_run_state(child.id, resumed, force=True)


def _follow(client: SyncPrefectClient, run: Run, child: FlowRun) -> FlowRun:
    """Wait for the child's end, and show the training's journal meanwhile. A server that is away is waited for."""
    follower: Follower | None = None
    state, seen = "", time.monotonic()
    while child.state is None or not child.state.is_final():
        if child.state_name != state:
            state = child.state_name or ""
            late = "; no worker has taken it yet (`make worker` starts one)" if state == "Late" else ""
            log.info("child run %s: %s%s", child.name, state, late)
        if follower is None and (run.path / "plan.json").is_file():
            follower = Follower(fit.read(run.path / "plan.json"))
        if follower is not None:
            follower.tick()
        time.sleep(SECONDS_BETWEEN_LOOKS)
        try:
            child, seen = client.read_flow_run(child.id), time.monotonic()
        except UNREACHABLE:
            if time.monotonic() - seen > SECONDS_WITHOUT_SERVER:
                raise
            log.warning("the Prefect server does not answer; the child goes on without it")
    if follower is not None and child.state.is_completed():
        follower.finish()
    return child


def check_ended(child: FlowRun) -> None:
    """Raise what ended the child, in its own words, unless it completed."""
    assert child.state is not None
    if child.state.is_completed():
        return
    said = child.state.message or "it said nothing"
    if child.state.is_cancelled():
        raise Stopped(f"the child run {child.name} was cancelled", "go on with the same command, or retry")
    if child.state.is_crashed():
        raise ProcessDied(f"the child run {child.name} crashed: {said}", "go on with the same command, or retry")
    kind, _, words = said.removeprefix("Flow run encountered an exception: ").partition(": ")
    known = getattr(errors, kind, FinetuneError)
    if known is ConfigError:
        raise ConfigError(Problem("train", words))
    if known in (errors.DataError, errors.HubUnreachable, errors.RunBusy, Stopped):
        raise known(words)
    raise TrainingError(f"the child run {child.name} failed: {words or said}", "see its own log")


def end_children_of(client: SyncPrefectClient, parent: uuid.UUID) -> None:
    """End what a flow run has, or left, at work on pools, and wait until nothing of it works on a run."""
    try:
        children = _at_work(client, parent)
        for child in children:
            _tell_to_end(client, child)
        deadline = time.monotonic() + SECONDS_TO_END
        while children and time.monotonic() < deadline:
            time.sleep(0.5)
            children = _at_work(client, parent)
    except UNREACHABLE as error:
        log.warning("what works on the pool could not be told to end: %s", error)
        return
    for child in children:
        log.warning("child run %s was told to end, and has not done so yet", child.name)


def _at_work(client: SyncPrefectClient, parent: uuid.UUID) -> list[FlowRun]:
    """The children that have not ended, but for those that were a part of the parent's own process."""
    ended = FlowRunFilterStateType(not_any_=[*TERMINAL_STATES])
    only = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]), state=FlowRunFilterState(type=ended)
    )
    return [child for child in client.read_flow_runs(flow_run_filter=only) if child.deployment_id is not None]


def _tell_to_end(client: SyncPrefectClient, child: FlowRun) -> None:
    message = "Its parent was ended."
    if child.state is not None and child.state.is_scheduled():  # nobody works on it, and nobody would answer
        client.set_flow_run_state(child.id, Cancelled(message=message), force=True)
    else:
        client.set_flow_run_state(child.id, Cancelling(message=message))
