"""The workers of this machine: which, what each is told, started again when they die, and ended in order.

They end before the server: one without a server takes long to end. What they run is cancelled first, so that it saves,
and its state is true.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from flows import server
from smollm3_ft import devices
from smollm3_ft.environment import without_secrets
from smollm3_ft.errors import FinetuneError

ROOT = Path(__file__).parent.parent
POOLS = ("default", "cuda")
PREFECT = [sys.executable, "-m", "prefect"]
MARK = "SMOLLM3_FT_WORKER"  # in the environment of a worker and of all that it runs, whoever is their parent by then
SECONDS_BETWEEN_LOOKS = 2  # of a worker, for runs to start
SECONDS_TO_SAVE = 45
SECONDS_TO_STOP = 20
SECONDS_OF_A_LIFE = 60  # a worker that lives shorter died at once
DELAYS = (1, 5, 15, 30)  # seconds until it is started again; after as many deaths at once it is not


class Worker(NamedTuple):
    """A worker to start: its pool, its name, and what its environment has besides."""

    pool: str
    name: str
    environment: dict[str, str]


@dataclass
class Kept:
    """A worker that is started again when it dies: its process, and when that is due where it is dead."""

    worker: Worker
    log: Path
    process: subprocess.Popen[bytes]
    began: float
    deaths: int = 0  # at once, one after the other
    due: float | None = None


def planned() -> list[Worker]:
    """One worker for `default`, and one a device for `cuda`; without CUDA one, which trains on the CPU."""
    host = os.uname().nodename
    found = [Worker("default", f"{host}-default", {})]
    numbers = _cards()
    for number in numbers:
        found.append(Worker("cuda", f"{host}-cuda-{number}", {"CUDA_VISIBLE_DEVICES": number}))
    return found if numbers else [*found, Worker("cuda", f"{host}-cpu", {})]


def _cards() -> list[str]:
    """The devices that are to be used here, as CUDA_VISIBLE_DEVICES names them: CUDA stops at one that is not there."""
    if devices.detect().kind != "cuda":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    with devices.driver() as handles:
        named = visible.split(",") if visible else map(str, range(len(handles)))
        return [one.strip() for one, _ in zip(named, handles, strict=False)]


def environment_of(worker: Worker, environment: Mapping[str, str]) -> dict[str, str]:
    """What a worker is told. One of `cuda` fetches models and trains: it gets no token that may write, where it can."""
    found = {"PREFECT_WORKER_QUERY_SECONDS": str(SECONDS_BETWEEN_LOOKS), **environment, **worker.environment}
    found[MARK] = _mark(worker)
    if worker.pool == "default":
        return found
    token = environment.get("HF_READ_TOKEN") or environment.get("HF_TOKEN")
    return for_prefect(found) | ({"HF_TOKEN": token} if token else {})


def for_prefect(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment with no secret but those by which Prefect's server is talked to."""
    own = {name: environment.get(name) for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")}
    return without_secrets(environment) | {name: value for name, value in own.items() if value}


def start(worker: Worker, folder: Path = ROOT, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start a worker; one of `cuda` takes one run at a time. `output` gets what it prints."""
    limit = ["--limit", "1"] if worker.pool == "cuda" else []
    return subprocess.Popen(
        [*PREFECT, "worker", "start", "--pool", worker.pool, "--name", worker.name, *limit],
        cwd=folder,
        env=environment_of(worker, os.environ),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,  # Ctrl-C is for the command, which ends it in order
    )


@contextlib.contextmanager
def running(logs: Path, pools: Sequence[str] = POOLS) -> Iterator[list[Kept]]:
    """Start the workers of this machine for these pools; at the end, what they run is cancelled, and they end.

    What they print is in `logs`, a file for each.
    """
    logs.mkdir(parents=True, exist_ok=True)
    kept: list[Kept] = []
    try:
        for worker in (worker for worker in planned() if worker.pool in pools):
            log = logs / f".worker-{worker.name}-log"
            log.unlink(missing_ok=True)
            kept.append(Kept(worker, log, start_with(worker, log), time.monotonic()))
            where = "trains on the CPU: no CUDA here" if worker.name.endswith("-cpu") else f"pool {worker.pool}"
            say(f"Worker {worker.name}: {where}")
        yield kept
    finally:
        with _undisturbed():
            say("It ends: what runs saves first, and that takes up to a minute.")
            try:
                cancel_runs_of([one.worker for one in kept])
            finally:
                stop([(one.worker, one.process) for one in kept])


def look_after(kept: list[Kept]) -> None:
    """Start again whoever died, each time later. Raises FinetuneError where one dies at once again and again."""
    for one in kept:
        code = one.process.poll()
        if code is None:
            continue
        if one.due is None:
            _note_death(one, code)
        elif one.due <= time.monotonic() and _may_start(one.worker):
            one.process, one.began, one.due = start_with(one.worker, one.log), time.monotonic(), None
            say(f"Worker {one.worker.name} is started again")


def _note_death(one: Kept, code: int) -> None:
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    one.deaths = one.deaths + 1 if time.monotonic() - one.began < SECONDS_OF_A_LIFE else 1
    if one.deaths > len(DELAYS):
        what = f"worker {one.worker.name} ended at once {one.deaths} times, the last time with {how}"
        last = one.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise FinetuneError(what, f"see {one.log}, which ends: {' '.join(last)}")
    delay = DELAYS[one.deaths - 1]
    one.due = time.monotonic() + delay
    left = " and what it ran has ended" if _waits_for_its_run(one.worker) else ""
    away = "" if server_is_there() else " and the Prefect server answers"
    say(f"Worker {one.worker.name} ended with {how}; it is started again when {delay} s are over{left}{away}")


def _may_start(worker: Worker) -> bool:
    return not _waits_for_its_run(worker) and server_is_there()


def _waits_for_its_run(worker: Worker) -> bool:
    """Whether the device is taken: what a killed worker ran goes on without it."""
    return worker.pool == "cuda" and bool(of(worker))


def server_is_there() -> bool:
    return server.listens(os.environ["PREFECT_API_URL"])


def start_with(worker: Worker, log: Path) -> subprocess.Popen[bytes]:
    """Start a worker that prints into a file, behind what is there."""
    with log.open("ab") as output:
        return start(worker, output=output)


def stop(started: Sequence[tuple[Worker, subprocess.Popen[bytes]]]) -> None:
    """End workers, and whatever of theirs is left: that is told to save first."""
    for _, process in started:
        process.terminate()
    for _, process in started:
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    left = [process for worker, _ in started for process in of(worker)]
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()
    for one in psutil.wait_procs(left, SECONDS_TO_SAVE)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def cancel_runs_of(workers: Sequence[Worker]) -> None:
    """Cancel the flow runs that these workers started, and wait until they have saved and ended."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelling

    from tasks.steps import UNREACHABLE

    deadline = time.monotonic() + SECONDS_TO_SAVE
    running = {run for worker in workers for process in of(worker) if (run := _flow_run_of(process))}
    cancelled: set[uuid.UUID] = set()
    try:
        with get_client(sync_client=True) as client:
            for run in running:
                with contextlib.suppress(ObjectNotFound):  # it was deleted: its process ends with its worker
                    client.set_flow_run_state(run, Cancelling(message="Its worker was ended."))
                    cancelled.add(run)
            while cancelled and time.monotonic() < deadline:
                for run in tuple(cancelled):
                    with contextlib.suppress(ObjectNotFound):
                        state = client.read_flow_run(run).state
                        if state is not None and not state.is_final():
                            continue
                    cancelled.remove(run)
                time.sleep(0.5)
    except UNREACHABLE as error:
        say(f"What still ran could not be cancelled: {error}")


def of(worker: Worker) -> list[psutil.Process]:
    """The processes of a worker, and those that it left behind when it was killed."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == _mark(worker) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _mark(worker: Worker) -> str:
    return f"{os.getpid()}/{worker.name}"  # another command may keep workers of these names


def _flow_run_of(process: psutil.Process) -> uuid.UUID | None:
    """The flow run that a process works on, as Prefect tells it by its environment."""
    with contextlib.suppress(psutil.Error):
        run = process.environ().get("PREFECT__FLOW_RUN_ID")
        return uuid.UUID(run) if run else None
    return None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C, or SIGTERM, does not leave half of it behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
