"""What all steps share: their options, how one is called, and the record of what became of each.

A step's fingerprint is its cache key. What decides whether it is done again is the library's own record of its output
(`kept`): an output that is gone or altered is no hit, whatever Prefect has stored.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

import httpx
import prefect
from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from prefect.states import Completed

from smollm3_ft import redaction
from smollm3_ft.errors import (
    ConfigError,
    DataError,
    FinetuneError,
    ProcessDied,
    PublishError,
    RunBusy,
    Stopped,
    TrainingError,
    Undelivered,
)
from smollm3_ft.report import Step

Asked = ParamSpec("Asked")
Result = TypeVar("Result")
log = logging.getLogger("smollm3_ft.steps")
log.addFilter(redaction.Filter())
logging.getLogger("smollm3_ft").setLevel(logging.INFO)  # Prefect takes it to a run's page, and by itself warnings alone
HERE: ContextVar[list[Step]] = ContextVar("steps")
DAYS = 24 * 3600
ANEW: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}  # of a step that a retry does again
UNREACHABLE = (httpx.TransportError, PrefectHTTPStatusError)  # how a Prefect server fails that is away
NEVER_HELPS = (ConfigError, DataError, PublishError, RunBusy, Stopped, Undelivered)  # delivery.py tries by itself


def task(**given: Any) -> Callable[[Callable[Asked, Result]], Task[Asked, Result]]:
    """Prefect's decorator, of a step whose errors hold no secret: Prefect stores them, with all that hangs on them."""
    return lambda work: prefect.task(**given)(redaction.guarded(work))


def flow(**given: Any) -> Callable[[Callable[Asked, Result]], Flow[Asked, Result]]:
    """The same of a flow, for what goes wrong between its steps; a server that is away is said in words."""

    def decorated(work: Callable[Asked, Result]) -> Flow[Asked, Result]:
        @functools.wraps(work)
        def done(*arguments: Asked.args, **named: Asked.kwargs) -> Result:
            try:
                return work(*arguments, **named)
            except UNREACHABLE as error:
                raise away(error) from None

        return prefect.flow(**given)(redaction.guarded(done))

    return decorated


def away(error: Exception) -> FinetuneError:
    """How a Prefect server failed: not where it is, for reports are handed on."""
    said = f" (HTTP {error.response.status_code})" if isinstance(error, PrefectHTTPStatusError) else ""
    what = f"the Prefect server does not answer as it should{said}"
    return FinetuneError(what, "when it does, run the same command to go on")


def options(name: str, timeout: int | None, retries: int = 2, delays: tuple[float, ...] = (2, 10)) -> dict[str, Any]:
    """The options of the task `name`: `timeout` in seconds, `retries` after `delays`, where trying can help."""
    return {
        "name": name,
        "task_run_name": name,
        "retries": retries,
        "retry_delay_seconds": list(delays[:retries]) or None,
        "retry_condition_fn": may_pass,
        "timeout_seconds": timeout,
        "persist_result": True,
        # Within a flow run, a step that is done stays done when the flow run is retried.
        "cache_policy": CacheKeyFnPolicy(cache_key_fn=lambda *_: f"{name}-{flow_run.id}"),
    }


def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may pass by itself: never a user's mistake; of training, only a death by signal."""
    try:
        state.result()
    except NEVER_HELPS:
        return False
    except TrainingError as error:
        return isinstance(error, ProcessDied)
    except Exception:  # noqa: BLE001  # anything else may be the network or a busy disk
        return True
    return False


def call(
    step: Task[..., Result], *arguments: Any, fingerprint: str | None = None, kept: Result | None = None
) -> Result:
    """Run a step and record how it ended. With a `fingerprint`, its result is reused if `kept` says it is there."""
    if fingerprint is not None:
        policy = CacheKeyFnPolicy(cache_key_fn=lambda *_: f"{step.name}-{fingerprint}")
        step = step.with_options(cache_policy=policy, refresh_cache=kept is None)
        arguments = (*arguments, kept)
    started = time.monotonic()
    # For who watches the terminal; Prefect shows its own state.
    log.info("%s", step.name, extra={"step": step.name, "state": "Running", "send_to_api": False})
    name: str | None = "Crashed"
    try:
        state = cast("State[Result]", step(*arguments, return_state=True))
        name = state.name
    finally:
        record(step.name, name, time.monotonic() - started)
    result = state.result()
    # What Prefect has stored may lie in another folder of runs; what the library found here is what counts.
    return result if kept is None else kept


def record(name: str, state: str | None, seconds: float) -> None:
    """Note how a step of this flow run ended."""
    ended = Step(name, state or "Unknown", round(seconds, 3), state == "Cached")
    HERE.get().append(ended)
    details = {"step": name, "state": ended.state, "seconds": seconds}
    log.info("%s: %s, %.1f s", name, ended.state, seconds, extra=details)


@contextmanager
def beside(steps: Mapping[str, PrefectFuture[Any]], stop: threading.Event) -> Iterator[None]:
    """Let steps go on beside what is done meanwhile; tell them to stop when it ends, and record how they ended."""
    began = time.monotonic()
    try:
        yield
    finally:
        stop.set()
        wait(list(steps.values()))
        for name, future in steps.items():  # their failure never fails a training; the report says it
            record(name, future.state.name, time.monotonic() - began)


def crash_what_stands_as_running(client: SyncPrefectClient, run: uuid.UUID, crashed: State[None]) -> None:
    """Give the tasks of a flow run whose process was killed their true state."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    for one in client.read_task_runs(flow_run_filter=only):
        if one.state is not None and not one.state.is_final():
            client.set_task_run_state(one.id, crashed, force=True)


def done(message: str, value: Result) -> Result:
    """End a step with a message that its state shows. Prefect takes the value out of the state again."""
    return cast("Result", Completed(message=message, data=value))


def blocked(message: str, value: Result) -> Result:
    """As `done`, for a step or a flow run that did its part, and whose model the gate keeps from being published."""
    return cast("Result", Completed(name="Blocked", message=message, data=value))
