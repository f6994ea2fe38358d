"""Workers that are started again when they die: real processes, which only say that they are Prefect's."""

import http.server
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from deployed import until

from flows import pool_workers
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
