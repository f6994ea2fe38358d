"""The whole flow, against a real Prefect server: the demo once, and runs of 20 steps for what can go wrong."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from hub import hub

from smollm3_ft import files
from smollm3_ft.builtin import tiny

ROOT = Path(__file__).parent.parent
TASKS = {
    "resolve configuration",
    "check environment",
    "authenticate",
    "plan",
    "deploy tracker",
    "configure tracker",
    "set up experiment dataset",
    "prepare data",
    "fit to device",
    "evaluate base",
    "train",
    "evaluate tuned",
    "monitor system",
    "monitor trackio",
    "monitor dataset",
    "publish",
    "verify",
    "links",
    "next steps",
    "report",
}
FILES = (
    "config.yaml",
    "plan.json",
    "data/ledger.json",
    "data/quarantine.jsonl",
    "data/report.html",
    "metrics.jsonl",
    "host.jsonl",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/chat_template.jinja",
    "model/generation_config.json",
    "model/README.md",
    "evaluation.json",
    "report.json",
    "report.md",
    "report.html",
)
SHORT = ("train.max_steps=20", "train.save_steps=5")
REUSED = ("prepare data", "evaluate base", "train", "evaluate tuned")


class House(NamedTuple):
    """A folder of runs, and the environment in which the commands find their server."""

    runs_dir: Path
    environment: dict[str, str]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start the command; its lines can be read as they come."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.finetune", f"runs_dir={self.runs_dir}", *words],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        """Run the command to its end: its exit code and its output."""
        with self.start(*words) as process:
            output, _ = process.communicate(timeout=300)
            return process.returncode, output


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server for all runs of this module, as `make ui` would leave it open."""
    from flows import server

    folder = tmp_path_factory.mktemp("house")
    os.environ["PREFECT_HOME"] = str(folder / "home")
    with server.running(folder / "runs"):
        yield House(folder / "runs", dict(os.environ))
    del os.environ["PREFECT_HOME"]


@pytest.fixture(scope="module")
def demo(house: House) -> tuple[int, str]:
    """The demo, as `make run` does it, on this module's server."""
    return house.run("demo", "name=demo")


@pytest.fixture(scope="module")
def undisturbed(house: House) -> Path:
    """The final weights of a run of 20 steps that nothing happened to."""
    code, output = house.run("name=undisturbed", *SHORT)
    assert code == 0, output
    return house.runs_dir / "undisturbed" / "model" / "model.safetensors"


def task_states(house: House, name: str) -> list[dict[str, str]]:
    """For each flow run of that name, in the order of their starts: its own state's name and its tasks'."""
    script = f"""
import json
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName
from prefect.client.schemas.sorting import FlowRunSort
with get_client(sync_client=True) as client:
    named = FlowRunFilter(name=FlowRunFilterName(any_=[{name!r}]))
    found = []
    for run in client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_ASC):
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
        found.append({{"flow run": run.state_name}} | {{task.name: task.state_name for task in tasks}})
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=house.environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]  # as printed above


def until(process: subprocess.Popen[str], words: str) -> None:
    """Wait for a line of the command's output."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"it ended without saying {words!r}")


def training_of(house: House, name: str) -> psutil.Process:
    """The training process of a run, known by its command line."""
    wanted = str(house.runs_dir / name / "plan.json")
    return next(
        process
        for process in psutil.process_iter(["cmdline"])
        if "smollm3_ft.training" in (process.info["cmdline"] or []) and wanted in process.info["cmdline"]
    )


def report_of(house: House, name: str) -> dict[str, Any]:
    return files.read_json(house.runs_dir / name / "report.json")


def test_the_demo_succeeds(demo: tuple[int, str]) -> None:
    """Exit code 0, and no traceback on the way."""
    code, output = demo
    assert code == 0, output
    assert "Traceback" not in output


def test_the_demo_leaves_every_file(house: House, demo: tuple[int, str]) -> None:
    """The run's folder holds what the contract lists, and the runs' folder nothing that does not belong there."""
    missing = [name for name in FILES if not (house.runs_dir / "demo" / name).is_file()]
    assert missing == []
    hidden = {path.name for path in house.runs_dir.iterdir() if path.name.startswith(".")}
    assert hidden <= {".prepared", ".evaluated", ".models", ".trackio", ".locks", ".old"}


