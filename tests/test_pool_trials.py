"""The trials of a sweep on a pool, without a server: how many at once, and what becomes of each."""

import datetime
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import configure
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType, Worker, WorkerStatus
from prefect.states import Cancelled, Crashed, Failed, Running

from flows import sweep
from smollm3_ft import pruning, searchspace, sweeping, trials
from smollm3_ft.errors import DataError, HubUnreachable, RunBusy
from smollm3_ft.sweeping import Search
from smollm3_ft.trials import Trial
from tasks import pool_trials
from tasks.pool_trials import Child

LONG_AGO = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
BECAUSE = "Flow run encountered an exception: "
Begin = Callable[..., tuple[Search, Trial]]


class Server(NamedTuple):
    """What the Prefect server is asked here: one flow run, and the workers of a pool."""

    run: FlowRun
    workers: tuple[WorkerStatus, ...] = ()

    def read_flow_run(self, _id: uuid.UUID) -> FlowRun:
        return self.run

    def read_flow_runs(self, *, flow_run_filter: FlowRunFilter) -> list[FlowRun]:
        assert flow_run_filter.idempotency_key is not None
        return [self.run]

    def set_flow_run_state(self, _id: uuid.UUID, state: State[Any], *, force: bool) -> None:
        assert force
        self.run.state = state

    def read_workers_for_work_pool(self, pool: str) -> list[Worker]:
        return [Worker(name=f"{pool}-{n}", work_pool_id=uuid.uuid4(), status=one) for n, one in enumerate(self.workers)]


def served(state: State[Any], *workers: WorkerStatus) -> Any:
    return Server(FlowRun(flow_id=uuid.uuid4(), name="s-1", state=state, state_name=state.name), workers)


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """A sweep, and its first trial."""

    def work(**given: Any) -> tuple[Search, Trial]:
        space = {"train.learning_rate": {"low": 1e-6, "high": 1e-2, "log": True}}
        asked = searchspace.read({"sweep": {"trials": 8, "space": space, **given}})
        config = configure(name="s", runs_dir=str(tmp_path), compute__pool="cuda")
        search = sweeping.begin(config, asked)
        trial = trials.next_trial(search)
        assert trial is not None
        return search, trial

    return work


@pytest.mark.parametrize(
    ("parallel", "there", "gone", "at_once"),
    [("auto", 3, 1, 3), ("auto", 0, 1, 1), (2, 3, 0, 2), (4, 3, 0, 3), (4, 0, 0, 1)],
)
def test_as_many_trials_at_once_as_there_are_workers(
    begin: Begin, parallel: str | int, there: int, gone: int, at_once: int
) -> None:
    """Those that are online; a number is the most; one, where there is none yet."""
    search, _ = begin(parallel=parallel)
    server = served(Running(), *[WorkerStatus.ONLINE] * there, *[WorkerStatus.OFFLINE] * gone)
    assert pool_trials.at_once(server, search, "cuda") == at_once


def test_a_trial_at_work_stays_so(begin: Begin) -> None:
    """And so does one that somebody cancelled: it may be that its worker was ended, and the sweep with it."""
    search, trial = begin()
    for state in (Running(), Cancelled()):
        server = served(state)
        child = pool_trials.look(server, search, Child(trial, server.run))
        assert isinstance(child, Child)
        assert child.is_cancelled == (state.type == StateType.CANCELLED)
        assert server.run.state.type == state.type


@pytest.mark.parametrize(("state", "goes_on"), [(Running(), "Running"), (Cancelled(), "AwaitingRetry")])
def test_a_sweep_that_goes_on_finds_its_trials(begin: Begin, state: State[Any], goes_on: str) -> None:
    """None is started again; those that were cancelled with it go on."""
    search, trial = begin()
    server = served(state)
    child = pool_trials.begin(server, search, "cuda", trial)
    assert child == Child(trial, server.run)
    assert server.run.state.name == goes_on


