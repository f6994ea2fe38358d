"""What is published is recorded file by file, and its card tells nothing of this machine."""

from pathlib import Path
from typing import Any

import pytest
from conftest import MakePlan
from trained import finished

from smollm3_ft import devices, files, fit, pages, publishing, runs
from smollm3_ft.fit import TrainingPlan


@pytest.fixture
def plan(make_plan: MakePlan, tiny: Path, tmp_path: Path) -> TrainingPlan:
    return finished(make_plan, tiny, tmp_path / "runs")


def publish(plan: TrainingPlan) -> dict[str, Any]:
    return publishing.publish(runs.read(Path(plan.folder)), plan)


def test_every_file_is_recorded(plan: TrainingPlan) -> None:
    """The record lists every file of the model with its hash, the card too, and claims nothing yet."""
    record = publish(plan)
    folder = Path(plan.folder) / "model"
    assert record["files"] == {path.name: files.sha256(path) for path in folder.iterdir()}
    assert "README.md" in record["files"]
    assert record["verified"] is False
    assert publishing.published(runs.read(Path(plan.folder))) == {"schema_version": 1, **record}


@pytest.mark.parametrize("name", ["model.safetensors", "README.md"])
def test_an_altered_file_is_found(plan: TrainingPlan, name: str) -> None:
    """A published file that is not as it was published is named, and what was published does not count."""
    record = publish(plan)
    path = Path(plan.folder) / "model" / name
    with path.open("ab") as file:
        file.write(b"x")
    assert publishing.altered(Path(plan.folder), record) == [str(path)]
    assert publishing.published(runs.read(Path(plan.folder))) is None


def test_a_missing_file_is_found(plan: TrainingPlan) -> None:
    """A published file that is gone is named."""
    record = publish(plan)
    path = Path(plan.folder) / "model" / "tokenizer.json"
    path.unlink()
    assert publishing.altered(Path(plan.folder), record) == [str(path)]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"files": []}'])
def test_nothing_was_published(plan: TrainingPlan, content: str | None) -> None:
    """Without a record that can be read, nothing counts as published."""
    if content is not None:
        (Path(plan.folder) / publishing.PUBLISHED).write_text(content)
    assert publishing.published(runs.read(Path(plan.folder))) is None


def test_verified(plan: TrainingPlan) -> None:
    """The mark that a model was verified, on its own device, is kept beside what was published."""
    run = runs.read(Path(plan.folder))
    fit.write(run.path / "plan.json", plan.model_copy(update={"device_name": devices.detect().name}))
    publishing.verified(run, publish(plan))
    kept = files.read_json(run.path / publishing.PUBLISHED)
    assert kept["verified"] is True
    assert kept["schema_version"] == 1
    assert kept["answers_compared"] is True


def test_on_another_device_answers_are_not_compared(plan: TrainingPlan) -> None:
    """The record says so: their sums round otherwise, on another one of the same kind too."""
    fit.write(Path(plan.folder) / "plan.json", plan.model_copy(update={"device_name": "1000 CPU cores"}))
    record = publishing.verified(runs.read(Path(plan.folder)), publish(plan))
    assert (record["verified"], record["answers_compared"]) == (True, False)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"verified": True, "answers_compared": True}, ", verified: it loads and answers as trained."),
        ({"verified": True, "answers_compared": False}, "so answers were not compared."),
        ({"verified": True}, ", verified."),
        ({"verified": False, "answers_compared": False}, ", not verified."),
    ],
)
def test_a_report_claims_what_was_compared(known: dict[str, bool], said: str) -> None:
    """A record of a former version does not say whether answers were compared; nothing is claimed of them."""
    template = pages.templates(escaped=False).get_template("published.txt")
    assert template.render(report={"published": {"target": "local", **known}}).endswith(said)
