"""A run on a work pool, without a server: what is registered, who is told what, and what a worker refuses."""

import contextlib
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import cast

import pytest
import yaml
from conftest import MakePlan, configure, facts
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows import pool_workers, train
from smollm3_ft import devices, errors, fit, plan, runs
from smollm3_ft.errors import ConfigError, RunBusy
from tasks import remote
from tasks.steps import blocked
from tasks.training import finished, the_device

ROOT = Path(__file__).parent.parent
PASSWORDS = ("POSTGRES_PASSWORD", "PREFECT_AUTH", "TRACKIO_WRITE_TOKEN")
FAILED = "Flow run encountered an exception: "


def test_what_is_registered() -> None:
    """The contract's deployments, on their pools; the nightly schedule is there, and inactive."""
    declared = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    names = {f"{one['entrypoint'].split(':')[1].removesuffix('_flow')}/{one['name']}": one for one in declared}
    pools = {name: one["work_pool"]["name"] for name, one in names.items()}
    expected = {
        "finetune/local": "default",
        "finetune/cuda": "default",
        "finetune/trial": "default",
        "train/cuda": "cuda",
        "sweep/cuda": "default",
        "publish/default": "default",
    }
    assert pools == pools | expected
    assert names["finetune/cuda"]["work_pool"]["job_variables"]["env"]["SMOLLM3_FT_POOL"] == "cuda"
    assert [one["active"] for one in names["finetune/cuda"]["schedules"]] == [False]
    assert names["train/cuda"]["tags"] == ["cuda", "gpu"]


def test_the_zombie_automation_waits_longer_than_a_heartbeat() -> None:
    """A flow run that lives is not taken for dead: two of its heartbeats may be missed."""
    declared = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    automation = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text())["automations"][0]
    assert automation["actions"][0]["state"] == "CRASHED"
    for one in declared:
        every = int(one["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert 30 < every < automation["trigger"]["within"] / 2


def test_the_zombie_automation_knows_each_end_of_a_flow_run() -> None:
    """Also that of one which the gate blocked: its state has a name of its own."""
    automation = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text())["automations"][0]
    ends: list[State[None]] = [Completed(), Failed(), Cancelled(), Crashed(), cast("State[None]", blocked("", None))]
    assert {f"prefect.flow-run.{one.name}" for one in ends} < set(automation["trigger"]["expect"])


def test_a_team_s_server_takes_its_secrets_from_outside() -> None:
    """Every variable of the compose file is in the example to fill in, and each password must be given."""
    text = (ROOT / "deployments" / "compose.yaml").read_text()
    asked = dict(re.findall(r"\$\{(\w+)(:\?|:-|)", text)[::-1])  # what is said of it first
    example = (ROOT / "deployments" / "env.example").read_text()
    assert set(asked) == set(re.findall(r"^(\w+)=", example, flags=re.MULTILINE))
    assert {name for name, sign in asked.items() if sign == ":?"} == set(PASSWORDS)
    assert [name for name in PASSWORDS if f"\n{name}=\n" not in example] == []
    assert "deployments/.env" in (ROOT / ".gitignore").read_text().split()


def test_a_team_s_workers_are_this_project_s() -> None:
    """They run its own commands, wait until everything is registered, and share the folder of runs."""
    services = yaml.safe_load((ROOT / "deployments" / "compose.yaml").read_text())["services"]
    for name, pool in (("coordinator", "default"), ("cuda", "cuda")):
        assert services[name]["command"] == f"python -m flows.up worker {pool}"
        assert services[name]["depends_on"] == {"register": {"condition": "service_completed_successfully"}}
        assert "runs:/app/runs" in services[name]["volumes"]
    assert "HF_TOKEN" not in services["cuda"]["environment"]


def test_a_worker_that_trains_is_told_no_secret_that_it_does_not_need() -> None:
    """It gets the server's password, or key, and a token that reads; what publishes and tracks stays with `default`."""
    here = {
        "PATH": "/bin",
        "PREFECT_API_AUTH_STRING": "local:word",
        "PREFECT_API_KEY": "pnu_key",
        "HF_TOKEN": "hf_writes",
        "HF_READ_TOKEN": "hf_reads",
        "TRACKIO_WRITE_TOKEN": "t",
    }
    told = pool_workers.environment_of(pool_workers.Worker("cuda", "gpu0", {"CUDA_VISIBLE_DEVICES": "0"}), here)
    secrets = {name: value for name, value in told.items() if name.startswith(("HF_", "TRACKIO_", "PREFECT_API_"))}
    server = {"PREFECT_API_AUTH_STRING": "local:word", "PREFECT_API_KEY": "pnu_key"}
    assert secrets == {**server, "HF_TOKEN": "hf_reads"}
    assert told["CUDA_VISIBLE_DEVICES"] == "0"
    assert pool_workers.environment_of(pool_workers.Worker("default", "d", {}), here).items() >= here.items()


@pytest.mark.parametrize(("visible", "numbers"), [(None, ["0", "1"]), ("1,0", ["1", "0"]), ("1,7", ["1"])])
def test_a_worker_for_each_card_that_is_there(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, numbers: list[str]
) -> None:
    """As CUDA_VISIBLE_DEVICES names them, up to one that there is not."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(devices, "detect", lambda: devices.Device("cuda", "card", 1, 1.0))
    monkeypatch.setattr(devices, "driver", lambda: contextlib.nullcontext([object()] * len(numbers)))
    workers = [one for one in pool_workers.planned() if one.pool == "cuda"]
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in workers] == numbers


def test_a_worker_that_does_not_see_the_run_says_so(tmp_path: Path) -> None:
    """One line, with the folder that it looked for, and what to do."""
    with pytest.raises(ConfigError, match=f"this worker sees no run in {tmp_path / 'there'}; mount runs_dir here"):
        train._found(str(tmp_path / "there"))


@pytest.mark.parametrize("name", ["code", "lock"])
def test_a_worker_of_other_code_or_packages_says_which(tmp_path: Path, name: str) -> None:
    """Nothing is started: the run is named, and both digests."""
    run = runs.begin(configure(name="run", runs_dir=str(tmp_path)))
    runs.save(run.model_copy(update={name: "0123456789abcdef"}))
    with pytest.raises(ConfigError, match=f"this worker's {name} is .*, run run was begun with 0123456789ab"):
        train._found(run.folder)


def test_a_worker_permits_what_its_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's model in a folder that may not be read on the worker is refused there, whatever its coordinator let."""
    run = runs.begin(configure(name="run", runs_dir=str(tmp_path), model__name=str(tmp_path)))
    monkeypatch.setenv("SMOLLM3_FT_READ_ROOTS", str(tmp_path / "allowed"))
    with pytest.raises(ConfigError, match=f"model.name: {tmp_path} may not be read here"):
        train._found(run.folder)


def test_a_worker_sees_whether_the_data_are_prepared(tmp_path: Path) -> None:
    """A run that no coordinator has begun has none, and the line says who prepares them."""
    run = runs.begin(configure(name="run", runs_dir=str(tmp_path)))
    with pytest.raises(ConfigError, match="has no prepared data that this worker sees; start it with `finetune`"):
        train._found(run.folder)


def test_two_never_train_the_same_run(tmp_path: Path) -> None:
    """Whoever comes second is told who trains it."""
    run = runs.begin(configure(name="run", runs_dir=str(tmp_path)))
    held = pytest.raises(RunBusy, match=f"run-on-device is being worked on by process {os.getpid()}")
    with the_device(run), held, the_device(run):
        pass


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        (Failed(message=f"{FAILED}ConfigError: run: is not here; mount it"), ConfigError, "run: is not here; mount it"),
        (Failed(message=f"{FAILED}DataError: no rows"), errors.DataError, "no rows"),
        (Failed(message=f"{FAILED}HubUnreachable: no answer"), errors.HubUnreachable, "no answer"),
        (Failed(message=f"{FAILED}ProcessDied: by SIGKILL"), errors.TrainingError, "child run one failed: by SIGKILL"),
        (Failed(message=f"{FAILED}ValueError: odd"), errors.TrainingError, "child run one failed: odd"),
        (Crashed(message="exited with -9"), errors.ProcessDied, "child run one crashed: exited with -9"),
        (Cancelled(), errors.Stopped, "child run one was cancelled"),
    ],
)
def test_how_a_child_ended_is_how_its_parent_fails(state: State[None], kind: type[Exception], words: str) -> None:
    """In the child's own words; only a death is tried again by itself."""
    child = FlowRun(flow_id=uuid.uuid4(), name="one", state=state)
    with pytest.raises(kind, match=words) as caught:
        remote.check_ended(child)
    assert isinstance(caught.value, errors.ProcessDied) == (kind is errors.ProcessDied)


