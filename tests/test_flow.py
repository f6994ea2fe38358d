"""The whole flow on the demo, once, against a real Prefect server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import build
from house import FILES, REUSED, House, opened, report_of, task_states
from hub import Hub, hub
from hub_spaces import TRACKIO, routes

from smollm3_ft import files

pytestmark = pytest.mark.process

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


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened(tmp_path_factory.mktemp("demo")) as found:
        yield found


@pytest.fixture(scope="module")
def demo(house: House) -> tuple[int, str]:
    """The demo, as `make run` does it, on this module's server."""
    return house.run("demo", "name=demo")


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
    assert hidden <= {".prepared", ".evaluated", ".models", ".trackio", ".locks", ".old", ".sources.json"}


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


ANSWER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
place = sys.argv[1]
tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place)
turns = [{"role": "user", "content": "What is the capital of France?"}]
inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=16)
print(json.dumps(tokenizer.decode(output[0][inputs["input_ids"].shape[1]:], skip_special_tokens=True)))
"""


def test_the_model_loads_and_answers(house: House, demo: tuple[int, str]) -> None:
    """The published folder is enough for transformers to give the right answer."""
    command = [sys.executable, "-c", ANSWER, str(house.runs_dir / "demo" / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == "Paris"


def test_the_same_command_again_reuses_everything(house: House, demo: tuple[int, str]) -> None:
    """Exit code 0, the steps that cost something are Cached, and the report stays as it was."""
    before = (house.runs_dir / "demo" / "report.json").read_bytes()
    code, output = house.run("demo", "name=demo")
    assert code == 0, output
    states = task_states(house, "demo")[-1]
    assert {name: states[name] for name in REUSED} == dict.fromkeys(REUSED, "Cached")
    assert (house.runs_dir / "demo" / "report.json").read_bytes() == before


OF_SPACES = {"HF_READ_TOKEN": "hf_read", "TRACKIO_WRITE_TOKEN": "a-word-to-write"}
BESIDE = ("publish.demo_space=chat", "monitor.dataset=tester/experiments", "monitor.trackio=tester/curves")


@pytest.fixture(scope="module")
def on_the_hub(house: House, demo: tuple[int, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The finished demo, asked for again with the Hub as its target, and all that can be there beside it."""
    with build(tmp_path_factory.mktemp("space")) as builder, hub() as server:
        builder.hub, hosts = server, {"tester/chat": builder.host, "tester/curves": server.url}
        spaces = routes(hosts, lambda repo: builder.stage(repo) if repo.name == "tester/chat" else "RUNNING")
        server.routes = {**TRACKIO, **spaces, **server.routes}
        told = server.environment(tmp_path_factory.mktemp("home"))
        found = {name: value for name, value in told.items() if name.startswith(("HF_", "NO_PROXY", "no_proxy"))}
        with_hub = house._replace(environment={**house.environment, **found, **OF_SPACES})
        code, output = with_hub.run("demo", "name=demo", "publish.target=hub", *BESIDE)
        assert code == 0, output
        yield server


def test_a_repository_on_the_hub_answers_as_the_model_here(on_the_hub: Hub, tmp_path: Path) -> None:
    """`from_pretrained` of its name, on a machine that has nothing but that."""
    assert on_the_hub.ask(ANSWER, tmp_path / "home", "tester/demo") == "Paris"


def test_what_is_on_the_hub_is_reported(house: House, on_the_hub: Hub) -> None:
    """A private repository, in one commit that has the run's tag; verified, with the same answers."""
    repo, published = on_the_hub.repos["model", "tester/demo"], report_of(house, "demo")["published"]
    assert repo.private
    assert len(repo.history(repo.head)) == 2
    assert repo.refs["refs/tags/demo"] == repo.head.sha == published["commit"]
    assert (published["repo"], published["verified"], published["answers_compared"]) == ("tester/demo", True, True)
    assert report_of(house, "demo")["links"]["model page"].endswith("/tester/demo")
    assert not (house.runs_dir / "demo" / ".verifying").exists()


def test_what_lies_beside_a_repository_is_private_and_has_its_own_secrets(house: House, on_the_hub: Hub) -> None:
    """The experiment dataset has the run, the demo Space answered, and neither Space has the user's own token."""
    kinds = {"tester/experiments": "dataset", "tester/curves": "space", "tester/chat": "space"}
    repos = {name: on_the_hub.repos[kind, name] for name, kind in kinds.items()}
    assert all(repo.private for repo in repos.values())
    assert any("demo" in path for path in repos["tester/experiments"].head.files)
    assert repos["tester/chat"].created["secrets"] == {"HF_TOKEN": "hf_read"}
    assert repos["tester/curves"].created["secrets"] == {"TRACKIO_WRITE_TOKEN": "a-word-to-write"}
    record = files.read_json(house.runs_dir / "demo" / "published.json")
    assert record["demo_space"] == {
        "space": "tester/chat",
        "url": f"{on_the_hub.url}/spaces/tester/chat",
        "tried": True,
    }


def test_what_a_gate_is_against_goes_there_with_a_reason(house: House, on_the_hub: Hub, tmp_path: Path) -> None:
    """Which the record, the report and the card state; the run stays one that its gate was against."""
    folder = house.runs_dir / "demo"
    evaluation = files.read_json(folder / "evaluation.json")
    files.write_json(folder / "evaluation.json", {**evaluation, "gate": {"state": "failed", "why": "it is too small"}})
    files.write_json(folder / "report.json", {**report_of(house, "demo"), "status": "blocked"})
    told = on_the_hub.environment(tmp_path / "home")
    with_hub = house._replace(environment={**told, **house.environment, "HF_ENDPOINT": on_the_hub.url})
    words = ("demo", "publish.target=hub", "publish.repo=blocked", "publish.demo_space=none")
    reason = ("--despite-gate", "a colleague needs it")
    code, output = with_hub.run(*words, *reason, program=("-c", "from flows.cli import main; main()", "publish"))
    assert code == 0, output
    published = report_of(house, "demo")["published"]
    assert (published["verified"], published["despite_gate"]) == (True, "a colleague needs it")
    assert report_of(house, "demo")["status"] == "blocked"
    assert b"a colleague needs it" in on_the_hub.repos["model", "tester/blocked"].head.files["README.md"].content
