"""The deployments as a person registers them, and runs of them on workers: here, and on a pool."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from deployed import Deployed, is_final, opened, processes_of, until
from house import FILES, ROOT
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from searched import found

from flows import doctor_command, server
from smollm3_ft import checkpoints, files
from smollm3_ft.errors import FinetuneError

pytestmark = pytest.mark.process

SHORT = {"train": {"max_steps": 20, "save_steps": 5}, "monitor": {"trackio": "off"}, "publish": {"target": "none"}}
BY_THE_CHILD = ("fit to device", "evaluate base", "train", "evaluate tuned", "monitor system")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with opened(tmp_path_factory.mktemp("deployed")) as found:
        yield found


def test_a_token_in_parameters_is_refused_and_kept_nowhere(deployed: Deployed) -> None:
    """The server would keep every parameter that it takes: it takes no token of the Hub, and no password in a URL."""
    token = f"hf_{'canary' * 6}"
    for section in ({"model": {"name": token}}, {"monitor": {"trackio": f"http://me:{token}@server"}}):
        with pytest.raises(PrefectHTTPStatusError, match="409"):
            deployed.start("finetune/local", "with-a-token", **section)
    assert found(token, deployed.runs_dir.parent) == []


@pytest.fixture(scope="module")
def both(deployed: Deployed) -> tuple[UUID, UUID]:
    """Two runs of one configuration, at once: one that a worker of `default` does alone, and one on the pool."""
    started = (
        deployed.start("finetune/local", "here", **SHORT),
        deployed.start("finetune/cuda", "pooled", **{**SHORT, "publish": {"target": "local"}}),
    )
    for run in map(deployed.ended, started):
        assert run.state_name == "Completed", run.state
    return started


@pytest.fixture
def pooled(both: tuple[UUID, UUID]) -> UUID:
    return both[1]


def test_doctor_tells_of_the_server_and_its_workers(deployed: Deployed) -> None:
    """Its version, and how many workers of each pool are online; and that it lets nobody in without the password."""
    until(lambda: doctor_command.workers().status == "ok")
    assert doctor_command.workers().detail == "cuda 1 online, default 1 online"
    assert doctor_command.prefect().status == "ok"
    with temporary_settings({PREFECT_API_AUTH_STRING: "some:body"}):
        found = doctor_command.prefect()
    assert (found.status, "does not let us in" in found.detail) == ("fault", True)
    assert "PREFECT_API_AUTH_STRING" in found.remedy


def test_a_command_says_why_it_cannot_use_the_server(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the password is wrong, or that the address is the pages': in a line, before anything is begun."""
    api = os.environ["PREFECT_API_URL"]
    server.check(api)
    with pytest.raises(FinetuneError, match=r"which PREFECT_API_URL names, is no Prefect API; .* ends in /api"):
        server.check(api.removesuffix("/api"))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "some:body")
    with (
        temporary_settings({PREFECT_API_AUTH_STRING: "some:body"}),
        pytest.raises(FinetuneError, match="refuses the password; set PREFECT_API_AUTH_STRING"),
    ):
        server.check(api)


@pytest.fixture
def here(deployed: Deployed, both: tuple[UUID, UUID]) -> Path:
    return deployed.runs_dir / "here"


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_a_worker_of_the_pool_trains(deployed: Deployed, pooled: UUID, here: Path) -> None:
    """One child run on pool `cuda`; all steps completed in both, and the model is what one worker alone makes."""
    (child,) = deployed.children(pooled)
    assert (child.work_pool_name, child.state_name, set(child.tags)) == ("cuda", "Completed", {"cuda", "gpu"})
    assert {state for states in deployed.tasks(pooled).values() for state in states} <= {"Completed", "Cached"}
    done = deployed.tasks(child.id)
    assert set(BY_THE_CHILD) <= set(done)
    assert {state for states in done.values() for state in states} <= {"Completed", "Cached"}
    assert done["train"] == ["Completed"]
    assert weights(deployed.runs_dir / "pooled") == weights(here)


