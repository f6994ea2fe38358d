"""`make up`, `make deploy`, `make worker`: `python -m flows.up [deploy | worker]`; workers work until Ctrl-C.

Workers end before the server: one without a server takes long to end. What they run is cancelled first, so that it
saves, and its state is true.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from flows import server
from flows.cli import DONE, FAILED, USAGE
from flows.session import SETTINGS
from smollm3_ft import devices
from smollm3_ft.errors import FinetuneError
from smollm3_ft.processes import without_secrets

ROOT = Path(__file__).parent.parent
POOLS = ("default", "cuda")
PREFECT = [sys.executable, "-m", "prefect"]
SECONDS_BETWEEN_LOOKS = 2  # of a worker, for runs to start
SECONDS_TO_SAVE = 45
SECONDS_TO_STOP = 20


class Worker(NamedTuple):
    """A worker to start: its pool, its name, and what its environment has besides."""

    pool: str
    name: str
    environment: dict[str, str]


def main(words: list[str]) -> int:
    """Returns the exit code."""
    commands = {(): up, ("deploy",): deploy, ("worker",): work}
    command = commands.get(tuple(words))
    if command is None:
        sys.stderr.write("usage: python -m flows.up [deploy | worker]\n")
        return USAGE
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a shell's background, and by children
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        command()
    except KeyboardInterrupt:
        return DONE
    except FinetuneError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return DONE


def up() -> None:
    """Server, pools, deployments and workers, until Ctrl-C."""
    with server.running(Path("runs").absolute()) as prefect:
        deploy()
        with workers():
            login = f"  (password {prefect.password})" if prefect.password else ""
            _say(f"{prefect.url}/v2/deployments{login}\nCtrl-C ends it.")
            threading.Event().wait()


def deploy() -> None:
    """Register pools, deployments and automations at the server that PREFECT_API_URL names."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.events.schemas.automations import AutomationCore
    from prefect.exceptions import ObjectAlreadyExists

    _check_there_is_a_server()
    wanted = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    with get_client(sync_client=True) as client:
        for pool in POOLS:
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        there = {automation.name for automation in client.read_automations()}
        for one in wanted:
            if one["name"] not in there:
                client.create_automation(AutomationCore.model_validate(one))
    command = [*PREFECT, "--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FinetuneError(f"the deployments could not be registered: {(done.stdout + done.stderr).strip()}")
    _say("Deployments: finetune/local, finetune/cuda, train/cuda, publish/default")


def work() -> None:
    """A worker for each pool and device of this machine, until Ctrl-C."""
    _check_there_is_a_server()
    with workers():
        _say("Ctrl-C ends it.")
        threading.Event().wait()


def _check_there_is_a_server() -> None:
    if not os.environ.get("PREFECT_API_URL"):
        raise FinetuneError("PREFECT_API_URL names no Prefect server", "set it, or `make up` starts one too")


def planned() -> list[Worker]:
    """One worker for `default`, and one a device for `cuda`; without CUDA one, which trains on the CPU."""
    host = os.uname().nodename
    found = [Worker("default", f"{host}-default", {})]
    numbers = _cards()
    for number in numbers:
        found.append(Worker("cuda", f"{host}-cuda-{number}", {"CUDA_VISIBLE_DEVICES": number}))
    return found if numbers else [*found, Worker("cuda", f"{host}-cpu", {})]


def _cards() -> list[str]:
    """The numbers of the devices that are to be used here."""
    if devices.detect().kind != "cuda":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    with devices.driver() as handles:
        return [one.strip() for one in visible.split(",")] if visible else [str(i) for i in range(len(handles))]


def environment_of(worker: Worker, environment: Mapping[str, str]) -> dict[str, str]:
    """What a worker is told. One of `cuda` fetches models and trains: it gets no token that may write, where it can."""
    found = {"PREFECT_WORKER_QUERY_SECONDS": str(SECONDS_BETWEEN_LOOKS), **environment, **worker.environment}
    if worker.pool == "default":
        return found
    kept = without_secrets(found)
    token = environment.get("HF_READ_TOKEN") or environment.get("HF_TOKEN")
    own = {"PREFECT_API_AUTH_STRING": environment.get("PREFECT_API_AUTH_STRING"), "HF_TOKEN": token}
    return {**kept, **{name: value for name, value in own.items() if value}}


@contextlib.contextmanager
def workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the workers of this machine; at the end, what they run is cancelled, and they end."""
    started = []
    try:
        for worker in planned():
            started.append(start(worker))
            where = "trains on the CPU: no CUDA here" if worker.name.endswith("-cpu") else f"pool {worker.pool}"
            _say(f"Worker {worker.name}: {where}")
        yield started
    finally:
        with _undisturbed():
            _cancel_runs_below(started)
            stop(started)


def start(worker: Worker, folder: Path = ROOT, **given: Any) -> subprocess.Popen[bytes]:
    """Start a worker; one of `cuda` takes one run at a time."""
    limit = ["--limit", "1"] if worker.pool == "cuda" else []
    return subprocess.Popen(
        [*PREFECT, "worker", "start", "--pool", worker.pool, "--name", worker.name, *limit],
        cwd=folder,
        env=environment_of(worker, os.environ),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the command, which ends it in order
        **given,
    )


def stop(started: list[subprocess.Popen[bytes]]) -> None:
    """End workers, and whatever of theirs is left."""
    below = [one for process in started for one in _below(process.pid)]
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for one in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def _cancel_runs_below(started: list[subprocess.Popen[bytes]]) -> None:
    """Cancel the flow runs whose processes these workers started, and wait until they have saved and ended."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    from tasks.steps import UNREACHABLE

    deadline = time.monotonic() + SECONDS_TO_SAVE
    running = {run for process in started for run in _flow_runs_below(process.pid)}
    try:
        with get_client(sync_client=True) as client:
            for run in running:
                client.set_flow_run_state(run, Cancelling(message="Its worker was ended."))
            while running and time.monotonic() < deadline:
                states = {run: client.read_flow_run(run).state for run in running}
                running = {run for run, state in states.items() if state is not None and not state.is_final()}
                time.sleep(0.5)
    except UNREACHABLE as error:
        _say(f"What still ran could not be cancelled: {error}")


def _flow_runs_below(pid: int) -> set[Any]:
    """The flow runs that processes below this one work on, as Prefect tells them by their environment."""
    import uuid

    found = set()
    for process in _below(pid):
        with contextlib.suppress(psutil.Error):
            run = process.environ().get("PREFECT__FLOW_RUN_ID")
            if run:
                found.add(uuid.UUID(run))
    return found


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not leave half of it behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
