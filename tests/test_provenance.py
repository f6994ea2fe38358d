"""The rows of a step can be said from what a run left."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import MakePlan, documents, facts
from typer.testing import CliRunner

from flows import cli
from smollm3_ft import order, provenance, runs
from smollm3_ft.errors import ConfigError
from smollm3_ft.fit import TrainingPlan


@pytest.fixture
def plan(make_plan: MakePlan, tmp_path: Path) -> TrainingPlan:
    given = {"train__batch_size": 2, "train__effective_batch_size": 4, "train__epochs": 2, "train__warmup_steps": 0}
    return make_plan(tmp_path / "runs", "mine", facts(60), **given)


def test_a_step_is_its_sequences(plan: TrainingPlan) -> None:
    """The sequences are those of the order, and each document has its line, its tokens and its trained tokens."""
    second_epoch = plan.settings.steps // 2 + 1
    made_of = provenance.step(Path(plan.folder), second_epoch)
    said = order.sequences_of_step(plan.config.seed, second_epoch, plan.prepared.sequences, 4)
    assert made_of["epoch"] == 2
    assert [sequence["sequence"] for sequence in made_of["sequences"]] == said.tolist()
    by_line = {document.line: document for document in documents(plan.prepared)}
    for sequence in made_of["sequences"]:
        assert sequence["tokens"] == sum(document["tokens"] for document in sequence["documents"])
        for document in sequence["documents"]:
            known = by_line[document["line"]]
            assert (document["tokens"], document["supervised_tokens"]) == (len(known.ids), sum(known.mask))
            assert f"What is number {document['line'] - 1}?" in document["text"]


def test_an_epoch_is_every_row(plan: TrainingPlan) -> None:
    """The steps of an epoch hold every training row once."""
    steps = range(1, plan.settings.steps // 2 + 1)
    made_of = [provenance.step(Path(plan.folder), step)["sequences"] for step in steps]
    lines = [document["line"] for step in made_of for sequence in step for document in sequence["documents"]]
    assert sorted(lines) == sorted(document.line for document in documents(plan.prepared))


def test_the_text_is_near_the_answer(make_plan: MakePlan, tmp_path: Path) -> None:
    """A long prompt that all rows share does not hide what a row says."""
    rows = [{"system": "Be kind. " * 30, **row} for row in facts(30)]
    plan = make_plan(tmp_path / "runs", "long", rows, train__warmup_steps=0, data__max_length=512)
    for sequence in provenance.step(Path(plan.folder), 1)["sequences"]:
        for document in sequence["documents"]:
            assert document["text"].startswith("… ")
            assert f"What is number {document['line'] - 1}?" in document["text"]


@pytest.mark.parametrize("step", [0, -1, 1000])
def test_a_step_out_of_range(plan: TrainingPlan, step: int) -> None:
    """It is answered with the range."""
    with pytest.raises(ConfigError, match=rf"there is no step {step}: mine has steps 1 to {plan.settings.steps}"):
        provenance.step(Path(plan.folder), step)


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    """It is said so, and how to list those that are."""
    with pytest.raises(ConfigError, match=r"nowhere is not there; `smollm3-ft runs` lists the runs"):
        provenance.step(tmp_path / "nowhere", 1)


def test_a_run_without_a_plan(plan: TrainingPlan) -> None:
    """A run that was not trained yet is told from one that is not there."""
    (Path(plan.folder) / "plan.json").unlink()
    with pytest.raises(ConfigError, match="mine has not come as far as training"):
        provenance.step(Path(plan.folder), 1)


def test_prepared_data_that_is_gone(plan: TrainingPlan) -> None:
    """It is said what is gone."""
    shutil.rmtree(plan.prepared.folder)
    with pytest.raises(ConfigError, match="the prepared data of mine is gone"):
        provenance.step(Path(plan.folder), 1)


def test_a_run_is_found_by_name_or_folder(plan: TrainingPlan) -> None:
    """A command takes either."""
    folder = Path(plan.folder)
    assert runs.find("mine", folder.parent) == folder
    assert runs.find(str(folder), Path("/elsewhere")) == folder
    assert runs.find("other", folder.parent) == folder.parent / "other"


def test_the_command_as_json(plan: TrainingPlan) -> None:
    """`rows RUN --step N --json` prints one object."""
    done = CliRunner().invoke(cli.app, ["rows", plan.folder, "--step", "3", "--json"])
    assert json.loads(done.stdout) == {"schema_version": 1, **provenance.step(Path(plan.folder), 3)}


def test_the_command(plan: TrainingPlan) -> None:
    """`rows RUN --step N` names each document's file and line, and the beginning of its text."""
    words = ["rows", "mine", f"runs_dir={Path(plan.folder).parent}", "--step", "1"]
    done = CliRunner().invoke(cli.app, words, env={"COLUMNS": "120"})
    for sequence in provenance.step(Path(plan.folder), 1)["sequences"]:
        for document in sequence["documents"]:
            assert f"mine.jsonl:{document['line']} " in done.stdout
            assert document["text"][:20] in done.stdout


def test_the_rows_of_a_step_need_no_torch(plan: TrainingPlan) -> None:
    """Neither the module nor the command imports a library that touches models."""
    import subprocess

    script = "import sys; from flows import rows; from smollm3_ft import provenance; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