def test_a_run_on_a_pool_leaves_what_others_leave(deployed: Deployed, pooled: UUID) -> None:
    """Every file of a run, and artifacts for the plan, the rows, the metrics and the report."""
    missing = [name for name in FILES if not (deployed.runs_dir / "pooled" / name).is_file()]
    assert missing == []
    assert {"plan", "data-ledger", "training-progress", "metrics", "report"} <= deployed.artifacts(pooled)
    report = files.read_json(deployed.runs_dir / "pooled" / "report.json")
    assert report["status"] == "completed"
    told = files.read_json(deployed.runs_dir / "pooled" / "device.json")["steps"]
    assert {step["name"] for step in told} == set(BY_THE_CHILD)
    assert [step for step in told if step not in report["steps"]] == []


@pytest.fixture(scope="module")
def killed(deployed: Deployed, both: tuple[UUID, UUID]) -> tuple[UUID, UUID]:  # evaluated by them
    """A run whose training process was killed, and then its child's flow process, and which cannot publish; and the
    child as it was then."""
    run = deployed.start("finetune/cuda", "killed", **{**SHORT, "publish": {"target": "local"}})
    step = deployed.saved("killed", 5)
    (training,) = processes_of(str(deployed.runs_dir / "killed" / "plan.json"))
    training.kill()
    deployed.saved("killed", step + 1)
    (deployed.runs_dir / "killed" / "published.json").mkdir()
    (child,) = deployed.children(run)
    for process in processes_of(str(child.id)):
        process.kill()
    assert deployed.ended(run).state_name == "Failed"
    return run, child.id


def test_a_child_that_dies_is_resumed(deployed: Deployed, killed: tuple[UUID, UUID], here: Path) -> None:
    """After a death of the training process, and one of the flow process, the same child goes on and repeats nothing,
    and the final weights are an undisturbed run's, bit for bit."""
    run, child = killed
    (again,) = deployed.children(run)
    assert (again.id, again.state_name, again.run_count) == (child, "Completed", 2)
    states = deployed.tasks(child)
    assert states["fit to device"] == ["Cached", "Completed"]
    assert states["evaluate base"] == ["Cached", "Cached"]
    assert states["train"] == ["Completed", "Crashed"]
    assert deployed.tasks(run)["prepare data"] == ["Cached"]
    assert files.read_json(deployed.runs_dir / "killed" / "report.json")["train"]["resumed_from"] >= 10
    assert weights(deployed.runs_dir / "killed") == weights(here)


def test_only_what_died_is_run_again(deployed: Deployed, killed: tuple[UUID, UUID]) -> None:
    """Every step ran once, or not at all where another run had made the same; `train` once more for each death."""
    run, child = killed
    once = {"fit to device": 1, "evaluate base": 0, "train": 3, "evaluate tuned": 0}
    done = deployed.executions(child)
    assert {name: done[name] for name in once} == once
    once = {"resolve configuration": 1, "check environment": 1, "authenticate": 1, "plan": 1, "prepare data": 0}
    done = deployed.executions(run)
    assert {name: done[name] for name in (*once, "train")} == {**once, "train": 2}


def test_a_retry_does_what_failed_and_what_follows(deployed: Deployed, killed: tuple[UUID, UUID]) -> None:
    """Publishing failed: what was before it is Cached, the child is not started again, and the report is a new one."""
    run, child = killed
    (deployed.runs_dir / "killed" / "published.json").rmdir()
    deployed.retry(run)
    assert deployed.ended(run).state_name == "Completed"
    states = deployed.tasks(run)
    before = ("resolve configuration", "plan", "fit to device", "evaluate base", "train", "evaluate tuned")
    assert {name: states[name] for name in before} == {name: ["Cached", "Completed"] for name in before}
    assert states["publish"] == ["Completed", "Failed"]
    assert deployed.client.read_flow_run(child).run_count == 2
    assert files.read_json(deployed.runs_dir / "killed" / "report.json")["status"] == "completed"


def test_a_cancelled_parent_ends_its_child(deployed: Deployed, here: Path) -> None:
    """Both are Cancelled, no process of them is left within a minute, and a checkpoint is there to go on from."""
    long: dict[str, Any] = {**SHORT, "train": {"max_steps": 5000, "save_steps": 5}}
    run = deployed.start("finetune/cuda", "cancelled", **long)
    deployed.saved("cancelled", 5)
    (child,) = deployed.children(run)
    deployed.cancel(run)
    until(lambda: not processes_of(str(run), str(child.id), str(deployed.runs_dir / "cancelled")), seconds=60)
    assert {deployed.ended(one).state_name for one in (run, child.id)} == {"Cancelled"}
    newest, damaged = checkpoints.newest(deployed.runs_dir / "cancelled" / "checkpoints")
    assert newest is not None
    assert damaged == []


