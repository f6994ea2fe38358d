"""The card tells the truth of a run, and nothing of this machine."""

from pathlib import Path

import pytest
import yaml
from conftest import MakePlan
from trained import finished

from smollm3_ft import modelfolder
from smollm3_ft.fit import TrainingPlan


@pytest.fixture
def plan(make_plan: MakePlan, tiny: Path, tmp_path: Path) -> TrainingPlan:
    return finished(make_plan, tiny, tmp_path / "runs")


def card(plan: TrainingPlan, repo: str | None = None, despite_gate: str | None = None) -> str:
    return (modelfolder.complete(plan, repo, despite_gate) / "README.md").read_text()


def head(text: str) -> dict[str, object]:
    values: dict[str, object] = yaml.safe_load(text.split("---")[1])
    return values


def test_the_card_tells_nothing_of_this_machine(plan: TrainingPlan, tmp_path: Path) -> None:
    """No folder of this machine and no row is in the card."""
    text = card(plan)
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert "a private question" not in text
    assert "| prompt_completion | 20 | 20 | 0 | none |" in text


def test_the_card_has_no_empty_values(plan: TrainingPlan) -> None:
    """What has no value is left out of the card's head: a local base model has no name on the Hub."""
    assert set(head(card(plan))) == {"library_name", "pipeline_tag", "tags", "model-index"}


def test_the_card_names_a_hub_model(plan: TrainingPlan) -> None:
    """A base model from the Hub is named with its commit."""
    model = plan.model.model_copy(update={"kind": "hub", "name": "owner/base", "revision": "c" * 40})
    text = card(plan.model_copy(update={"model": model}))
    assert head(text)["base_model"] == "owner/base"
    assert f"[owner/base](https://huggingface.co/owner/base) at `{'c' * 12}`" in text


def test_the_card_shows_the_evaluation(plan: TrainingPlan) -> None:
    """Every metric stands with its intervals."""
    assert "| exact match | 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] |" in card(plan)
