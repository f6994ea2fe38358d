"""Runs of 20 steps for what can happen to one: killed, interrupted, repeated, damaged, without a server."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from conftest import configure
from house import FILES, REUSED, ROOT, House, kill_server, opened, report_of, task_states, training_of, until
from trackios import TOKEN, Server, points

from smollm3_ft import files, report, runs
from smollm3_ft.errors import TrainingError
from smollm3_ft.report import Step
from tasks import reporting, steps
from tasks.reporting import failure_of

pytestmark = pytest.mark.process

# At a steady rate: a step too many would change the weights.
HELD_OUT = "data.test=16"
SHORT = ("train.max_steps=20", "train.save_steps=5", "train.scheduler=constant", HELD_OUT)
UNPUBLISHED = (*SHORT, "publish.target=none")
GATE = "evaluate.gate.min_improvement=0.5"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened(tmp_path_factory.mktemp("short")) as found:
        yield found


class Ended(NamedTuple):
    """A command that has ended: its process, its exit code and its output."""

    pid: int
    code: int
    output: str


@pytest.fixture(scope="module")
def at_once(house: House) -> list[Ended]:
    """Two commands for the same run of 20 steps, with a gate that it passes, started at once."""
    words = ("name=undisturbed", *SHORT, GATE)
    with house.start(*words) as one, house.start(*words) as other:
        outputs = [process.communicate(timeout=300)[0] for process in (one, other)]
    ended = [Ended(p.pid, p.returncode, said) for p, said in zip((one, other), outputs, strict=True)]
    assert 0 in [command.code for command in ended], outputs
    return ended


@pytest.fixture(scope="module")
def undisturbed(house: House, at_once: list[Ended]) -> bytes:
    """The final weights of a run of 20 steps that nothing happened to."""
    return (house.runs_dir / "undisturbed" / "model" / "model.safetensors").read_bytes()


def test_of_two_commands_for_one_run_the_second_names_the_first(at_once: list[Ended]) -> None:
    """Started at once, one does the work and the other exits 1 and says who does."""
    done, refused = sorted(at_once, key=lambda command: command.code)
    assert (done.code, refused.code) == (0, 1)
    assert f"undisturbed is being worked on by process {done.pid}" in refused.output


def test_what_is_gone_of_a_finished_run_comes_back(house: House, undisturbed: bytes) -> None:
    """Without its weights it is trained again from the last checkpoint, without a step more, and published again."""
    folder = house.runs_dir / "undisturbed"
    card = (folder / "model" / "README.md").read_bytes()
    (folder / "model" / "model.safetensors").write_bytes(b"damaged")
    (folder / "report.html").unlink()
    code, output = house.run("name=undisturbed", *SHORT, GATE)
    assert code == 0, output
    assert (folder / "model" / "model.safetensors").read_bytes() == undisturbed
    assert (folder / "model" / "README.md").read_bytes() == card
    assert (folder / "report.html").is_file()


def test_the_gate_lets_a_good_run_through_and_blocks_a_harmful_one(house: House, undisturbed: bytes) -> None:
    """What trained far too fast exits 3, also when it is asked for again, and is not published.

    It is a finished run, `Blocked` in Prefect, with its model, and without a card.
    """
    assert report_of(house, "undisturbed")["evaluation"]["gate"] == "passed"
    words = ("name=harmed", "train.max_steps=4", "train.learning_rate=1", "train.warmup_steps=0", GATE, HELD_OUT)
    for _ in range(2):
        code, output = house.run(*words)
        assert code == 3, output
        assert "the lower end does not reach 0.5" in output
    report = report_of(house, "harmed")
    assert (report["status"], report["evaluation"]["gate"]) == ("blocked", "failed")
    assert report["published"]["target"] == "none"
    for states in task_states(house, "harmed"):
        assert (states["flow run"], states["publish"]) == ("Blocked", "Blocked")
    folder = house.runs_dir / "harmed"
    assert (folder / "model" / "model.safetensors").is_file()
    assert not (folder / "model" / "README.md").exists()
    assert not (folder / "published.json").exists()


class Away(NamedTuple):
    """A finished run whose tracker was away: its folder, the tracker, and what the command said."""

    folder: Path
    tracker: str
    output: str


@pytest.fixture(scope="module")
def faster(house: House, undisturbed: bytes) -> Away:
    """A run of another learning rate than the undisturbed one's, under the benchmark's clock, with a tracker that is
    away."""
    there = house._replace(environment={**house.environment, "PYTHONPATH": str(ROOT)})
    program = ("benchmarks/orchestration_clock.py", str(house.runs_dir.parent / "clock.json"))
    tracker = Server(house.runs_dir.parent / "nowhere").url
    words = ("name=faster", "train.learning_rate=1e-3", "train.max_steps=4", "publish.target=none", HELD_OUT)
    code, output = there.run(*words, "train.logging_steps=1", f"monitor.trackio={tracker}", program=program)
    assert code == 0, output
    return Away(house.runs_dir / "faster", tracker, output)


def test_the_clock_sees_the_body_of_every_step(house: House, faster: Away) -> None:
    """Once each that was done, and none that came from the cache."""
    bodies = files.read_json(house.runs_dir.parent / "clock.json")["bodies"]
    steps = {step["name"]: step for step in files.read_json(faster.folder / "report.json")["steps"]}
    done = [name for name, step in steps.items() if not step["cached"]]
    assert sorted(body["name"] for body in bodies) == sorted([*done, "report"])


def test_another_run_shares_data_and_base_evaluation(house: House, faster: Away) -> None:
    """Another learning rate reuses what does not depend on it, trains anew, and leaves the same files."""
    states = task_states(house, "faster")[0]
    assert [states[name] for name in REUSED] == ["Cached", "Cached", "Completed", "Completed"]
    cached = {step["name"]: step["cached"] for step in report_of(house, "faster")["steps"]}
    assert [cached[name] for name in REUSED] == [True, True, False, False]
    missing = [name for name in FILES if not (house.runs_dir / "faster" / name).is_file()]
    assert missing == ["model/README.md"]  # the card, which publishing makes


def test_a_killed_training_process_is_tried_again_from_its_checkpoint(house: House, undisturbed: bytes) -> None:
    """The task's retry goes on, and the final weights are an undisturbed run's, bit for bit."""
    with house.start("name=killed", *UNPUBLISHED) as process:
        until(process, "step 5: checkpoint")
        training_of(house, "killed").kill()
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    assert report_of(house, "killed")["train"]["resumed_from"] >= 5
    assert (house.runs_dir / "killed" / "model" / "model.safetensors").read_bytes() == undisturbed


def test_a_killed_command_goes_on_when_it_is_typed_again(
    house: House, undisturbed: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Earlier steps are not repeated, and the final weights are an undisturbed run's, bit for bit.

    Trackio's server, which came up after the kill, has one run with every step once, and the report.
    """
    with Server(tmp_path_factory.mktemp("trackio")) as server:
        there = house._replace(environment={**house.environment, "TRACKIO_WRITE_TOKEN": TOKEN})
        words = ("name=lost", *UNPUBLISHED, "train.logging_steps=1", f"monitor.trackio={server.url}")
        with there.start(*words) as process:
            until(process, "step 5: checkpoint")
            process.kill()
        server.start()
        code, output = there.run(*words)
        assert code == 0, output
        run = runs.read(house.runs_dir / "lost")
        found = server.points(run.run_id)
        assert [one["name"] for one in server.ask("get_runs_for_project")] == ["lost"]
        assert server.ask("get_run_artifacts", run_id=run.run_id)["output"]
    assert found == points(run)
    assert [step for step, name, *_ in found if name == "train/loss"] == list(range(1, 21))
    assert report_of(house, "lost")["monitoring"]["trackio"]["waiting"] == 0
    former, states = task_states(house, "lost")
    assert former["flow run"] == former["train"] == "Crashed"
    assert [states[name] for name in ("prepare data", "fit to device", "evaluate base")] == ["Cached"] * 3
    assert report_of(house, "lost")["train"]["resumed_from"] >= 5
    assert (house.runs_dir / "lost" / "model" / "model.safetensors").read_bytes() == undisturbed


