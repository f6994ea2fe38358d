"""The trials of a sweep on a pool: each a flow run of its own, as many at once as the pool has workers.

A trial is a run of `finetune/trial`: its coordinator is a process of a worker of `default`, and it is trained by the
sweep's pool. So locks, signals, retries and logs are those of a single run, and a sweep that is killed takes no trial
with it. The sweep itself only starts trials, judges them by their journals, and notes how they ended.
"""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from prefect import Task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Pending

from smollm3_ft import pruning, trials
from smollm3_ft.errors import ConfigError, DataError, HubUnreachable, ProcessDied, RunBusy, Stopped, TrainingError
from smollm3_ft.sweeping import Search
from smollm3_ft.trials import Told, Trial
from tasks import remote
from tasks.steps import UNREACHABLE, log

DEPLOYMENT = "finetune/trial"
RESUMED = 3  # times, of a trial that was interrupted by no doing of its own
SECONDS_UNTIL_RESUMED = 10
Answer = TypeVar("Answer")


class Child(NamedTuple):
    """A trial at work: its flow run as last seen, how far its journal was read, and how often it was resumed."""

    trial: Trial
    run: FlowRun
    read: int = 0
    resumed: int = 0

    @property
    def is_cancelled(self) -> bool:
        return self.run.state is not None and self.run.state.is_cancelled()


def at_once(client: SyncPrefectClient, search: Search, pool: str) -> int:
    """Trials at a time: one for each worker of the pool that is there, and no more than the sweep says."""
    workers = answered(lambda: client.read_workers_for_work_pool(pool))
    there = sum(worker.status == WorkerStatus.ONLINE for worker in workers)
    most = there if search.sweep.parallel == "auto" else min(there, search.sweep.parallel)
    return max(1, most)


def begin(client: SyncPrefectClient, search: Search, pool: str, trial: Trial) -> Child | Told:
    """A trial's flow run: started now, or found as the sweep left it; one that was cancelled goes on."""
    key = f"trial-{flow_run.id}-{trial.name}"
    before = answered(lambda: remote.found(client, key))
    if before is not None:
        if before.state is not None and before.state.is_cancelled():
            answered(lambda: remote.resume(client, before))
        return Child(trial, answered(lambda: client.read_flow_run(before.id)))
    if trials.judged_hopeless(search, trial):  # by what it has from another flow run of this sweep
        return trials.pruned(search, trial, str(pruning.reason(search.runs_dir / trial.name)))
    try:
        config = trials.configuration(search, trial)
    except ConfigError as error:
        return trials.failed(search, trial, error.message)
    here = config.compute.model_copy(update={"pool": pool})  # a worker of `default` may have been told another one
    given = config.model_copy(update={"compute": here}).model_dump(mode="json")
    return Child(trial, answered(lambda: _start(client, trial.name, {"config": given}, key)))


def _start(client: SyncPrefectClient, name: str, parameters: dict[str, Any], key: str) -> FlowRun:
    """Start a trial's flow run below a task of its name, whose state Prefect keeps as the flow run's."""
    task: Task[[], None] = Task(_stands_for_a_flow_run, name="trial")
    above = client.create_task_run(task, uuid.UUID(str(flow_run.id)), dynamic_key=key, name=name, state=Pending())
    deployment = client.read_deployment_by_name(DEPLOYMENT)
    return client.create_flow_run_from_deployment(
        deployment.id, parameters=parameters, name=name, idempotency_key=key, parent_task_run_id=above.id
    )


def _stands_for_a_flow_run() -> None:
    """What Prefect needs as the task above a flow run; nobody calls it."""


def look(client: SyncPrefectClient, search: Search, child: Child) -> Child | Told:
    """A trial as it is now, and judged by its journal; what became of it, once it has ended."""
    before, trial = child.run, child.trial
    run = answered(lambda: client.read_flow_run(before.id))
    if run.state_name != before.state_name:
        log.info("%s: %s", trial.name, run.state_name)
    child = child._replace(run=run)
    if run.state is None or not run.state.is_final():
        return child._replace(read=trials.judge(search, trial, child.read))
    why = pruning.reason(search.runs_dir / trial.name)
    if child.is_cancelled and why is None:
        return child
    try:
        remote.check_ended(run)
    except (ConfigError, DataError, TrainingError) as error:
        if why is not None:
            return trials.pruned(search, trial, why)
        if isinstance(error, Stopped) or (isinstance(error, ProcessDied) and child.resumed < RESUMED):
            return _resumed(client, child, error)
        return trials.failed(search, trial, error.message)
    except (RunBusy, HubUnreachable) as error:
        return _resumed(client, child, error)
    return trials.completed(search, trial)


def _resumed(client: SyncPrefectClient, child: Child, error: Exception) -> Child:
    """A trial whose worker left, or died, goes on; a little later, so that what is left of it can end."""
    if child.resumed == RESUMED:
        raise error
    assert child.run.state is not None
    ended = child.run.state.timestamp
    if (datetime.datetime.now(datetime.UTC) - ended).total_seconds() < SECONDS_UNTIL_RESUMED:
        return child
    log.warning("%s: %s", child.trial.name, error)
    answered(lambda: remote.resume(client, child.run))
    return child._replace(resumed=child.resumed + 1)


def answered(ask: Callable[[], Answer]) -> Answer:
    """What the Prefect server says, once it does: one that is away is waited for, ten minutes."""
    began = time.monotonic()
    while True:
        try:
            return ask()
        except UNREACHABLE as error:
            refused = isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500
            if refused or time.monotonic() - began > remote.SECONDS_WITHOUT_SERVER:
                raise
            log.warning("the Prefect server does not answer; the trials go on without it")
            time.sleep(remote.SECONDS_BETWEEN_LOOKS)