@pytest.fixture(scope="module")
def scheduled(deployed: Deployed) -> list[FlowRun]:
    """Runs that an interval started, at least two: they are for a pool that is not there, and fail at once."""
    client = deployed.client
    found = client.read_deployment_by_name("finetune/local")
    refused = {"config": {"runs_dir": str(deployed.runs_dir), "compute": {"pool": "nowhere"}}}  # it ends soon
    every = [(IntervalSchedule(interval=timedelta(seconds=5)), True)]
    (schedule,) = client.create_deployment_schedules(found.id, every, max_scheduled_runs=2, parameters=refused)
    until(lambda: len(list(deployed.runs_dir.glob("smollm3_finetune_*/report.json"))) > 1)
    client.delete_deployment_schedule(found.id, schedule.id)
    names = {path.name for path in deployed.runs_dir.glob("smollm3_finetune_*")}
    return list(until(lambda: runs if all(map(is_final, runs := deployed.named(names))) else None))


def test_a_schedule_starts_runs_with_names_of_their_own(deployed: Deployed, scheduled: list[FlowRun]) -> None:
    """Each has a folder of the name that its configuration left open, and its flow run bears it."""
    assert {run.name for run in scheduled} == {path.name for path in deployed.runs_dir.glob("smollm3_finetune_*")}
    assert {run.auto_scheduled for run in scheduled} == {True}
    refusals = {str(run.state and run.state.message).partition(";")[0] for run in scheduled}
    said = "ConfigError: compute.pool: the Prefect server has no deployment train/nowhere"
    assert refusals == {f"Flow run encountered an exception: {said}"}


def nightly(deployed: Deployed) -> tuple[dict[str, Any], bool, dict[UUID, bool]]:
    """What its runs are started with, whether it is paused, and its schedules, each active or not."""
    found = deployed.client.read_deployment_by_name("finetune/cuda")
    return found.parameters, bool(found.paused), {one.id: one.active for one in found.schedules}


def set_by_somebody(deployed: Deployed) -> tuple[dict[str, Any], bool, dict[UUID, bool]]:
    """The nightly schedule switched on, with one besides, and a configuration; paused, so that nothing begins."""
    client = deployed.client
    found = client.read_deployment_by_name("finetune/cuda")
    mine = {"config": {"data": {"system_prompt": "Today is {{ date }}."}}}
    client.update_deployment(found.id, DeploymentUpdate(parameters=mine, paused=True))
    client.update_deployment_schedule(found.id, found.schedules[0].id, active=True)
    client.create_deployment_schedules(found.id, [(IntervalSchedule(interval=timedelta(days=7)), True)])
    return nightly(deployed)


def test_up_ends_what_it_started(deployed: Deployed) -> None:
    """It registers again what is there or was altered, but for what somebody set, starts a worker for each pool, says
    that there is no CUDA, and ends with both at Ctrl-C."""
    before = deployed.client.read_automations()
    zombies = deployed.client.read_automations_by_name("a flow run without heartbeat has crashed")[0]
    kept = zombies.model_dump(include={"name", "enabled", "trigger", "actions"})
    older = AutomationCore.model_validate({**kept, "description": "an older one"})
    deployed.client.update_automation(zombies.id, older)
    mine = set_by_somebody(deployed)
    command = [sys.executable, "-m", "flows.up"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    names = [f"{os.uname().nodename}-{kind}" for kind in ("default", "cpu")]
    with (
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process,
        contextlib.ExitStack() as failed,
    ):
        failed.callback(process.kill)
        assert process.stdout is not None
        lines = []
        while "Ctrl-C ends it." not in lines:
            lines.append(process.stdout.readline().rstrip())
            assert process.poll() is None, lines
        workers = [one for one in psutil.Process(process.pid).children() if {*names} & {*one.cmdline()}]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().startswith("It ends: what runs saves first")
        assert process.wait() == 0
    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)
    assert f"Worker {names[1]}: trains on the CPU: no CUDA here" in lines
    assert sorted(one.id for one in deployed.client.read_automations()) == sorted(one.id for one in before)
    assert deployed.client.read_automation(zombies.id) == zombies
    assert nightly(deployed) == mine