@pytest.mark.parametrize(("told", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_says_how_to_go_on(house: House, told: signal.Signals, code: int) -> None:
    """It ends as interrupted, with a checkpoint, a report, and no process left."""
    name = f"told-{told.name}"
    with house.start(f"name={name}", *SHORT) as process:
        until(process, "step 5: checkpoint")
        training = training_of(house, name)
        process.send_signal(told)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert f"python -m flows.finetune {house.runs_dir / name / 'config.yaml'}" in output
    assert report_of(house, name)["status"] == "interrupted"
    assert report_of(house, name)["failure"] is None
    assert not training.is_running()


def test_a_run_is_trained_again_bit_for_bit(house: House, undisturbed: bytes) -> None:
    """From a finished one, under a new name, with its own training; killed, the same command goes on with it."""
    words = ("--from", "undisturbed", "publish.target=none")
    with house.start(*words) as process:
        until(process, "step 5: checkpoint")
        process.kill()
    code, output = house.run(*words)
    assert code == 0, output
    assert "result: the same, bit for bit" in output
    report = report_of(house, "undisturbed-again")
    agreed = {"from": "undisturbed", "data": True, "plan": True, "result": True, "differences": {}}
    assert (report["reproduced"], report["train"]["resumed_from"] >= 5) == (agreed, True)
    assert (house.runs_dir / "undisturbed-again" / "model" / "model.safetensors").read_bytes() == undisturbed
    assert not (house.runs_dir / "undisturbed-again-2").exists()


def test_a_tracker_that_is_away_keeps_no_run_from_its_end(house: House, faster: Away) -> None:
    """The run is completed; its step says what is wrong, the report what waits, and the journal has it."""
    assert f"Trackio on {faster.tracker} does not answer" in faster.output
    assert report_of(house, "faster")["status"] == "completed"
    standing = report_of(house, "faster")["monitoring"]["trackio"]
    assert (standing["target"], standing["delivered"]) == (faster.tracker, 0)
    assert standing["waiting"] > 4
    states = task_states(house, "faster")[0]
    assert (states["flow run"], states["configure tracker"], states["monitor trackio"]) == (
        "Completed",
        "Completed",
        "Failed",
    )


def test_a_run_that_could_not_publish_is_published_later(house: House, undisturbed: bytes) -> None:
    """It is trained and evaluated: it is published, verified, and completed, and its other steps are as they were."""
    folder = house.runs_dir / "undisturbed"
    before = files.read_json(folder / "report.json")
    steps = [step | {"state": "Failed"} if step["name"] == "publish" else step for step in before["steps"]]
    failed = {"status": "failed", "steps": steps, "published": {}, "failure": None}
    files.write_json(folder / "report.json", before | failed)
    (folder / "published.json").unlink()
    script = f"from flows.publish import publish_flow; publish_flow({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=house.environment, check=True)
    after = files.read_json(folder / "report.json")
    assert (after["status"], after["published"]) == ("completed", before["published"])
    states = [{step["name"]: step["state"] for step in report["steps"]} for report in (before, after)]
    assert states[0] == states[1]


def test_a_server_that_is_away_for_a_while_costs_nothing(house: House, undisturbed: bytes) -> None:
    """Killed in the middle of a training, and started again where it was: the run completes, its states are true."""
    with house.start("name=outage", *SHORT) as command:
        until(command, "step 5: checkpoint")
        start_again = kill_server(house)
        until(command, "step 10: checkpoint")  # it is not waited for
        start_again()
        output, _ = command.communicate(timeout=300)
    assert command.returncode == 0, output
    assert (house.runs_dir / "outage" / "model" / "model.safetensors").read_bytes() == undisturbed
    (states,) = task_states(house, "outage")
    assert set(states.values()) <= {"Completed", "Cached"}


def test_a_step_beside_the_training_is_not_what_failed_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded after the training's step, whose failure it is."""
    monkeypatch.setattr(steps, "HERE", ContextVar("steps"))
    steps.HERE.set([Step(name, "Failed", 1.0, False) for name in ("train", "monitor system", "monitor trackio")])
    assert failure_of(TrainingError("the loss is not finite")).step == "train"


def test_a_run_that_cannot_be_closed_says_what_failed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that ended the run, and not the links, for which Prefect is away by then."""
    monkeypatch.setattr(steps, "HERE", ContextVar("steps"))
    steps.HERE.set([Step("train", "Failed", 1.0, False)])

    def away(*_: Any) -> None:
        steps.HERE.get().append(Step("links", "Failed", 1.0, False))
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(reporting, "call", away)
    run = runs.begin(configure(name="run", runs_dir=str(tmp_path)))
    reporting.close_failed(run, TrainingError("the loss is not finite"))
    failure = report.read_failure(run.path)
    assert failure is not None
    assert (failure.step, failure.cause) == ("train", "the loss is not finite")


def test_a_server_that_is_gone_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to do; not its address, for reports are handed on, nor the name of an exception."""
    monkeypatch.setenv("PREFECT_API_URL", "http://me:word@server:4200/api")
    monkeypatch.setattr(steps, "HERE", ContextVar("steps"))
    steps.HERE.set([Step("links", "Failed", 1.0, False)])
    failure = failure_of(httpx.ConnectError("http://me:word@server:4200/api/flow_runs: refused"))
    assert failure.step == "links"
    assert failure.cause == "the Prefect server does not answer as it should"
    assert failure.remedy == "when it does, run the same command to go on"