def test_tuned_beats_base_on_rows_never_trained_on(house: House, demo: tuple[int, str]) -> None:
    """Exact match goes from near 0 to at least 0.8, and the loss's interval lies below the base's."""
    evaluation = files.read_json(house.runs_dir / "demo" / "evaluation.json")
    assert evaluation["base"]["exact_match"]["value"] < 0.05
    assert evaluation["tuned"]["exact_match"]["value"] >= 0.8
    assert evaluation["tuned"]["loss"]["high"] < evaluation["base"]["loss"]["low"]


def test_the_report_says_what_was_done(house: House, demo: tuple[int, str]) -> None:
    """Completed, published and verified, with the steps that were planned."""
    report = report_of(house, "demo")
    plan = files.read_json(house.runs_dir / "demo" / "plan.json")
    assert report["status"] == "completed"
    assert report["published"]["verified"] is True
    assert report["train"]["steps"] == plan["settings"]["steps"]
    assert report["data"]["splits"]["test"] == 200


def test_the_journal_has_every_logged_step_once(house: House, demo: tuple[int, str]) -> None:
    """A train record at each tenth step and the last, in order, under distinct ids."""
    lines = (house.runs_dir / "demo" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record["step"] for record in records if record["kind"] == "train"]
    last = report_of(house, "demo")["train"]["steps"]
    assert steps == sorted({*range(10, last + 1, 10), last})
    assert len({record["id"] for record in records}) == len(records)


def test_prefect_lists_every_task_completed(house: House, demo: tuple[int, str]) -> None:
    """Every task of the design's table is there by its name; none is missing, none else."""
    states = task_states(house, "demo")[0]
    assert set(states) == TASKS | {"flow run"}
    assert set(states.values()) == {"Completed"}


def test_the_model_loads_and_answers(house: House, demo: tuple[int, str]) -> None:
    """The published folder is enough for transformers to give the right answer."""
    script = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = {str(house.runs_dir / "demo" / "model")!r}
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
turns = [{{"role": "user", "content": "What is the capital of France?"}}]
inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=16)
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Paris"


def test_the_same_command_again_reuses_everything(house: House, demo: tuple[int, str]) -> None:
    """Exit code 0, the steps that cost something are Cached, and the report stays as it was."""
    before = (house.runs_dir / "demo" / "report.json").read_bytes()
    code, output = house.run("demo", "name=demo")
    assert code == 0, output
    states = task_states(house, "demo")[-1]
    assert {name: states[name] for name in REUSED} == dict.fromkeys(REUSED, "Cached")
    assert (house.runs_dir / "demo" / "report.json").read_bytes() == before


def test_another_run_shares_data_and_base_evaluation(house: House, undisturbed: Path) -> None:
    """Another learning rate reuses what does not depend on it, and trains anew."""
    code, output = house.run("name=faster", *SHORT, "train.learning_rate=1e-3")
    assert code == 0, output
    states = task_states(house, "faster")[0]
    assert [states[name] for name in REUSED] == ["Cached", "Cached", "Completed", "Completed"]
    missing = [name for name in FILES if not (house.runs_dir / "faster" / name).is_file()]
    assert missing == []


def test_of_two_commands_for_one_run_the_second_names_the_first(house: House) -> None:
    """Started at once, one does the work and the other exits 1 and says who does."""
    words = ("name=wanted", "train.max_steps=4")
    with house.start(*words) as one, house.start(*words) as other:
        outputs = [process.communicate(timeout=300)[0] for process in (one, other)]
    codes = [one.returncode, other.returncode]
    assert sorted(codes) == [0, 1], outputs
    worker = (one, other)[codes.index(0)]
    assert f"wanted is being worked on by process {worker.pid}" in outputs[codes.index(1)]


def test_what_is_gone_of_a_finished_run_comes_back(house: House) -> None:
    """Without its weights it is trained again from the last checkpoint, without a step more, and published again."""
    words = ("name=mended", "train.max_steps=5", "train.scheduler=constant")
    assert house.run(*words)[0] == 0
    folder = house.runs_dir / "mended"
    before = {name: (folder / name).read_bytes() for name in ("model/model.safetensors", "model/README.md")}
    (folder / "model" / "model.safetensors").write_bytes(b"damaged")
    (folder / "report.html").unlink()
    code, output = house.run(*words)
    assert code == 0, output
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert (folder / "report.html").is_file()


