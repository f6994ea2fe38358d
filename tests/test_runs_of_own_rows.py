"""Runs on what people have: rows that are wrong, rows that are right, a model and a dataset on the Hub."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import resolved
from house import ROOT, House, opened, report_of, task_states
from hub import hub

from smollm3_ft import files, runs
from smollm3_ft.builtin import tiny

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened(tmp_path_factory.mktemp("own")) as found:
        yield found


@pytest.fixture(scope="module")
def bad(house: House) -> tuple[int, str, Path]:
    """The exit code and output of a run of which every second row is bad, and the file that it read."""
    path = house.runs_dir.parent / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"\n')
    return (*house.run("name=bad", f"data.source={path}"), path)


def test_bad_rows_end_the_run_with_step_cause_and_command(house: House, bad: tuple[int, str, Path]) -> None:
    """Exit code 1; the last lines name the step, the file and line, what to do, and how to go on."""
    code, output, path = bad
    assert code == 1
    assert f"prepare data failed: 1 of 2 rows of {path} cannot be used: 1 malformed_json (first: {path}:2)" in output
    assert "data.max_bad_rows" in output
    assert "python -m flows.finetune" in output
    assert "Traceback" not in output
    assert report_of(house, "bad")["failure"]["step"] == "prepare data"
    quarantined = (house.runs_dir / "bad" / "data" / "quarantine.jsonl").read_text()
    assert json.loads(quarantined)["line"] == 2


def test_the_printed_retry_does_again_what_failed_and_nothing_before_it(
    house: House, bad: tuple[int, str, Path]
) -> None:
    """Prefect's own command, as it is printed: the same flow run, and here it fails as before.

    Rows that changed meanwhile are not taken for what they were.
    """
    (printed,) = (line for line in bad[1].splitlines() if line.startswith("Retry:"))
    words = printed.removeprefix("Retry:")
    done = subprocess.run(words, shell=True, cwd=ROOT, env=house.environment, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert len(task_states(house, "bad")) == 1
    states = {step["name"]: step["state"] for step in report_of(house, "bad")["steps"]}
    assert [states[name] for name in ("resolve configuration", "plan", "prepare data")] == [
        "Cached",
        "Cached",
        "Failed",
    ]
    bad[2].write_text('{"prompt": "a", "completion": "b"}\n')
    subprocess.run(words, shell=True, cwd=ROOT, env=house.environment, capture_output=True, check=False)
    assert "changed since run bad began; go on with --accept-changes" in report_of(house, "bad")["failure"]["cause"]


@pytest.fixture
def own_rows(tmp_path: Path) -> Path:
    """200 prompt/completion rows of somebody's own."""
    rows = [{"prompt": f"Who sits at desk {n}?", "completion": f"Person {n % 7}."} for n in range(200)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_own_rows_are_fine_tuned_on(house: House, own_rows: Path, tmp_path: Path) -> None:
    """A file, or `data.source=rows.jsonl train.max_steps=20`, is enough and the same; each row is accounted for."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: own\ndata:\n  source: {own_rows}\ntrain:\n  max_steps: 20\n")
    code, output = house.run(str(path))
    assert code == 0, output
    words = ("name=own", f"data.source={own_rows}", "train.max_steps=20")
    assert report_of(house, "own")["train"]["steps"] == 20
    runs.check_same(runs.read(house.runs_dir / "own"), resolved(*words, f"runs_dir={house.runs_dir}"))
    ledger = files.read_json(house.runs_dir / "own" / "data" / "ledger.json")
    assert ledger["sources"][0]["kept"] == 200
    assert sum(ledger["splits"].values()) == 200


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
