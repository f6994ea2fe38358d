"""Workers that are started again when they die: real processes, which only say that they are Prefect's."""

import http.server
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from deployed import until
from prefect.client import orchestration
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Running

from flows import pool_workers, session
from flows.pool_workers import Kept, Worker
from smollm3_ft.errors import FinetuneError

pytestmark = pytest.mark.process

WORKS = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import signal; signal.pause()"])
"""


@pytest.fixture(autouse=True)
def _a_server_that_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers are not started again before there is one; and nobody waits for long."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as answering:
        thread = threading.Thread(target=answering.serve_forever)
        thread.start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{answering.server_port}/api")
        monkeypatch.setattr(pool_workers, "DELAYS", (0, 0))
        yield
        answering.shutdown()
        thread.join()


def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str, code: str) -> Kept:
    """A worker that runs `code` instead of Prefect's."""
    monkeypatch.setattr(pool_workers, "PREFECT", [sys.executable, "-c", code])
    worker = Worker(pool, "one", {})
    log = tmp_path / "log"
    return Kept(worker, log, pool_workers.start_with(worker, log), time.monotonic())


def child_of(one: Kept) -> psutil.Process | None:
    return next(iter(psutil.Process(one.process.pid).children()), None)


def test_a_worker_that_ends_at_once_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After as many tries as there are delays, with a line for each, and one that says where to look."""
    one = kept(tmp_path, monkeypatch, "default", "print('no such pool'); raise SystemExit(3)")
    with pytest.raises(FinetuneError) as caught:
        until(lambda: pool_workers.look_after([one]))
    assert caught.value.message == "worker one ended at once 3 times, the last time with exit code 3"
    assert caught.value.remedy == f"see {one.log}, which ends: no such pool"
    assert capsys.readouterr().out.count("Worker one is started again") == 2


def test_a_device_is_not_given_away_while_a_killed_worker_s_run_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it ran goes on without it; only then is it started again."""
    one = kept(tmp_path, monkeypatch, "cuda", WORKS)
    run = until(lambda: child_of(one))
    one.process.kill()
    one.process.wait()
    for _ in range(3):
        pool_workers.look_after([one])
    assert one.process.returncode is not None
    run.kill()
    until(lambda: pool_workers.look_after([one]) or one.due is None)
    assert one.process.poll() is None
    pool_workers.stop([(one.worker, one.process)])


def test_what_a_killed_worker_left_is_ended_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever its parent is by then."""
    one = kept(tmp_path, monkeypatch, "default", WORKS)
    run = until(lambda: child_of(one))
    one.process.kill()
    one.process.wait()
    assert pool_workers.of(one.worker) == [run]
    pool_workers.stop([(one.worker, one.process)])
    assert pool_workers.of(one.worker) == []


class Client:
    """What the Prefect server is told here: the first flow run was deleted, the others end when they are cancelled."""

    def __init__(self, deleted: uuid.UUID) -> None:
        self.deleted, self.cancelled = deleted, set[uuid.UUID]()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_flow_run_state(self, run: uuid.UUID, _state: object) -> None:
        if run == self.deleted:
            raise ObjectNotFound(Exception("404"))
        self.cancelled.add(run)

    def read_flow_run(self, run: uuid.UUID) -> FlowRun:
        if run == self.deleted:
            raise ObjectNotFound(Exception("404"))
        return FlowRun(flow_id=uuid.uuid4(), state=Cancelled() if run in self.cancelled else Running())


def test_a_flow_run_that_was_deleted_keeps_no_other_from_being_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is ended with its worker."""
    runs = [uuid.uuid4() for _ in range(3)]
    client, left = Client(runs[0]), iter(runs)
    monkeypatch.setattr(orchestration, "get_client", lambda **_: client)
    monkeypatch.setattr(pool_workers, "of", lambda _: runs)
    monkeypatch.setattr(pool_workers, "_flow_run_of", lambda _: next(left))
    pool_workers.cancel_runs_of([Worker("default", "one", {})])
    assert client.cancelled == set(runs[1:])


def test_workers_end_however_their_runs_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong when those are cancelled is raised when the workers have ended; nobody's signal disturbs it."""
    stopped: list[object] = []

    def odd(_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("odd")

    monkeypatch.setattr(pool_workers, "cancel_runs_of", odd)
    monkeypatch.setattr(pool_workers, "stop", stopped.append)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="odd"), pool_workers.running(tmp_path, pools=()):
        signal.signal(signal.SIGTERM, session.terminated)
    assert stopped == [[]]
    assert signal.signal(signal.SIGTERM, before) is session.terminated
