"""What the benchmarks on a Prefect server do with flow runs: wait for one, and kill its process."""

import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient

from tasks.steps import UNREACHABLE

Found = TypeVar("Found")
SECONDS = 1200


def until(found: Callable[[], Found | None]) -> Found:
    """Wait for something to be there, or to be true; a server that is away is waited for."""
    deadline, away = time.monotonic() + SECONDS, None
    while True:
        try:
            if value := found():
                return value
            away = None
        except UNREACHABLE as error:
            away = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came about in {SECONDS} seconds") from away
        time.sleep(0.2)


def ended(client: SyncPrefectClient, run: UUID, starts: int = 0) -> str:
    """Wait for the end of a flow run, started at least so often. Returns its state's name."""

    def final() -> str | None:
        now = client.read_flow_run(run)
        return now.state_name if now.run_count >= starts and now.state is not None and now.state.is_final() else None

    return until(final)


def kill_process(run: UUID) -> None:
    """Kill the process of a flow run, and no other."""
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("PREFECT__FLOW_RUN_ID") == str(run)
            if mine and "prefect.engine" in process.cmdline():
                process.kill()
        except psutil.Error:
            continue  # another user's, or it has just ended