def test_a_plan_for_a_pool_is_not_judged_by_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits is settled where it is trained: a model of a terabyte may be planned here, and trained there."""
    monkeypatch.setenv("SMOLLM3_FT_POOL", "cuda")
    estimate = plan.make(configure(name="run", runs_dir=str(tmp_path), train__batch_size=64)).estimate
    assert estimate.device == "one of pool cuda"
    assert estimate.predicted is None
    assert estimate.tokens


def test_weights_are_where_this_machine_has_them(tmp_path: Path, make_plan: MakePlan) -> None:
    """A training that another machine began goes on with the weights that are here."""
    made = make_plan(tmp_path / "runs", "moved", facts(60))
    elsewhere = made.model_copy(update={"weights": "/elsewhere"})
    assert fit.fetched(elsewhere) == made
    assert fit.read(tmp_path / "runs" / "moved" / "plan.json").weights == made.weights


def test_what_a_child_did_not_finish_is_not_there(tmp_path: Path, make_plan: MakePlan) -> None:
    """A plan alone is no training."""
    make_plan(tmp_path / "runs", "begun", facts(60))
    assert finished(runs.read(tmp_path / "runs" / "begun")) is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["sideways"], 2, "usage: "),
        (["worker", "gpu"], 2, "usage: "),
        (["deploy"], 1, "PREFECT_API_URL names no"),
        (["worker"], 1, "PREFECT_API_URL"),
    ],
)
def test_up_without_a_server_of_its_own(words: list[str], code: int, said: str) -> None:
    """`make deploy` and `make worker` are for a server that is there, and say so in a line."""
    alone = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows.up", *words]
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