def test_a_killed_training_process_is_tried_again_from_its_checkpoint(house: House, undisturbed: Path) -> None:
    """The task's retry goes on, and the final weights are an undisturbed run's, bit for bit."""
    with house.start("name=killed", *SHORT) as process:
        until(process, "step 5: checkpoint")
        training_of(house, "killed").kill()
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    assert report_of(house, "killed")["train"]["resumed_from"] >= 5
    assert (house.runs_dir / "killed" / "model" / "model.safetensors").read_bytes() == undisturbed.read_bytes()


def test_a_killed_command_goes_on_when_it_is_typed_again(house: House, undisturbed: Path) -> None:
    """Earlier steps are not repeated, and the final weights are an undisturbed run's, bit for bit."""
    with house.start("name=lost", *SHORT) as process:
        until(process, "step 5: checkpoint")
        process.kill()
    code, output = house.run("name=lost", *SHORT)
    assert code == 0, output
    former, states = task_states(house, "lost")
    assert former["flow run"] == former["train"] == "Crashed"
    assert [states[name] for name in ("prepare data", "fit to device", "evaluate base")] == ["Cached"] * 3
    assert report_of(house, "lost")["train"]["resumed_from"] >= 5
    assert (house.runs_dir / "lost" / "model" / "model.safetensors").read_bytes() == undisturbed.read_bytes()


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


def test_bad_rows_end_the_run_with_step_cause_and_command(house: House, tmp_path: Path) -> None:
    """Exit code 1; the last lines name the step, the file and line, what to do, and how to go on."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"\n')
    code, output = house.run("name=bad", f"data.source={path}")
    assert code == 1
    assert f"prepare data failed: 1 of 2 rows of {path} cannot be used: 1 malformed_json (first: {path}:2)" in output
    assert "data.max_bad_rows" in output
    assert "python -m flows.finetune" in output
    assert "Traceback" not in output
    assert report_of(house, "bad")["failure"]["step"] == "prepare data"
    quarantined = (house.runs_dir / "bad" / "data" / "quarantine.jsonl").read_text()
    assert json.loads(quarantined)["line"] == 2


@pytest.fixture
def own_rows(tmp_path: Path) -> Path:
    """200 prompt/completion rows of somebody's own."""
    rows = [{"prompt": f"Who sits at desk {n}?", "completion": f"Person {n % 7}."} for n in range(200)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_own_rows_are_fine_tuned_on(house: House, own_rows: Path) -> None:
    """`data.source=rows.jsonl train.max_steps=20` is enough, and each row is accounted for."""
    code, output = house.run("name=own", f"data.source={own_rows}", "train.max_steps=20")
    assert code == 0, output
    ledger = files.read_json(house.runs_dir / "own" / "data" / "ledger.json")
    assert ledger["sources"][0]["kept"] == 200
    assert sum(ledger["splits"].values()) == 200


def test_the_same_from_a_yaml_file(house: House, own_rows: Path, tmp_path: Path) -> None:
    """A file says what the words say."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: from-file\ndata:\n  source: {own_rows}\ntrain:\n  max_steps: 20\n")
    code, output = house.run(str(path))
    assert code == 0, output
    assert report_of(house, "from-file")["train"]["steps"] == 20


def test_a_model_and_a_dataset_from_the_hub(house: House, own_rows: Path, tmp_path: Path) -> None:
    """Both are pinned to the commits that there were, fetched, trained on, and named in the card."""
    (tmp_path / "model").mkdir()
    tiny.build(tmp_path / "model")
    with hub() as server:
        commit = server.add("model", "tester/tiny", tmp_path / "model")
        rows = server.add("dataset", "tester/rows", {"train.jsonl": own_rows.read_bytes()})
        found = {name: value for name, value in house.environment.items() if name.startswith("PREFECT_")}
        there = house._replace(environment={**server.environment(tmp_path / "home"), **found})
        words = ("name=hub", "model.name=tester/tiny", "data.source=tester/rows", "train.max_steps=4")
        code, output = there.run(*words)
    assert code == 0, output
    plan = files.read_json(house.runs_dir / "hub" / "run.json")["plan"]
    assert plan["model"]["revision"] == commit
    assert plan["sources"][0]["revision"] == rows
    card = (house.runs_dir / "hub" / "model" / "README.md").read_text()
    assert "base_model: tester/tiny" in card
    assert "- tester/rows" in card