def test_a_trial_that_fails_is_noted_with_its_cause(begin: Begin) -> None:
    """In the words of its run."""
    search, trial = begin()
    server = served(Failed(message=f"{BECAUSE}OutOfMemory: it does not fit"))
    told = pool_trials.look(server, search, Child(trial, server.run))
    assert told == trials.listed(search)[0]
    assert told.state == "failed"
    assert "it does not fit" in told.cause


def test_a_pruned_trial_is_noted_as_such(begin: Begin) -> None:
    """However its run ended."""
    search, trial = begin()
    pruning.prune(search.runs_dir / trial.name, "loss 9 is worse")
    server = served(Failed(message=f"{BECAUSE}Stopped: pruned: loss 9 is worse"))
    told = pool_trials.look(server, search, Child(trial, server.run))
    assert told == trials.listed(search)[0]
    assert (told.state, told.cause) == ("pruned", "loss 9 is worse")


def resumed_as_often_as_it_may(search: Search, trial: Trial, state: State[Any]) -> Child:
    """A trial that ended in this state again and again, and was resumed each time."""
    child = Child(trial, served(state).run)
    for number in range(1, 1 + pool_trials.RESUMED):
        server = served(state)
        now = pool_trials.look(server, search, child)
        assert isinstance(now, Child)
        assert server.run.state.name == "AwaitingRetry"
        assert now.resumed == number
        child = now
    return child


@pytest.mark.parametrize("error", [RunBusy, HubUnreachable])
def test_a_trial_that_is_kept_from_its_work_is_resumed(begin: Begin, error: type[Exception]) -> None:
    """Three times; then the sweep fails with what it was, and the trial is unfinished."""
    search, trial = begin()
    state = Failed(message=f"{BECAUSE}{error.__name__}: not now", timestamp=LONG_AGO)
    child = resumed_as_often_as_it_may(search, trial, state)
    with pytest.raises(error):
        pool_trials.look(served(state), search, child)
    assert trials.listed(search)[0].state == "unfinished"


def test_a_trial_that_crashes_is_resumed(begin: Begin) -> None:
    """Three times; then it is noted as failed, and the sweep has its other trials."""
    search, trial = begin()
    state = Crashed(message="exited with -9", timestamp=LONG_AGO)
    told = pool_trials.look(served(state), search, resumed_as_often_as_it_may(search, trial, state))
    assert told == trials.listed(search)[0]
    assert told.state == "failed"
    assert "exited with -9" in told.cause


def test_a_trial_is_resumed_when_what_is_left_of_it_may_have_ended(begin: Begin) -> None:
    """Not at once."""
    search, trial = begin()
    server = served(Crashed(message="exited with -9"))
    assert pool_trials.look(server, search, Child(trial, server.run)) == Child(trial, server.run)
    assert server.run.state.type == StateType.CRASHED


def test_a_sweep_whose_report_cannot_be_written_says_what_failed_first(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full then is not what ended it."""
    search, _ = begin()

    def fails(error: Exception) -> Callable[..., None]:
        def work(*_: Any) -> None:
            raise error

        return work

    monkeypatch.setattr(sweep, "call", lambda *_: search)
    for name in ("close_former", "name_flow_run"):
        monkeypatch.setattr(sweep, name, lambda _: None)
    monkeypatch.setattr(sweep, "_trials", fails(DataError("no rows")))
    monkeypatch.setattr(sweep.sweepreport, "write", fails(OSError("no space left")))
    with pytest.raises(DataError, match="no rows"):
        sweep.sweep_flow.fn(search.config, search.sweep)


@pytest.mark.parametrize("here", [True, False])
def test_a_trial_whose_values_leave_no_data_is_noted_as_failed(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    """Here and on a pool alike: others may have some, and three in a row end the sweep."""
    search, trial = begin()
    server = served(Failed(message=f"{BECAUSE}DataError: no rows"))

    def without_rows(*_: Any) -> None:
        raise DataError("no rows")

    monkeypatch.setattr(sweep, "call", without_rows)
    told = sweep._tried(search, trial) if here else pool_trials.look(server, search, Child(trial, server.run))
    assert told == trials.listed(search)[0]
    assert (told.state, told.cause) == ("failed", "no rows")
