"""A Prefect server with everything registered and its workers, each in a folder of its own, as on several machines."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    temporary_settings,
)
from prefect.states import Cancelling, Scheduled

from flows import pool_workers, server
from flows.pool_workers import POOLS
from smollm3_ft import journal

ROOT = Path(__file__).parent.parent


class Deployed(NamedTuple):
    """The server's client, and the folder of runs that the machines share."""

    client: SyncPrefectClient
    runs_dir: Path

    def start(self, deployment: str, name: str, sweep: dict[str, Any] | None = None, **config: Any) -> UUID:
        """Start a run of a deployment, as the UI does."""
        found = self.client.read_deployment_by_name(deployment)
        parameters: dict[str, Any] = {"config": {"name": name, "runs_dir": str(self.runs_dir), **config}}
        parameters |= {"sweep": sweep} if sweep is not None else {}
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def ended(self, run: UUID) -> FlowRun:
        """Wait for the end of a flow run."""
        return until(lambda: found if is_final(found := self.client.read_flow_run(run)) else None)

    def children(self, run: UUID) -> list[FlowRun]:
        parent = FlowRunFilterParentFlowRunId(any_=[run])
        return self.client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))

    def named(self, names: set[str]) -> list[FlowRun]:
        """The flow runs of these names."""
        only = FlowRunFilter(name=FlowRunFilterName(any_=sorted(names)))
        return self.client.read_flow_runs(flow_run_filter=only)

    def tasks(self, run: UUID) -> dict[str, list[str]]:
        """The states of a flow run's tasks by their names."""
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        found: dict[str, list[str]] = {}
        for one in self.client.read_task_runs(flow_run_filter=only):
            found.setdefault(one.name, []).append(str(one.state_name))
        return {name: sorted(states) for name, states in found.items()}

    def executions(self, run: UUID) -> dict[str, int]:
        """How often each of a flow run's tasks was really run, by its name: what comes from the cache was not."""
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        found: dict[str, int] = {}
        for one in self.client.read_task_runs(flow_run_filter=only):
            count = 0 if one.state_name == "Cached" else one.run_count
            found[one.name] = found.get(one.name, 0) + count
        return found

    def artifacts(self, run: UUID) -> set[str]:
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        return {str(one.key) for one in self.client.read_artifacts(flow_run_filter=only)}

    def retry(self, run: UUID) -> None:
        """What the UI's button does."""
        self.client.set_flow_run_state(run, Scheduled(name="AwaitingRetry"), force=True)

    def cancel(self, run: UUID) -> None:
        self.client.set_flow_run_state(run, Cancelling())

    def saved(self, name: str, step: int) -> int:
        """Wait for a checkpoint of this step or a later one. Returns the newest one's step."""
        return int(until(lambda: self.has_saved(name, step)))

    def has_saved(self, name: str, step: int) -> int:
        """The newest checkpoint's step, if it is this one or a later one; otherwise 0."""
        path = self.runs_dir / name / "metrics.jsonl"
        steps = [r.step for r in journal.read(path) if r.values.get("what") == "checkpoint" and r.step]
        newest = max(steps, default=0)
        return newest if newest >= step else 0


def is_final(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def until(found: Callable[[], Any], seconds: float = 180) -> Any:
    """Wait for something to be there."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
    return value


def processes_of(*words: str) -> list[psutil.Process]:
    """Processes with one of the words in their command line or their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), process.environ().get("PREFECT__FLOW_RUN_ID", "")])
        except psutil.Error:
            continue
        if any(word in text for word in words) and process.pid != os.getpid():
            found.append(process)
    return found


@contextmanager
def opened(folder: Path, *more: str) -> Iterator[Deployed]:
    """Server, deployments, and a worker for each pool; `more` of them by their names, `cuda-2` for `cuda`."""
    told = {"PREFECT_HOME": str(folder / "home"), "DO_NOT_TRACK": "1"}
    told |= {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}  # by itself it looks once a minute
    os.environ |= told
    with server.running(folder / "runs") as prefect:
        settings = {
            PREFECT_API_URL: prefect.api,
            PREFECT_API_AUTH_STRING: prefect.password,
            PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True,
        }
        with temporary_settings(settings), get_client(sync_client=True) as client:
            register = [sys.executable, "-m", "flows.up", "deploy"]
            subprocess.run(register, cwd=ROOT, check=True, capture_output=True)
            started = []
            for name in (*POOLS, *more):
                place = folder / f"machine-{name}"
                place.mkdir()
                with (folder / f"{name}.log").open("wb") as log:
                    worker = pool_workers.Worker(name.partition("-")[0], name, {"PREFECT_WORKER_QUERY_SECONDS": "1"})
                    started.append((worker, pool_workers.start(worker, place, log)))
            try:
                yield Deployed(client, folder / "runs")
            finally:
                pool_workers.stop(started)
                for process in server.STARTED:  # one that was asked much takes a third of a minute to end by itself
                    process.kill()
                    process.wait()
    for name in told:
        del os.environ[name]
