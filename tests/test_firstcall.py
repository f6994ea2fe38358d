"""What would make a run another one now and then is done by one thread first."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MakePlan, facts

from smollm3_ft import evaluation, firstcall, trainers
from smollm3_ft.fit import TrainingPlan


@pytest.fixture(scope="module")
def plan(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    return make_plan(tmp_path_factory.mktemp("first") / "runs", "a", facts(30))


@pytest.mark.parametrize(
    "load", [trainers.load_model, lambda plan: evaluation.load(Path(plan.weights), "float32", "cpu")]
)
def test_vector_functions_are_first_called_by_one_thread(
    plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch, load: Callable[[TrainingPlan], object]
) -> None:
    """By that call MKL chooses their code; two threads at once would now and then choose differently."""
    sizes: list[int] = []

    def seen(values: torch.Tensor) -> None:
        sizes.append(values.numel())

    monkeypatch.setattr(firstcall, "VECTOR_FUNCTIONS", [seen])
    load(plan)
    assert sizes == [1]
