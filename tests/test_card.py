"""The card tells the truth of a run, and nothing of this machine."""

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import MakePlan, facts

from smollm3_ft import card, files, fit, records
from smollm3_ft.fit import TrainingPlan

INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.75}


@pytest.fixture
def plan(make_plan: MakePlan, tiny: Path, tmp_path: Path) -> TrainingPlan:
    """A run as training and evaluation leave it, with the base model as the trained one."""
    made = make_plan(tmp_path / "runs", "a", facts(20))
    folder = Path(made.folder)
    shutil.copytree(tiny, folder / "model", ignore=shutil.ignore_patterns("record.json"))
    done = {"steps": 20, "tokens": 1000, "supervised_tokens": 300}
    records.write(folder / fit.TRAINED, fit.mark(made), done, folder / "model")
    sides = {side: {"loss": INTERVAL, "exact_match": INTERVAL} for side in ("base", "tuned", "difference")}
    samples = [{"prompt": "a private question", "reference": "r", "base": "b", "tuned": "t"}]
    files.write_json(folder / "evaluation.json", {**sides, "rows": 3, "samples": samples})
    return made


def head(text: str) -> dict[str, object]:
    values: dict[str, object] = yaml.safe_load(text.split("---")[1])
    return values


def test_the_card_tells_nothing_of_this_machine(plan: TrainingPlan, tmp_path: Path) -> None:
    """No folder of this machine and no row is in the card."""
    text = card.render(plan)
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert "a private question" not in text
    assert "| a.jsonl | prompt_completion | 20 | 20 | none |" in text


def test_the_card_has_no_empty_values(plan: TrainingPlan) -> None:
    """What has no value is left out of the card's head: a local base model has no name on the Hub."""
    assert head(card.render(plan)) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["smollm3-ft", "sft"],
    }


def test_the_card_names_a_hub_model(plan: TrainingPlan) -> None:
    """A base model from the Hub is named with its commit."""
    model = plan.model.model_copy(update={"kind": "hub", "name": "owner/base", "revision": "c" * 40})
    text = card.render(plan.model_copy(update={"model": model}))
    assert head(text)["base_model"] == "owner/base"
    assert f"owner/base at `{'c' * 40}`" in text


def test_the_card_shows_the_evaluation(plan: TrainingPlan) -> None:
    """Every metric stands with its intervals."""
    assert "| exact match | 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] |" in card.render(plan)
